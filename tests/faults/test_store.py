"""The store is full, away, or its answer is lost: clear errors, nothing lost, and on it goes."""

import asyncio
import logging
import shutil
import sqlite3
import time
from collections.abc import Callable

import asyncpg
import pytest

from standfast import Context, Saga, Standfast, Transaction, step
from standfast.backends.sqlite import SqliteDatabase
from standfast.errors import StoreFull, StoreUnavailable
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, Trip, World, until

pytestmark = [pytest.mark.crash, pytest.mark.slow]


class Slow(Saga[Order]):
    """Its steps last until they are let go, so that they end while the store is in trouble."""

    def __init__(self, world: World, go: asyncio.Event) -> None:
        self.world = world
        self.go = go

    @step(retry=SOON, no_compensation="nothing to undo")
    async def first(self, order: Order, ctx: Context) -> str:
        self.world.calls.append("begun")
        await self.go.wait()
        await self.world.act(f"first {order.id}", ctx)
        return "x" * order.amount

    @step(retry=SOON, no_compensation="nothing to undo")
    async def second(self, order: Order, ctx: Context) -> str:
        await self.world.act(f"second {order.id}", ctx)
        return ctx.result(self.first)[:1]


async def _through_trouble(app, world, go, trouble, over, error, match, *, repeats=False):
    """Ten sagas are in a step when trouble comes; starting another fails clearly; all get there.

    `repeats`: the trouble outlasts the lease, so that steps whose end isn't stored run again.
    """
    handles = [await app.start(Slow, Order(str(n), amount=100), key=str(n)) for n in range(10)]
    await until(lambda: world.calls.count("begun") == 10)
    await trouble()
    with pytest.raises(error, match=match):
        # A big one, for a little may find room between what is there.
        await app.start(Slow, Order("x" * 500_000), key="refused")
    go.set()
    await until(lambda: sum(word.startswith("first") for word in world.log) == 10)
    await asyncio.sleep(0.5)
    assert not [word for word in world.log if word.startswith("second")], "it went on unstored"
    await over()
    for handle in handles:
        assert (await handle.result(timeout=30))["second"] == "x"
        facts = (await handle.story()).facts
        assert [type(f) for f in facts] == [fx.Started, fx.StepCompleted, fx.StepCompleted]
    done = sorted(set(world.log) if repeats else world.log)
    assert done == sorted(f"{s} {n}" for n in range(10) for s in ("first", "second"))
    again = await app.start(Slow, Order("new"), key="new")
    assert (await again.result(timeout=30))["second"] == "x"


async def test_the_disk_is_full_under_sqlite(small_disk, world, caplog):
    go = asyncio.Event()
    app = Standfast(f"sqlite:///{small_disk.folder}/app.db").add(Slow(world, go))

    async def trouble():
        small_disk.fill()

    async def over():
        assert any("facts wait to be stored" in record.message for record in caplog.records)
        small_disk.clear()

    async with app.running(drain=5):
        await _through_trouble(app, world, go, trouble, over, StoreFull, "no room is left")


async def test_the_disk_is_full_under_postgres(small_disk, postgres_server, world, caplog):
    """The journal lies in a tablespace on the small disk."""
    go = asyncio.Event()
    folder = small_disk.folder / "space"
    folder.mkdir()
    if postgres_server.run_as:
        shutil.chown(folder, postgres_server.run_as)
    app = Standfast(postgres_server.dsn, migrate=True).add(Slow(world, go))
    async with app:
        direct = await asyncpg.connect(postgres_server.dsn)
        await direct.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        for table in ("ALTER TABLE standfast.journal", "ALTER INDEX standfast.journal_pkey"):
            await direct.execute(f"{table} SET TABLESPACE small")

        async def trouble():
            small_disk.fill()
            # What is left in the table's last page is used up too.
            with pytest.raises(asyncpg.DiskFullError):
                for seq in range(10_000):
                    await direct.execute(
                        "INSERT INTO standfast.journal VALUES (gen_random_uuid(), $1, $2)",
                        *(seq, "x" * 50),
                    )

        async def over():
            assert any("facts wait to be stored" in record.message for record in caplog.records)
            small_disk.clear()

        async with app.running(drain=5):
            await _through_trouble(app, world, go, trouble, over, StoreFull, "no room left")
        await direct.close()


@pytest.mark.timeout(120)
async def test_postgres_is_away_for_10_s(postgres_server, world, caplog):
    go = asyncio.Event()
    url = f"{postgres_server.dsn}?timeout=2s&connect_timeout=2s"
    app = Standfast(url, migrate=True).add(Slow(world, go))
    away = 0.0

    async def trouble():
        nonlocal away
        await asyncio.to_thread(postgres_server.kill)
        away = time.monotonic()

    async def over():
        await asyncio.sleep(10 - (time.monotonic() - away))
        assert any("can't reach the store" in record.message for record in caplog.records)
        await asyncio.to_thread(postgres_server.start)

    async with app.running(lease=3, drain=5, poll=0.5):
        await _through_trouble(app, world, go, trouble, over, StoreUnavailable, "PostgreSQL at")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lease", [3, 30])
async def test_sqlites_file_is_locked_by_another_for_10_s(tmp_path, world, caplog, lease):
    go = asyncio.Event()
    database = SqliteDatabase(f"sqlite:///{tmp_path}/app.db", busy_timeout=0.2)
    app = Standfast(database).add(Slow(world, go))
    other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    away = 0.0

    async def trouble():
        nonlocal away
        other.execute("BEGIN IMMEDIATE")
        away = time.monotonic()

    async def over():
        await asyncio.sleep(10 - (time.monotonic() - away))
        other.execute("ROLLBACK")

    async with app.running(lease=lease, drain=5, poll=0.5):
        await _through_trouble(
            app, world, go, trouble, over, StoreUnavailable, "write lock", repeats=lease < 10
        )
    other.close()
    assert any("can't reach the store" in record.message for record in caplog.records)


class Cut(Saga[Order]):
    """Its step of the input's name makes the network swallow the answer to its commit."""

    def __init__(self, swallow: Callable[[], None], world: World) -> None:
        self.swallow = swallow
        self.world = world

    @step(retry=SOON, no_compensation="nothing to undo")
    async def plain(self, order: Order, ctx: Context) -> str:
        await self.world.act("plain", ctx)
        if order.id == "plain":
            self.swallow()
        return "p"

    @step(transactional=True, retry=SOON, no_compensation="nothing to undo")
    async def written(self, order: Order, ctx: Context, tx: Transaction) -> str:
        await self.world.act("written", ctx)
        await tx.execute("INSERT INTO rows (id) VALUES ($1)", order.id)
        if order.id == "written":
            self.swallow()
        return "w"

    @step(retry=SOON, no_compensation="nothing to undo")
    async def last(self, order: Order, ctx: Context) -> str:
        await self.world.act("last", ctx)
        return "l"


COMMITTED = {
    "start": "SELECT count(*) FROM standfast.instances WHERE key = 'start'",
    "plain": "SELECT count(*) FROM standfast.journal JOIN standfast.instances USING (id)"
    " WHERE key = 'plain' AND seq = 1",
    "written": "SELECT count(*) FROM rows WHERE id = 'written'",
}


@pytest.mark.parametrize("which", list(COMMITTED))
@pytest.mark.timeout(120)
async def test_the_answer_to_a_commit_is_lost(which, postgres_dsn, tcp_proxy, world):
    """The server commits, and the network swallows its answer: then nobody knows, but asks."""
    proxy = await tcp_proxy(postgres_dsn)
    direct = await asyncpg.connect(postgres_dsn)
    swallowing: list[asyncio.Task[None]] = []

    async def swallow() -> None:
        # The answer is underway for so long that it can be taken when the commit is seen.
        proxy.delay(0.1)
        async with asyncio.timeout(20):
            while not await direct.fetchval(COMMITTED[which]):
                await asyncio.sleep(0.001)
        proxy.blackhole("to_client")
        await asyncio.sleep(2.5)
        await proxy.cut()
        await proxy.restore()

    saga = Cut(lambda: swallowing.append(asyncio.create_task(swallow())), world)
    url = f"{proxy.through(postgres_dsn)}?timeout=2s&connect_timeout=2s"
    app = Standfast(url, migrate=True).add(saga)
    async with app.running(lease=30, drain=5, poll=0.3):
        await direct.execute("CREATE TABLE rows (id text)")
        # So that the statements are known to the connections.
        await (await app.start(Cut, Order("warm"), key="warm")).result(timeout=20)
        world.log.clear()
        if which == "start":
            saga.swallow()
            await asyncio.sleep(0)
            with pytest.raises(StoreUnavailable):
                await app.start(Cut, Order(which), key=which)
            await swallowing[0]
            handle = await until_known(app, which)
            assert not (await app.start(Cut, Order(which), key=which)).created
        else:
            handle = await app.start(Cut, Order(which), key=which)
        result = await handle.result(timeout=60)
        assert result.as_dict() == {"plain": "p", "written": "w", "last": "l"}
        await swallowing[0]
        assert world.log == ["plain", "written", "last"], "a stored step ran again"
        assert await direct.fetchval("SELECT count(*) FROM rows") == 2
        kinds = [type(fact) for fact in (await handle.story()).facts]
        assert kinds == [fx.Started, *[fx.StepCompleted] * 3]
    await direct.close()


async def until_known(app, key):
    async with asyncio.timeout(30):
        while True:
            try:
                return await app.saga(Cut, key)
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_trips_beside_trouble_are_told_of_by_the_log_alone(tmp_path, world):
    """A control: without trouble nothing of all this is logged as an error."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("standfast").addHandler(handler)
    try:
        app = Standfast(f"sqlite:///{tmp_path}/app.db").add(Trip(world))
        async with app.running(drain=5):
            await (await app.start(Trip, Order("1"))).result(timeout=10)
    finally:
        logging.getLogger("standfast").removeHandler(handler)
    assert not records
