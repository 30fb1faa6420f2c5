"""What steps meet in the test kit is what they meet in production."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest

from standfast import (
    Context,
    Saga,
    StoreError,
    Transaction,
    barrier,
    child,
    step,
    wait,
)
from standfast.errors import ConstraintViolated
from standfast.testing import InvariantViolated, Ledger, World, run_saga, simulate

# -- waits under a condition ---------------------------------------------------------------------


class Approve(Saga[int]):
    """It waits for an approval of what costs much."""

    @step(no_compensation="nothing to undo")
    async def price(self, amount: int, ctx: Context) -> int:
        return amount

    approved = wait("approved", type=str, when=lambda self, amount, ctx: amount > 10, timeout="1d")

    @step(no_compensation="nothing to undo")
    async def thank(self, amount: int, ctx: Context) -> str:
        return ctx.result(self.approved) if ctx.has_result(self.approved) else "nobody"


class WaitsForEver(Approve):
    approved = wait(
        "approved", type=str, when=lambda self, amount, ctx: ctx.result(self.price) > 10
    )


class Orders(Saga[int]):
    approval = child(Approve, lambda self, amount, ctx: amount)


@pytest.mark.parametrize("saga", [Approve, WaitsForEver])
def test_a_wait_under_a_condition_is_sent_its_signal(saga):
    run = run_saga(saga(), 50, signals={"approved": "ann"})
    assert (run.status, run[saga.thank]) == ("completed", "ann")
    assert run.time < 10, "soon after it is waited for"
    run = run_saga(saga(), 5, signals={"approved": "ann"})
    assert (run.status, run[saga.thank]) == ("completed", "nobody")
    assert "signal" not in run.story


def test_so_is_one_of_a_child_and_none_comes_that_is_not_given():
    sagas = [Orders(), Approve()]
    assert run_saga(sagas, 50, signals={"approved": "ann"}).status == "completed"
    run = run_saga(sagas, 50)
    assert "no signal 'approved' within 1d" in run.cause
    assert run_saga(WaitsForEver(), 50).status == "waiting"


@pytest.mark.slow
@pytest.mark.parametrize("saga", [Approve, WaitsForEver])
def test_in_simulations_it_comes_in_every_mood(saga):
    report = simulate(saga, 50, seeds=150, signals={"approved": "ann"})
    assert report.missed == []
    moods = {how for place, how in report.coverage if place == "signal approved"}
    assert moods == {"in time", "early", "late", "twice", "never"}
    assert report.outcomes["completed"] > 50


# -- the transaction -----------------------------------------------------------------------------


class Parcel(Saga[str]):
    """Waits for its courier, and is tracked."""

    taken = wait("taken", type=str, timeout="1h")

    @step(no_compensation="it is only noted")
    async def track(self, address: str, ctx: Context) -> str:
        return ctx.result(self.taken)


SEVEN = UUID(int=7)


@dataclass(frozen=True)
class Order:
    id: UUID = SEVEN
    cancelled: bool = False


class Ship(Saga[Order]):
    """Starts a parcel, once for each order, with the row that says so."""

    @step(no_compensation="parcels have undos of their own", transactional=True)
    async def send(self, order: Order, ctx: Context, tx: Transaction) -> bool:
        async with barrier(tx, ctx) as gate:
            assert gate.first, "its transaction was rolled back"
        parcel = await tx.start(Parcel, "Oslo", key=f"parcel {order.id}")
        await tx.execute("INSERT INTO parcels (order_id) VALUES ($1)", order.id)
        if order.cancelled:
            await tx.cancel(parcel, "the order was cancelled")
        else:
            await tx.signal(parcel, "taken", "ann")
        return parcel.created

    @step(no_compensation="it is only asked", transactional=True)
    async def again(self, order: Order, ctx: Context, tx: Transaction) -> bool:
        return (await tx.start(Parcel, "Oslo", key=f"parcel {order.id}")).created


PARCELS = "CREATE TABLE parcels (order_id UUID PRIMARY KEY)"


def test_steps_start_signal_and_cancel_sagas_through_their_transaction():
    run = run_saga([Ship(), Parcel()], Order(), schema=PARCELS)
    assert (run.status, run.trace) == ("completed", ["send", "again", "parcel/track"])
    assert (run[Ship.send], run[Ship.again]) == (True, False)
    run = run_saga([Ship(), Parcel()], Order(cancelled=True), schema=PARCELS)
    assert (run.status, run.trace) == ("completed", ["send", "again"])
    assert "parcel/compensation began: cancelled: the order was cancelled" in run.story


def test_what_a_step_started_fails_as_it_is_told_to():
    told = {"parcel/track": ConnectionError("once")}
    run = run_saga([Ship(), Parcel()], Order(), schema=PARCELS, raises=told)
    assert run.trace == ["send", "again", "parcel/track failed", "parcel/track"]


def test_sagas_and_rows_are_there_both_or_neither_whatever_goes_wrong():
    def both_or_neither(world: World) -> None:
        rows = [row["order_id"] for row in world.rows("SELECT order_id FROM parcels")]
        parcels = {call.instance for call in world.calls if call.branch.startswith("parcel/")}
        assert len(parcels) <= 1, "it was started twice"
        assert rows in ([], [world.input.id])
        assert not parcels or rows, "it was started without its row"
        if world.completed:
            assert rows

    report = simulate(
        lambda: [Ship(), Parcel()],
        Order(),
        seeds=150,
        signals={"taken": "ann"},
        always=both_or_neither,
        schema=PARCELS,
    )
    assert report.outcomes["completed"] > 100
    assert report.coverage["send", "crash after its commit"]
    assert any(place == "parcel/track" for place, _ in report.coverage)


def test_a_saga_that_a_step_starts_is_watched_too():
    ledger = Ledger("spoilt", barrier=False)

    class Twice(Parcel):
        name = "twice"

        @step(no_compensation="none", transactional=True)
        async def track(self, address: str, ctx: Context, tx: Transaction) -> str:
            await ledger.post(ctx)
            return await ledger.post(ctx)

    class StartsTwice(Saga[None]):
        @step(no_compensation="none", transactional=True)
        async def send(self, input: None, ctx: Context, tx: Transaction) -> None:
            await tx.signal(await tx.start(Twice, "Oslo", key="k"), "taken", "ann")

    with pytest.raises(InvariantViolated, match="twice/track took effect 2 times"):
        run_saga([StartsTwice(), Twice()])


# -- its rows ------------------------------------------------------------------------------------

TYPES = """
CREATE TABLE payments (
    id UUID PRIMARY KEY, amount NUMERIC(12, 2), paid_on DATE, at TIMESTAMPTZ, opens TIME, note TEXT
);
CREATE TABLE letters (at TEXT, body BLOB, paid_on INTEGER)
"""
OSLO = timezone(timedelta(hours=2))
ROW = (
    UUID(int=1),
    Decimal("19.99"),
    date(2024, 2, 29),
    datetime(2024, 2, 29, 12, 30, tzinfo=OSLO),
    time(9, 30),
    "a note",
)


def in_a_step(work: Callable, schema: str = TYPES):
    """Run `work(tx)` in a transactional step; what it returned."""
    found = []

    class Works(Saga[None]):
        @step(no_compensation="none", transactional=True)
        async def work(self, input: None, ctx: Context, tx: Transaction) -> None:
            found.append(await work(tx))

    run = run_saga(Works(), schema=schema)
    assert run.status == "completed", run.story
    return found[0]


async def insert(tx: Transaction) -> None:
    await tx.execute("INSERT INTO payments VALUES ($1, $2, $3, $4, $5, $6)", *ROW)


def test_touched_rows_are_counted_for_all_statements():
    async def work(tx: Transaction):
        await insert(tx)
        other = "WITH one AS (SELECT $1 AS id) UPDATE payments SET id = id WHERE id = "
        return [
            await tx.execute("UPDATE payments SET id = id RETURNING id"),
            await tx.execute(f"{other} (SELECT id FROM one)", UUID(int=1)),
            await tx.execute(f"{other} (SELECT id FROM one)", UUID(int=2)),
        ]

    assert in_a_step(work) == [1, 1, 0]


def test_values_of_postgresql_are_taken_and_given_back():
    async def work(tx: Transaction):
        await insert(tx)
        row = await tx.fetch_one("SELECT * FROM payments WHERE id = $1", UUID(int=1))
        assert row["at"] == ROW[3]
        assert row["at"].tzinfo is UTC
        amount = await tx.fetch_value("SELECT sum(amount) AS amount FROM payments")
        late = await tx.fetch("SELECT id FROM payments WHERE paid_on > $1", date(2024, 3, 1))
        again = await tx.fetch_value(
            "UPDATE payments SET amount = amount + $1 RETURNING amount", Decimal("0.01")
        )
        return tuple(row), amount, late, again

    row, amount, late, again = in_a_step(work)
    assert row == ROW
    assert list(map(type, row)) == list(map(type, ROW))
    assert (amount, late, again) == (Decimal("19.99"), [], Decimal("20"))
    assert isinstance(amount, Decimal)


def test_text_stays_text_as_on_sqlite():
    async def work(tx: Transaction):
        sql = "INSERT INTO payments (id, paid_on) VALUES ($1, $2)"
        await tx.execute(sql, str(UUID(int=1)), "2024-02-29")
        return tuple(await tx.fetch_one("SELECT id, paid_on FROM payments"))

    assert in_a_step(work) == (str(UUID(int=1)), "2024-02-29")


def test_what_is_of_another_type_or_cant_be_read_stays_as_it_is():
    async def work(tx: Transaction):
        await insert(tx)
        await tx.execute("INSERT INTO letters VALUES ($1, $2, $3)", "noon", b"\x00", 7)
        await tx.execute("INSERT INTO payments (id, paid_on) VALUES ('someone', 'today')")
        odd = await tx.fetch_one("SELECT id, paid_on FROM payments WHERE note IS NULL")
        letter = await tx.fetch_one("SELECT at, body, paid_on FROM letters")
        return tuple(odd), tuple(letter)

    odd, letter = in_a_step(work)
    assert odd == ("someone", "today")
    assert letter == ("noon", b"\x00", 7)
    assert isinstance(letter[2], int)


def test_errors_are_those_of_a_database():
    async def work(tx: Transaction):
        await insert(tx)
        with pytest.raises(ConstraintViolated):
            await insert(tx)
        with pytest.raises(StoreError, match=r"\$2 isn't in the statement, but 2 arguments"):
            await tx.fetch("SELECT id FROM payments WHERE id = $1", UUID(int=1), 2)
        with pytest.raises(StoreError, match=r"type 'list' is not supported.*on SQLite"):
            await tx.fetch("SELECT id FROM payments WHERE id = $1", [1])
        return "survived"

    assert in_a_step(work) == "survived"


# -- ledgers -------------------------------------------------------------------------------------


class Purse:
    """Whatever a user may put between a saga and its fakes."""

    __slots__ = ("inside",)

    def __init__(self, inside: Ledger) -> None:
        self.inside = [{"cash": inside}]


SHARED = Ledger("shared", barrier=False)


class Pays(Saga[None]):
    """Pays twice, with whatever ledger `find` finds at the time."""

    def __init__(self, find: Callable[[], Ledger]) -> None:
        self.find = find

    @step(no_compensation="none")
    async def pay(self, input: None, ctx: Context) -> None:
        for _ in range(2):
            await self.find().post(ctx)


def deep() -> Pays:
    purse = Purse(Ledger("deep", barrier=False))
    return Pays(lambda: purse.inside[0]["cash"])


def made_on_demand() -> Pays:
    made: dict[str, Ledger] = {}
    return Pays(lambda: made.setdefault("x", Ledger("made", barrier=False)))


@pytest.mark.parametrize("make", [deep, made_on_demand, lambda: Pays(lambda: SHARED)])
def test_a_ledger_is_watched_wherever_it_is_kept(make):
    with pytest.raises(InvariantViolated, match="pay took effect"):
        simulate(make, seeds=1)
    with pytest.raises(InvariantViolated, match="pay took effect"):
        run_saga(make())
