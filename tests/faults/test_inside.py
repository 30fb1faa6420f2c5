"""What goes wrong inside: results, rows, handlers, mail and clocks. Told clearly, others go on."""

import asyncio
import sqlite3
import threading
import time

import asyncpg
import pytest

from standfast import (
    Context,
    Saga,
    SagaCompensated,
    SagaParked,
    Standfast,
    Transaction,
    step,
    wait,
)
from standfast.clock import SystemClock
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.conftest import app_url, durable_url, shared_url, work
from tests.saga.engine.world import SOON, Order, Trip, World, until

__all__ = ["app_url", "durable_url", "shared_url", "work"]


# -- a result that can't be encoded --------------------------------------------------------------


class Odd(Saga[Order]):
    """Its second step returns what has no JSON form."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def first(self, order: Order, ctx: Context) -> None:
        await self.world.act("first")

    @first.compensation(retry=SOON)
    async def undo_first(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo_first")

    @step(retry=SOON)
    async def odd(self, order: Order, ctx: Context) -> object:
        await self.world.act("odd")
        return object()

    @odd.compensation(retry=SOON)
    async def undo_odd(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo_odd")


async def test_a_result_that_cant_be_encoded_is_told_and_undone(work, world):
    app = await work(Odd(world), Trip(world))
    other = await app.start(Trip, Order("other"))
    handle = await app.start(Odd, Order("1"))
    with pytest.raises(SagaCompensated, match="object can't be encoded"):
        await handle.result(timeout=10)
    assert world.calls.count("odd") == 1, "trying again would give the same"
    undone = [word for word in world.log if word in ("undo_first", "undo_odd")]
    assert undone == ["undo_odd", "undo_first"], "it ran, so it is undone"
    assert (await other.result(timeout=10))["note"] == "note of charge"


async def test_of_a_transactional_step_nothing_is_kept(durable_url, world):
    class OddRow(Saga[Order]):
        @step(transactional=True, retry=SOON, no_compensation="its rows go with it")
        async def write(self, order: Order, ctx: Context, tx: Transaction) -> object:
            await tx.execute("INSERT INTO rows (id) VALUES ($1)", order.id)
            return object()

    app = Standfast(durable_url, migrate=True).add(OddRow())
    async with app.running(drain=2):
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE rows (id text)")
        with pytest.raises(SagaCompensated, match="CodecError"):
            await (await app.start(OddRow, Order("1"))).result(timeout=10)
        async with app.transaction() as tx:
            assert await tx.fetch_value("SELECT count(*) FROM rows") == 0


# -- a corrupt journal row -----------------------------------------------------------------------


class Waiting(Saga[Order]):
    """Something done, a wait, something more."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON, no_compensation="nothing to undo")
    async def before(self, order: Order, ctx: Context) -> None:
        await self.world.act("before")

    word = wait("word")

    @step(retry=SOON, no_compensation="nothing to undo")
    async def after(self, order: Order, ctx: Context) -> str:
        await self.world.act(f"after {order.id}")
        return order.id


async def _fact(url: str, id, number: int, text: str | None = None) -> str:
    """Read a row of the journal with plain SQL, and write `text` over it."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        with connection:
            where = (id.bytes, number)
            sql = "SELECT fact FROM standfast_journal WHERE id = ? AND seq = ?"
            (found,) = connection.execute(sql, where).fetchone()
            if text is not None:
                sql = "UPDATE standfast_journal SET fact = ? WHERE id = ? AND seq = ?"
                connection.execute(sql, (text, *where))
        connection.close()
        return found
    direct = await asyncpg.connect(url)
    sql = "SELECT fact FROM standfast.journal WHERE id = $1 AND seq = $2"
    found = await direct.fetchval(sql, id, number)
    if text is not None:
        sql = "UPDATE standfast.journal SET fact = $3 WHERE id = $1 AND seq = $2"
        await direct.execute(sql, id, number, text)
    await direct.close()
    return found


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("{not json", "journal row 1 can't be read"),
        ('{"kind":"unheard_of","at":1}', "journal row 1 can't be read"),
        ('{"kind":"step_completed","at":1,"branch":"nowhere"}', "journal row 1 .*'nowhere'"),
        ('{"kind":"started","at":1}', "journal row 1"),
    ],
    ids=["text", "kind", "branch", "place"],
)
async def test_a_corrupt_row_sets_one_aside_until_it_is_repaired(
    durable_url, world, damage, match, caplog
):
    app = Standfast(durable_url, migrate=True).add(Waiting(world))
    async with app.running(linger=0.01, poll=0.1, drain=2):
        bad, good = [await app.start(Waiting, Order(id), key=id) for id in ("bad", "good")]
        for handle in (bad, good):
            await until(lambda handle=handle: _is(handle, "waiting"))
        sound = await _fact(durable_url, bad.id, 1, damage)
        for handle in (bad, good):
            await handle.signal("word")
        assert (await good.result(timeout=10))["after"] == "good"
        with pytest.raises(SagaParked, match=match):
            await bad.result(timeout=10)
        row = await app.sagas.instance(bad.id)
        assert (row.status, row.owner) == ("parked", None)
        assert "row 1" in row.cause
        assert any("can't be run" in record.message for record in caplog.records)
        story = await bad.story()
        assert story.state is None
        assert "row 1" in story.problem
        assert await _fact(durable_url, bad.id, 1) == damage, "it is left as it was"
        # Repaired by hand, and told to go on: nothing was lost, the signal neither.
        await _fact(durable_url, bad.id, 1, sound)
        await app.sagas.send(bad.id, ev.RetryAsked(by="ann"))
        await until(lambda: _is(bad, "completed"))
        assert (await bad.result(timeout=10))["after"] == "bad"
    assert sorted(world.log) == ["after bad", "after good", "before", "before"]


async def _is(handle, status):
    return await handle.status() == status


# -- a handler that blocks the event loop ----------------------------------------------------------


class Blocking(Saga[Order]):
    @step(retry=SOON, no_compensation="nothing to undo")
    async def hog(self, order: Order, ctx: Context) -> str:
        grind_away(1.5)
        return "done"


def grind_away(seconds: float) -> None:
    time.sleep(seconds)


async def test_the_watchdog_names_what_blocks_the_loop(work, world, caplog):
    app = await work(Blocking(), Trip(world), lease=1.0)
    handles = [await app.start(Trip, Order(str(n))) for n in range(5)]
    hog = await app.start(Blocking, Order("1"))
    assert (await hog.result(timeout=10))["hog"] == "done"
    for handle in handles:
        assert (await handle.result(timeout=10))["note"] == "note of charge"
    (told, *_) = [r.getMessage() for r in caplog.records if "event loop hasn't run" in r.message]
    assert "grind_away" in told
    assert "asyncio.to_thread" in told
    assert "test_inside.py" in told


async def test_a_worker_that_is_blocked_for_less_than_half_its_lease_keeps_it(shared_url):
    """At the worst moment: just before it renews. Another one, on a thread, looks out for it."""
    lease, blocked = 4.0, 1.6
    began, over = threading.Event(), threading.Event()

    async def second() -> list[int]:
        app = Standfast(shared_url).add(Blocking())
        leases, ended = app.database.port(LeaseStore), []
        expire = leases.expire

        async def noted() -> list[int]:
            ended.extend(found := await expire())
            return found

        leases.expire = noted
        async with app.running(lease=lease / 10, drain=2):  # it looks often
            began.set()
            await asyncio.to_thread(over.wait)
        return ended

    first = Standfast(shared_url, migrate=True).add(Blocking())
    leases, renewed = first.database.port(LeaseStore), asyncio.Event()
    renew = leases.renew

    async def told(*args, **options) -> list[bool]:
        answer = await renew(*args, **options)
        renewed.set()
        return answer

    leases.renew = told
    async with first.running(lease=lease, drain=2) as worker:
        looking = asyncio.get_running_loop().run_in_executor(None, asyncio.run, second())
        try:
            await until(began.is_set)
            owner = worker.membership.token
            renewed.clear()
            await renewed.wait()
            await asyncio.sleep(lease / 4 - 0.1)
            renewed.clear()
            grind_away(blocked)
            await renewed.wait()
        finally:
            over.set()
        assert await looking == []
        assert worker.membership.token == owner


async def test_a_blocked_workers_sagas_are_taken_over_and_its_writes_refused(shared_url, caplog):
    """The other worker is a second app, whose event loop has a thread of its own."""
    ran: list[str] = []

    class Hog(Saga[Order]):
        def __init__(self, name: str) -> None:
            self.worker = name

        @step(retry=SOON, no_compensation="nothing to undo")
        async def hog(self, order: Order, ctx: Context) -> str:
            ran.append(self.worker)
            if self.worker == "first":
                time.sleep(4)
            return self.worker

    async def second() -> str:
        app = Standfast(shared_url).add(Hog("second"))
        async with app.running(lease=1.0, poll=0.2, drain=2):
            await until(lambda: ran)
            return (await (await app.saga(Hog, "k")).result(timeout=20))[Hog.hog]

    first = Standfast(shared_url, migrate=True).add(Hog("first"))
    async with first.running(lease=1.0, poll=0.2, drain=2) as worker:
        owner = worker.membership.token
        taken = asyncio.get_running_loop().run_in_executor(None, asyncio.run, second())
        await first.start(Hog, Order("1"), key="k")
        assert await taken == "second"
        assert (await (await first.saga(Hog, "k")).result(timeout=10))[Hog.hog] == "second"
        # It noticed, took a new lease, and works on.
        await until(lambda: worker.services[0].state == "running")
        assert worker.services[0].restarts == 1
        assert worker.membership.is_held
        assert worker.membership.token != owner
    assert ran == ["first", "second"]
    assert any("lease was lost" in record.message for record in caplog.records)


# -- a full mail box -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_flood_of_mail_to_one_saga_holds_up_nobody(work, world):
    """5,000 signals that change nothing: all are taken in, in order, and the saga goes on."""
    app = await work(Waiting(world), Trip(world), linger=0.01, poll=0.1)
    flooded = await app.start(Waiting, Order("flooded"))
    await until(lambda: _is(flooded, "waiting"))

    async def flood(first: int) -> None:
        for number in range(first, first + 500):
            await flooded.signal("resume", number)

    flooding = asyncio.gather(*(flood(n * 500) for n in range(10)))
    others = [await app.start(Trip, Order(str(n))) for n in range(20)]
    for handle in others:
        assert (await handle.result(timeout=20))["note"] == "note of charge"
    await flooding
    await flooded.signal("word")
    assert (await flooded.result(timeout=60))["after"] == "flooded"
    facts = (await flooded.story()).facts
    noise = [
        int(bytes(f.payload))
        for f in facts
        if isinstance(f, fx.SignalReceived) and f.name == "resume"
    ]
    assert sorted(noise) == list(range(5000))


async def test_mail_that_cant_be_read_is_dropped_and_told(durable_url, world, caplog):
    app = Standfast(durable_url, migrate=True).add(Waiting(world))
    async with app.running(linger=0.01, poll=0.1, drain=2):
        handle = await app.start(Waiting, Order("1"))
        await until(lambda: _is(handle, "waiting"))
        mail = app.sagas.mail(handle.id, ev.Signalled("word"), mail_id="broken")
        mail.body = "{not json"
        await app.sagas.store.send([mail])
        await until(lambda: any("unreadable mail broken" in r.message for r in caplog.records))
        await handle.signal("word")
        assert (await handle.result(timeout=10))["after"] == "1"


# -- a clock that is off ---------------------------------------------------------------------------


class Off(SystemClock):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> float:  # type: ignore[override]
        return time.time() + self.seconds


class Timed(Saga[Order]):
    deadline = "30s"

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON, no_compensation="nothing to undo")
    async def before(self, order: Order, ctx: Context) -> None:
        await self.world.act("before")

    pause = wait("word", timeout=1.0, on_timeout="continue")

    @step(retry=SOON, no_compensation="nothing to undo")
    async def after(self, order: Order, ctx: Context) -> float:
        await self.world.act("after")
        return time.time()


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_workers_clock_that_is_minutes_off(shared_url, world, minutes, caplog):
    """Alone, it starts, waits, retries and keeps deadlines as if its clock were right."""
    world.will("before", OSError("once"))
    right = Standfast(shared_url, migrate=True).add(Timed(world))
    wrong = Standfast(shared_url, clock=Off(minutes * 60)).add(Timed(world))
    async with right, wrong.running(linger=0.01, poll=0.2, drain=2):
        word = "behind" if minutes < 0 else "ahead of"
        assert any(f"600.0 s {word} the database's" in r.getMessage() for r in caplog.records)
        for app in (right, wrong):
            begun = time.time()
            handle = await app.start(Timed, Order("1"))
            ended = (await handle.result(timeout=15))[Timed.after]
            assert 0.9 < ended - begun < 10, "the wait lasted as long as it should"
            created = (await app.sagas.instance(handle.id)).created_at
            assert abs(created - begun) < 5, "what is stored is the database's time"


async def test_a_clock_that_jumps_is_noticed(postgres_dsn, world, caplog):
    clock = Off(0)
    app = Standfast(postgres_dsn, migrate=True, clock=clock).add(Timed(world))
    async with app.running(lease=0.6, poll=0.2, drain=2):
        assert not [r for r in caplog.records if "clock" in r.getMessage()]
        clock.seconds = -300
        await until(lambda: abs(app.clock.now() - time.time()) < 1)
        (told,) = [r.getMessage() for r in caplog.records if "clock" in r.getMessage()]
        assert "behind the database's" in told
        assert (await (await app.start(Timed, Order("1"))).result(timeout=15))[Timed.after]
