"""`run_saga`: one run, for unit tests of one saga."""

from __future__ import annotations

import pytest

from standfast import ConfigurationError, Context, Refused, Saga, Transaction, step
from standfast.backends.memory import MemoryDatabase
from standfast.errors import ResultUnavailable
from standfast.ports.leases import LeaseStore
from standfast.testing import InvariantViolated, Ledger, run_saga
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
