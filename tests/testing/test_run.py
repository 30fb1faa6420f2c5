"""`run_saga`: one run, for unit tests of one saga."""

from __future__ import annotations

import asyncio

import pytest

from standfast import ConfigurationError, Context, Refused, Saga, Transaction, sleep, step
from standfast.backends.memory import MemoryDatabase
from standfast.errors import ResultUnavailable
from standfast.ports.leases import LeaseStore
from standfast.testing import Faults, InvariantViolated, Ledger, run_saga, simulate
from tests.testing.shop import Order, PlaceOrder
from tests.testing.trip import SCHEMA, Approval, BookTrip, Trip, trip


def test_all_goes_well():
    run = run_saga(PlaceOrder(), Order())
    assert (run.status, run.cause) == ("completed", "")
    assert run.trace == ["reserve", "charge", "ship", "notify"]
    assert run[PlaceOrder.ship] == run["ship"] == "courier-1"
    with pytest.raises(ResultUnavailable, match=r"'shipp' has no result: .* of reserve, charge"):
        run["shipp"]
    assert run.results["notify"] == "courier-1 is on its way"
    assert run.calls[0].key == run.calls[0].instance + ":reserve"
    assert "stored: charge completed" in run.story


def test_a_refusal_undoes_what_was_done():
    saga = PlaceOrder()
    run = run_saga(saga, Order(), raises={"charge": Refused("no funds")})
    assert run.status == "compensated"
    assert run.cause == "charge refused: no funds"
    assert run.trace == ["reserve", "charge refused", "undo reserve"]
    assert saga.stock.total == saga.payments.total == 0
    with pytest.raises(ResultUnavailable, match="compensated"):
        _ = run[PlaceOrder.ship]


class Leased(Saga[int]):
    """Its step looks at a port of the database."""

    @step(transactional=True, no_compensation="nothing to undo")
    async def look(self, number: int, ctx: Context, tx: Transaction) -> str:
        leases = tx.database.port(LeaseStore)
        script = leases.holding(1)
        script.close()
        return leases.table


def test_a_ports_scripts_and_names_are_what_they_are():
    run = run_saga(Leased(), 1, schema=SCHEMA)
    assert run[Leased.look] == MemoryDatabase().port(LeaseStore).table


def test_the_fake_itself_may_refuse():
    run = run_saga(PlaceOrder(stock=Ledger("stock", limit=1)), Order(quantity=2))
    assert run.cause == "reserve refused: stock: 2 asked, 1 left"
    assert run.trace == ["reserve refused"]


def test_failures_are_retried_in_virtual_time():
    run = run_saga(PlaceOrder(), Order(), raises={"charge": [OSError("1"), OSError("2")]})
    assert run.status == "completed"
    assert run.trace == ["reserve", *["charge failed"] * 2, "charge", "ship", "notify"]
    assert 0 < run.time < 60


def test_an_error_each_time_exhausts_the_retries_and_what_is_parked_stays_so():
    run = run_saga(PlaceOrder(), Order(), raises={"ship": ConnectionError})
    assert run.status == "parked"
    assert run.trace.count("ship failed") == 30


def test_an_undo_that_fails_each_time():
    told = {"charge": Refused("no"), "undo reserve": ConnectionError}
    run = run_saga(PlaceOrder(), Order(), raises=told)
    assert run.status == "compensation_failed"


def test_signals_children_items_and_tables():
    signals = {"approved": Approval("ann")}
    run = run_saga(trip(), Trip(), signals=signals, schema=SCHEMA)
    assert run.status == "completed"
    assert run[BookTrip.pay] == 1
    assert run[BookTrip.thank] == "ann: 3 hotels"
    assert "insurance/insure" in run.trace
    told = {"hotel[1]": Refused("full"), "insurance/quote": Refused("never called")}
    run = run_saga(trip(), Trip(), signals=signals, schema=SCHEMA, raises=told)
    assert run.cause == "hotel[1] refused: full"
    assert set(run.trace) >= {"undo hotel[0]", "hotel[1] refused"}
    run = run_saga(trip(), Trip(), schema=SCHEMA)
    assert run.cause == "approved: no signal 'approved' within 1h"
    assert 3600 <= run.time < 3700


def test_wrong_names_are_told():
    with pytest.raises(ConfigurationError, match="raises='chrage': give one of charge, notify"):
        run_saga(PlaceOrder(), Order(), raises={"chrage": Refused("x")})
    with pytest.raises(ConfigurationError, match="it waits for none"):
        run_saga(PlaceOrder(), Order(), signals={"approved": 1})


class Slow(Saga[str]):
    nap = sleep("1s")

    @step(no_compensation="nothing to undo", after=nap)
    async def note(self, word: str, ctx: Context) -> None: ...


@pytest.mark.parametrize("name", ["nap", "undo nap", "undo note"])
def test_what_is_never_called_cant_be_told_to_raise(name):
    with pytest.raises(ConfigurationError, match=f"raises='{name}': give one of note$"):
        run_saga(Slow(), "x", raises={name: OSError("no")})


class Picky(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)


@pytest.mark.parametrize("given", ["boom", ["boom"], 5, None, str, (1,), Picky, [Picky]])
def test_only_exceptions_can_be_raised(given):
    with pytest.raises(ConfigurationError, match=r"^raises=\{'charge': …\} has .*: give an "):
        run_saga(PlaceOrder(), Order(), raises={"charge": given})


def test_a_list_may_have_classes():
    run = run_saga(PlaceOrder(), Order(), raises={"charge": [OSError, OSError("2")]})
    assert run.trace[:4] == ["reserve", "charge failed", "charge failed", "charge"]


def test_what_may_never_be_is_a_violation_here_too():
    with pytest.raises(InvariantViolated, match="took effect 2 times"):
        run_saga(Twice(Ledger("payments", barrier=False)), Order())


class Twice(PlaceOrder):
    """It charges a second time for each charge."""

    def __init__(self, payments: Ledger) -> None:
        super().__init__(payments=payments)
        post = payments.post

        async def post_twice(branch, amount=1):
            await post(branch, amount)
            return await post(branch, amount)

        payments.post = post_twice  # type: ignore[method-assign]


class Reads(Saga[str]):
    @step
    async def pack(self, order: str, ctx: Context) -> str:
        return order

    @pack.compensation
    async def unpack(self, order: str, ctx: Context) -> None:
        asked(ctx, ctx.has_result, order)

    @step(no_compensation="none")
    async def send(self, order: str, ctx: Context) -> str:
        if order == "undo":
            raise Refused("no")
        return asked(ctx, ctx.result, order)


def asked(ctx, ask, order):
    """In a function of its own, whose source nobody reads when the saga is added."""
    return ask("pack" if order != "undo itself" else Reads.unpack)


def test_a_step_given_by_name_is_told_and_not_tried_again():
    for order, remedy in (("name", "ctx.result(self.pack)"), ("undo itself", "give the step")):
        run = run_saga(Reads(), order)
        assert remedy in run.cause
        assert run.trace[:2] == ["pack", "send failed"]
    run = run_saga(Reads(), "undo")
    assert run.status == "compensation_failed"
    assert "ctx.has_result('pack'): give the step itself" in run.cause
    assert run.trace == ["pack", "send refused", "undo pack failed"]


def test_what_is_no_step_has_no_result():
    run = run_saga(PlaceOrder(), Order())
    for wrong in (0, PlaceOrder, PlaceOrder.release):
        with pytest.raises(
            ConfigurationError, match=r"is no step: give one, as in PlaceOrder.ship"
        ):
            run[wrong]


class Gift(Saga[str]):
    @step(when=lambda self, order, ctx: False)
    async def wrap(self, order: str, ctx: Context) -> str:
        return order

    @wrap.compensation
    async def unwrap(self, order: str, ctx: Context) -> None: ...

    @step
    async def pack(self, order: str, ctx: Context) -> str:
        return order

    @pack.compensation
    async def unpack(self, order: str, ctx: Context) -> None:
        without(ctx, order)

    @step(no_compensation="none")
    async def send(self, order: str, ctx: Context) -> str:
        if order.startswith("undo"):
            raise Refused("no")
        return without(ctx, order)


def without(ctx, order):
    """In a function of its own, whose source nobody reads when the saga is added."""
    try:
        return ctx.result(PlaceOrder.ship if order.endswith("strange") else Gift.wrap)
    except ResultUnavailable:
        if order == "caught":
            return "no gift"
        raise


@pytest.mark.parametrize("order", ["skipped", "strange"])
def test_a_result_that_can_never_come_is_not_asked_for_again(order):
    run = run_saga(Gift(), order)
    assert run.trace == ["pack", "send failed", "undo pack failed"]
    assert "has no result: it is" in run.cause
    assert "ask ctx.has_result(step) first" in run.cause
    run = run_saga(Gift(), f"undo {order}")
    assert run.trace == ["pack", "send refused", "undo pack failed"]
    assert "an undo can go by ctx.branch_key alone" in run.cause
    assert run_saga(Gift(), "caught")[Gift.send] == "no gift"


class Beside(Saga[str]):
    @step(after=[], no_compensation="none")
    async def fetch(self, order: str, ctx: Context) -> str:
        await asyncio.sleep(1)
        return order

    @step(after=[], no_compensation="none")
    async def look(self, order: str, ctx: Context) -> str:
        return read(ctx)


def read(ctx):
    """As `without`: the source would tell that it isn't done before."""
    return ctx.result(Beside.fetch)


def test_a_result_that_may_still_come_is_asked_for_again():
    run = run_saga(Beside(), "x")
    assert run[Beside.look] == "x"
    assert "look failed" in run.trace


def test_a_run_tells_what_has_a_result_and_is_not_iterated_over():
    run = run_saga(Gift(), "caught")
    assert "pack" in run
    assert Gift.pack in run
    assert Gift.wrap not in run
    assert "shipp" not in run
    with pytest.raises(TypeError, match=r"write run\.results"):
        list(run)


def test_a_step_given_for_a_name_is_told():
    with pytest.raises(ConfigurationError, match=r"raises=<step charge>: give one of .*charge"):
        run_saga(PlaceOrder(), Order(), raises={PlaceOrder.charge: Refused("no")})
    with pytest.raises(ConfigurationError, match=r"signals=.*step.*: it waits for"):
        run_saga(PlaceOrder(), Order(), signals={PlaceOrder.charge: 1, "ok": 2})


@pytest.mark.parametrize("saga", [PlaceOrder, [PlaceOrder], [], "place-order", None])
def test_what_is_no_saga_is_told_with_the_function_that_was_called(saga):
    with pytest.raises(ConfigurationError) as refused:
        run_saga(saga, Order())
    assert str(refused.value).startswith(f"run_saga({saga!r}): give an instance of a Saga subclass")


async def test_inside_an_event_loop_it_names_itself():
    with pytest.raises(ConfigurationError, match=r"^run_saga has an event loop of its own"):
        run_saga(PlaceOrder(), Order())


class Writes(Saga[int]):
    @step(transactional=True, no_compensation="none")
    async def write(self, number: int, ctx: Context, tx: Transaction) -> int:
        return await tx.execute("INSERT INTO t VALUES ($1)", number)


def test_sql_without_tables_names_the_function_that_takes_a_schema():
    with pytest.raises(ConfigurationError, match=r"without tables: give run_saga\(schema='CREATE"):
        run_saga(Writes(), 1)
    with pytest.raises(ConfigurationError, match=r"without tables: give simulate\(schema='CREATE"):
        simulate(Writes, 1, seeds=1, faults=Faults.none())
