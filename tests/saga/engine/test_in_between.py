"""Commits that fail, starts while draining, and what is told of one at rest."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from standfast import Context, Saga, SagaParked, Standfast, Transaction, step, wait
from standfast.backends.memory import MemoryDatabase
from standfast.backends.memory.journal.store import MemoryJournal
from standfast.errors import StoreUnavailable
from standfast.ports.journal import JournalStore
from standfast.saga.active import Active
from standfast.transaction import UnitOfWork, unit_of_work
from tests.saga.engine.world import SOON, Order, Trip, until


class _FailsToCommit(MemoryDatabase):
    @asynccontextmanager
    async def transaction(self):
        async with super().transaction() as tx:
            yield tx
            raise StoreUnavailable("the commit failed")


async def test_what_follows_a_commit_isnt_done_when_the_commit_fails():
    """It was done at the end of the block, before the commit."""
    told: list[str] = []
    with pytest.raises(StoreUnavailable):
        async with unit_of_work(_FailsToCommit(), UnitOfWork) as tx:
            tx.on_commit(lambda: told.append("committed"))
    assert told == []


async def test_what_follows_a_commit_finds_it_committed(tmp_path):
    """"""
    import sqlite3

    seen: list[int] = []

    def look() -> None:
        with sqlite3.connect(tmp_path / "app.db") as con:
            seen.append(con.execute("SELECT count(*) FROM t").fetchone()[0])

    async with Standfast(f"sqlite:///{tmp_path}/app.db") as app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE t (n)")
        async with app.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            tx.on_commit(look)
    assert seen == [1]


async def test_a_start_that_is_there_already_isnt_counted_in_a_transaction_either(work, world):
    """`standfast.saga.started` grew with each repetition."""
    app = await work(Trip(world))
    for _ in range(3):
        async with app.transaction() as tx:
            handle = await tx.start(Trip, Order("1"), key="k")
    await handle.result(timeout=5)
    for _ in range(3):
        await app.start(Trip, Order("1"), key="k")
    assert dict(app.sagas.telemetry.started) == {"trip": 1}


class Held(Saga[int]):
    """Its step lasts until the test lets it go."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    @step(no_compensation="nothing to undo", timeout="30s")
    async def hold(self, number: int, ctx: Context) -> None:
        self.begun.set()
        await self.go_on.wait()


async def test_while_it_drains_a_start_is_left_to_others(app_url):
    """It was taken in, held up the drain, and was written back."""
    held = Held()
    async with Standfast(app_url, migrate=True).add(held) as app:
        running = app.running(drain=20)
        supervisor = await running.__aenter__()
        await app.start(Held, 1)
        await held.begun.wait()
        leaving = asyncio.create_task(running.__aexit__(None, None, None))
        await until(lambda: supervisor.services[0].state == "draining")
        await until(lambda: app.sagas.executor._draining)
        late = await app.start(Held, 2)
        assert late.id not in app.sagas.executor.active
        assert (await app.sagas.instance(late.id)).owner is None
        held.go_on.set()
        await leaving


async def test_one_that_was_claimed_anew_before_its_older_self_had_left_stays(app_url):
    """It ran on unknown to its worker, which no mail, drain or cut reaches."""
    held = Held()
    app = Standfast(app_url, migrate=True).add(held)
    async with app.running(drain=2):
        handle = await app.start(Held, 1)
        await held.begun.wait()
        executor = app.sagas.executor
        active = executor.active[handle.id]
        executor.desk.slots.take("Held")
        older = Active(active.definition, active.machine, active.input)
        older.slots = executor.desk.slots
        executor.rested(older, None)
        assert executor.active[handle.id] is active
        held.go_on.set()
        await handle.result(timeout=5)


class Dated(Saga[Order]):
    """It parks, and has a deadline far away."""

    deadline = "1h"

    @step(no_compensation="a note")
    async def note(self, order: Order, ctx: Context) -> str:
        return "noted"

    word = wait("word", timeout=0.05, on_timeout="park")


async def test_the_row_tells_the_deadline(work):
    """`standfast sagas show --json` told none."""
    app = await work(Dated())
    handle = await app.start(Dated, Order("1"))
    row = await app.sagas.instance(handle.id)
    assert row.deadline_at == pytest.approx(row.created_at + 3600)


async def test_a_signal_in_a_transaction_reaches_a_saga_here_at_once(work):
    """On SQLite, which tells of the commits of others only, it waited for a poll."""
    app = await work(Dated(), poll=60)
    handle = await app.start(Dated, Order("1"))
    await until(lambda: _is(handle, "parked"))
    async with app.transaction() as tx:
        await tx.signal(handle, "word", "now")
    assert (await handle.result(timeout=5))["word"] == "now"


async def test_each_who_asks_is_told_that_it_is_parked_also_before_a_deadline(work):
    """Whoever asked after it had parked waited until the deadline."""
    app = await work(Dated())
    handle = await app.start(Dated, Order("1"))
    for _ in range(2):
        with pytest.raises(SagaParked, match="no signal 'word'"):
            await handle.result(timeout=2)
        await until(lambda: not app.sagas.executor.active)


async def _is(handle, status):
    return await handle.status() == status


class Booked(Saga[int]):
    """A transactional step, and one after it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    @step(transactional=True, no_compensation="nothing to undo", retry=SOON)
    async def book(self, number: int, ctx: Context, tx: Transaction) -> int:
        self.calls.append("book")
        return len(self.calls)

    @step(no_compensation="nothing to undo")
    async def tell(self, number: int, ctx: Context) -> int:
        self.calls.append("tell")
        return ctx.result(self.book)


async def test_a_transactional_step_whose_facts_cant_be_written_is_tried_again(work):
    """Its rows were rolled back, and the saga went on as if it had been done."""
    app = await work(saga := Booked())
    journal = app.database.port(JournalStore)
    within, failures = journal.within, [StoreUnavailable("gone in the middle")]

    class Fails:
        def __init__(self, writer) -> None:
            self.writer = writer

        async def append(self, owner, append):
            if failures:
                raise failures.pop()
            await self.writer.append(owner, append)

    journal.within = lambda tx: Fails(within(tx))
    handle = await app.start(Booked, 1)
    result = await handle.result(timeout=10)
    assert saga.calls == ["book", "book", "tell"]
    assert (result["book"], result["tell"]) == (2, 2)
    kinds = [type(fact).__name__ for fact in (await handle.story()).facts]
    assert kinds.count("StepCompleted") == 2


class Told(Saga[int]):
    word = wait("word")


async def test_mail_that_comes_while_one_is_put_to_rest_is_read_at_once(monkeypatch):
    """Not with the next look: it is due by the store, and its worker knows."""
    resting, may_rest = asyncio.Event(), asyncio.Event()
    append = MemoryJournal.append

    async def slow(self, owner, appends):
        if any(one.release for one in appends):
            resting.set()
            await may_rest.wait()
        return await append(self, owner, appends)

    monkeypatch.setattr(MemoryJournal, "append", slow)
    app = Standfast("memory://").add(Told())
    async with app.running(poll=60, linger=0.01):
        handle = await app.start(Told, 1)
        await asyncio.wait_for(resting.wait(), 5)
        await handle.signal("word")
        active = app.sagas.executor.active[handle.id]
        await until(lambda: active.inbox)
        may_rest.set()
        await handle.result(timeout=5)
