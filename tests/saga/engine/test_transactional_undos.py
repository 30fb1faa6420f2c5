"""Compensations whose rows commit together with the journal."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    SagaNotFound,
    SagaParked,
    Standfast,
    Transaction,
    step,
)
from standfast.errors import ConstraintViolated, StoreUnavailable, TransactionConflict
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, World


class Note(Saga[Order]):
    """What is written in a transaction, on every backend: that it was started."""

    @step(no_compensation="a note")
    async def write(self, order: Order, ctx: Context) -> None: ...


async def notes(app, *keys):
    """Which of these have been written."""
    found = []
    for key in keys:
        try:
            await app.saga(Note, key)
        except SagaNotFound:
            continue
        found.append(key)
    return found


class Taken(Saga[Order]):
    """`take` is undone in a transaction, between two undos without one."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def begin(self, order: Order, ctx: Context) -> None:
        await self.world.act("begin")

    @begin.compensation(retry=SOON)
    async def undo_begin(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo begin")

    @step(retry=SOON, transactional=True)
    async def take(self, order: Order, ctx: Context, tx: Transaction) -> str:
        await tx.start(Note, order, key=f"take {ctx.attempt}")
        return str(await self.world.act("take"))

    @take.compensation(retry=SOON, transactional=True)
    async def give_back(self, order: Order, ctx: Context, tx: Transaction) -> None:
        await tx.start(Note, order, key=f"back {ctx.attempt}, {ctx.result(self.take)}")
        await self.world.act("give back", ctx)

    @step(retry=SOON)
    async def end(self, order: Order, ctx: Context) -> None:
        await self.world.act("end")

    @end.compensation(retry=SOON)
    async def undo_end(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo end")

    @step(no_compensation="it refuses")
    async def refuse(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


async def test_what_a_failed_attempt_wrote_is_gone_and_the_last_one_counts(work, world):
    world.will("give back", OSError("1"), OSError("2"))
    app = await work(Taken(world), Note())
    handle = await app.start(Taken, Order("1"))
    with pytest.raises(SagaCompensated, match="refuse refused: no"):
        await handle.result(timeout=10)
    assert world.log == ["begin", "take", "end", "undo end", "give back", "undo begin"]
    assert await notes(app, *(f"back {n}, take" for n in (1, 2, 3, 4))) == ["back 3, take"]
    assert len(set(world.keys["give back"])) == 1
    facts = (await handle.story()).facts
    undone = [f for f in facts if isinstance(f, fx.CompensationCompleted)]
    assert [(f.branch, f.attempt) for f in undone] == [("end", 1), ("take", 3), ("begin", 1)]


async def test_exhausted_it_is_parked_with_nothing_written(work, world):
    world.will("give back", *[OSError("down") for _ in range(3)])
    app = await work(Taken(world), Note())
    handle = await app.start(Taken, Order("1"))
    with pytest.raises(SagaParked, match="compensation_failed"):
        await handle.result(timeout=10)
    keys = [f"back {n}, take" for n in range(1, 6)]
    assert await notes(app, *keys) == []
    await app.sagas.send(handle.id, ev.RetryAsked(by="ann"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=10)
    assert await notes(app, *keys) == ["back 4, take"]
    assert world.log[-2:] == ["give back", "undo begin"]


async def test_a_timeout_rolls_it_back(work, world):
    class Slow(Saga[Order]):
        @step
        async def take(self, order: Order, ctx: Context) -> None: ...

        @take.compensation(timeout=0.2, retry=SOON, transactional=True)
        async def give_back(self, order: Order, ctx: Context, tx: Transaction) -> None:
            await tx.start(Note, order, key=f"back {ctx.attempt}")
            await world.act("give back")

        @step(no_compensation="it refuses")
        async def refuse(self, order: Order, ctx: Context) -> None:
            raise Refused("no")

    world.will("give back", lambda: asyncio.sleep(30))
    app = await work(Slow(), Note())
    with pytest.raises(SagaCompensated):
        await (await app.start(Slow, Order("1"))).result(timeout=10)
    assert await notes(app, "back 1", "back 2", "back 3") == ["back 2"]


class Lone(Saga[Order]):
    """Its only undo ends the saga, in a transaction."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step
    async def take(self, order: Order, ctx: Context) -> str:
        return "take"

    @take.compensation(retry=SOON, transactional=True)
    async def give_back(self, order: Order, ctx: Context, tx: Transaction) -> None:
        await tx.start(Note, order, key=f"back {ctx.attempt}, {ctx.result(self.take)}")
        await self.world.act("give back")

    @step(no_compensation="it refuses")
    async def refuse(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


async def test_the_last_undo_ends_the_saga_with_its_own_commit(work, world, caplog, monkeypatch):
    app = await work(Lone(world), Note())
    written = []
    append = app.sagas.store.append

    async def watched(owner, appends):
        written.extend(text for one in appends for text in one.facts)
        return await append(owner, appends)

    monkeypatch.setattr(app.sagas.store, "append", watched)
    with caplog.at_level(logging.WARNING, logger="standfast"):
        handle = await app.start(Lone, Order("1"))
        with pytest.raises(SagaCompensated):
            await handle.result(timeout=10)
    assert not [text for text in written if "compensation_completed" in text]
    assert await notes(app, "back 1, take") == ["back 1, take"]
    assert caplog.records == [], "nobody else's writes are to be seen"


@pytest.mark.parametrize("saga", [Taken, Lone])
@pytest.mark.parametrize("written", [True, False])
async def test_a_commit_whose_outcome_is_unknown(work, world, monkeypatch, saga, written):
    """The store is asked: what was written isn't done again, what wasn't is."""
    app = await work(saga(world), Note())
    begin = app.database.transaction
    armed = []

    @asynccontextmanager
    async def doubtful():
        async with begin() as tx:
            yield tx
            if armed and not written:
                raise StoreUnavailable(armed.pop())
        if armed:
            raise StoreUnavailable(armed.pop())

    async def lose():
        armed.append("the answer to the commit is lost")

    monkeypatch.setattr(app.database, "transaction", doubtful)
    world.will("give back", lose)
    handle = await app.start(saga, Order("1"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=10)
    assert not armed
    assert world.log.count("give back") == (1 if written else 2)
    kept = "back 1, take" if written else "back 2, take"
    assert await notes(app, "back 1, take", "back 2, take") == [kept]
    kinds = [type(fact) for fact in (await handle.story()).facts]
    assert kinds.count(fx.CompensationAttemptFailed) == (0 if written else 1)
    assert kinds.count(fx.CompensationCompleted) == (3 if saga is Taken else 1)


async def test_a_worker_that_lost_its_lease_undoes_nothing(shared_url, world):
    """It is refused inside the transaction, so its rows go too; another worker does it once."""
    first = Standfast(shared_url, migrate=True).add(Lone(world), Note())
    second = Standfast(shared_url).add(Lone(world), Note())
    back = asyncio.Event()

    async def lose_the_lease():
        instance = await first.sagas.instance(handle.id)
        await first.database.port(LeaseStore).release([instance.owner])
        back.set()

    world.will("give back", lose_the_lease)
    async with first.running(drain=2, lease=30, name="first"):
        handle = await first.start(Lone, Order("1"))
        async with asyncio.timeout(10):
            await back.wait()
        async with second.running(drain=2, poll=0.1, name="second"):
            with pytest.raises(SagaCompensated):
                await second.handle(handle.id).result(timeout=10)
            assert world.log == ["give back", "give back"]
            assert await notes(second, "back 1, take") == ["back 1, take"]
            kinds = [type(fact) for fact in (await second.handle(handle.id).story()).facts]
    assert kinds.count(fx.CompensationCompleted) == 1
    assert kinds.count(fx.CompensationAttemptFailed) == 0


class Parcels(Saga[Order]):
    """Items undone one at a time, each in a transaction of its own; a neighbour without one."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(after=(), each=lambda self, order, ctx: order.items)
    async def pack(self, order: Order, ctx: Context, item: str) -> str:
        return f"box of {item}"

    @pack.compensation(retry=SOON, transactional=True)
    async def unpack(self, order: Order, ctx: Context, item: str, tx: Transaction) -> None:
        await tx.start(Note, order, key=f"unpack {item} {ctx.attempt} {ctx.item_result}")
        await self.world.act(f"unpack {item}")

    @step(after=())
    async def label(self, order: Order, ctx: Context) -> None: ...

    @label.compensation(retry=SOON)
    async def unlabel(self, order: Order, ctx: Context) -> None:
        await self.world.act("unlabel")

    @step(after=[pack, label], no_compensation="it refuses")
    async def refuse(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


async def test_each_item_is_undone_in_a_transaction_of_its_own(work, world):
    world.will("unpack b", OSError("once"))
    world.will("unlabel", lambda: asyncio.sleep(0.05))
    app = await work(Parcels(world), Note())
    with pytest.raises(SagaCompensated):
        await (await app.start(Parcels, Order("1", items=("a", "b", "c")))).result(timeout=10)
    assert sorted(world.log) == ["unlabel", "unpack a", "unpack b", "unpack c"]
    keys = [f"unpack {item} {n} box of {item}" for item in "abc" for n in (1, 2)]
    assert await notes(app, *keys) == [
        "unpack a 1 box of a",
        "unpack b 2 box of b",
        "unpack c 1 box of c",
    ]


class Account(Saga[Order]):
    """Rows of the app's own, taken and given back; a charge that comes to nothing."""

    @step(transactional=True, retry=SOON)
    async def take(self, order: Order, ctx: Context, tx: Transaction) -> None:
        await tx.execute("INSERT INTO moves (amount) VALUES ($1)", -order.amount)

    @take.compensation(transactional=True, retry=SOON)
    async def give_back(self, order: Order, ctx: Context, tx: Transaction) -> None:
        assert ctx.has_result(self.take)
        await tx.execute("INSERT INTO moves (amount) VALUES ($1)", order.amount)

    @step(transactional=True, retry=Retry(attempts=2, backoff=Constant(0.01)))
    async def charge(self, order: Order, ctx: Context, tx: Transaction) -> None:
        await tx.execute("INSERT INTO moves (amount) VALUES (1000)")
        raise OSError("no")

    @charge.compensation(transactional=True, retry=SOON)
    async def refund(self, order: Order, ctx: Context, tx: Transaction) -> None:
        # It may run although the step's rows were rolled back: its result tells.
        if ctx.has_result(self.charge):
            await tx.execute("INSERT INTO moves (amount) VALUES (-1000)")


async def test_rows_are_taken_and_given_back(durable_url):
    app = Standfast(durable_url, migrate=True).add(Account())
    async with app.running(drain=2):
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE moves (amount int)")
        handles = [await app.start(Account, Order(str(n), amount=n)) for n in range(1, 21)]
        for handle in handles:
            with pytest.raises(SagaCompensated, match="charge failed"):
                await handle.result(timeout=20)
        async with app.transaction() as tx:
            rows = sorted(row[0] for row in await tx.fetch("SELECT amount FROM moves"))
    assert rows == sorted(sign * n for n in range(1, 21) for sign in (1, -1))


async def test_a_conflict_costs_no_attempt_for_all_is_rolled_back(work, world):
    once = Retry(attempts=1)
    conflict = TransactionConflict("a deadlock")

    class Once(Saga[Order]):
        @step(retry=once, transactional=True)
        async def take(self, order: Order, ctx: Context, tx: Transaction) -> None:
            await tx.start(Note, order, key=f"take {ctx.attempt}")
            await world.act("take")

        @take.compensation(retry=once, transactional=True)
        async def give_back(self, order: Order, ctx: Context, tx: Transaction) -> None:
            await tx.start(Note, order, key=f"back {ctx.attempt}")
            await world.act("give back")

        @step(no_compensation="it says no", retry=once)
        async def refuse(self, order: Order, ctx: Context) -> None:
            await world.act("refuse")

    world.will("take", conflict, conflict)
    world.will("give back", conflict)
    world.will("refuse", conflict)
    app = await work(Once(), Note())
    handle = await app.start(Once, Order("1"))
    # Outside a transaction of the engine's it may have had an effect: that was the one attempt.
    with pytest.raises(SagaCompensated, match="refuse failed: TransactionConflict"):
        await handle.result(timeout=10)
    assert world.log.count("take") == 1
    tried = [f"take {n}" for n in (1, 2, 3)] + [f"back {n}" for n in (1, 2)]
    assert await notes(app, *tried) == ["take 3", "back 2"]


class Seen(Saga[str]):
    """It catches the error of a statement of its transaction, in `swallows`, and goes on."""

    @step(transactional=True, retry=Retry(attempts=1))
    async def take(self, swallows: str, ctx: Context, tx: Transaction) -> str:
        return await self.insert(tx) if swallows == "take" else "new"

    @take.compensation(transactional=True, retry=Retry(attempts=1))
    async def give_back(self, swallows: str, ctx: Context, tx: Transaction) -> None:
        if swallows == "give_back":
            await self.insert(tx)

    @step(no_compensation="it refuses")
    async def end(self, swallows: str, ctx: Context) -> None:
        raise Refused("no")

    async def insert(self, tx: Transaction) -> str:
        try:
            await tx.execute("INSERT INTO seen VALUES (1)")
        except ConstraintViolated:
            return "seen already"
        return "new"


@pytest.mark.parametrize("swallows", ["take", "give_back"])
async def test_a_statement_whose_error_was_caught_fails_it_on_postgres_alone(durable_url, swallows):
    app = Standfast(durable_url, migrate=True).add(Seen())
    async with app.running():
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE seen (n int PRIMARY KEY)")
            await tx.execute("INSERT INTO seen VALUES (1)")
        handle = await app.start(Seen, swallows)
        with pytest.raises((SagaCompensated, SagaParked)) as caught:
            await handle.result(20)
    cause = caught.value.cause
    if durable_url.startswith("sqlite"):
        assert "refused" in cause or "no" in cause
        return
    for part in ("rolled the transaction back", "seen_pkey", "SAVEPOINT", "ON CONFLICT DO NOTHING"):
        assert part in cause
