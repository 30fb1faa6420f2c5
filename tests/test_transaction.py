"""What follows a commit, below all patterns."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from contextvars import Context

import pytest

from standfast import (
    Barrier,
    BranchKey,
    ConfigurationError,
    SagaNotFound,
    Standfast,
    StoreError,
    barrier,
)
from standfast.inside import innermost, is_inside
from standfast.ports.database import Statement, carry_out
from standfast.ports.leases import LeaseStore
from standfast.transaction import LaterEnding, OwnEnding


@pytest.fixture
async def app(tmp_path):
    async with Standfast(f"sqlite:///{tmp_path}/app.db") as app:
        yield app


async def test_after_the_commit_in_order_and_not_before(app):
    told = []
    async with app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")
        tx.on_commit(lambda: told.append(1))
        tx.on_commit(lambda: told.append(2))
        assert told == []
    assert told == [1, 2]


async def test_then_others_see_what_was_written(app, tmp_path):
    told = []

    def look():
        with closing(sqlite3.connect(tmp_path / "app.db")) as other:
            told.extend(other.execute("SELECT id FROM rows").fetchall())

    async with app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")
        await tx.execute("INSERT INTO rows VALUES (1)")
        tx.on_commit(look)
    assert told == [(1,)]


async def test_never_after_a_rollback(app):
    told = []
    with pytest.raises(ZeroDivisionError):
        async with app.transaction() as tx:
            tx.on_commit(lambda: told.append(1))
            raise ZeroDivisionError
    assert told == []


async def test_one_that_raises_keeps_no_other_from_being_called(app, caplog):
    told = []
    async with app.transaction() as tx:
        tx.on_commit(lambda: 1 / 0)
        tx.on_commit(lambda: told.append(1))
    assert told == [1]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


async def test_what_stops_the_process_comes_out_after_all_were_called(app):
    told = []

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with app.transaction() as tx:
            tx.on_commit(stop)
            tx.on_commit(lambda: told.append(1))
            tx.on_commit(lambda: told.append(2))
    assert told == [1, 2]
    with pytest.raises(ConfigurationError, match="after the end of its transaction"):
        tx.on_commit(print)


async def test_one_that_is_given_while_they_are_called_is_called_too(app):
    told = []
    async with app.transaction() as tx:
        tx.on_commit(lambda: tx.on_commit(lambda: told.append(1)))
    assert told == [1]


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, None])
async def test_after_the_end_it_is_refused(app, error):
    told = []
    try:
        async with app.transaction() as tx:
            tx.hint(lambda: told.append(1))
            if error:
                raise error
    except (ZeroDivisionError, asyncio.CancelledError):
        pass
    assert told == ([] if error else [1])
    with pytest.raises(ConfigurationError, match="after the end of its transaction"):
        tx.on_commit(print)


async def test_whoever_uses_it_is_inside_of_it(app):
    """Wherever it was opened: by a dependency of FastAPI's, say, in another context."""

    def script():
        yield Statement("SELECT 1")

    async def inside(use):
        assert not is_inside(app.database)
        await use()
        return is_inside(app.database)

    async with app.transaction() as tx:

        async def ports():
            tx.within(LeaseStore)

        async def saves():
            async with tx.savepoint():
                pass

        ways = {
            "execute": lambda: tx.execute("CREATE TABLE rows (id int)"),
            "fetch": lambda: tx.fetch("SELECT 1"),
            "fetch_one": lambda: tx.fetch_one("SELECT 1"),
            "fetch_value": lambda: tx.fetch_value("SELECT 1"),
            "run_script": lambda: tx.run_script(script()),
            "within": ports,
            "savepoint": saves,
        }
        found = {
            name: await asyncio.create_task(inside(use), context=Context())
            for name, use in ways.items()
        }
        assert found == dict.fromkeys(ways, True)
        assert not await asyncio.create_task(inside(lambda: asyncio.sleep(0)), context=Context())
    assert not is_inside(app.database)


async def test_a_task_that_was_begun_inside_of_it_is_outside_once_it_has_ended(app):
    ended, seen = asyncio.Event(), []

    async def looks():
        seen.append(is_inside(app.database))
        await ended.wait()
        seen.append(is_inside(app.database))
        seen.append(innermost())

    async with app.transaction():
        task = asyncio.create_task(looks())
        await asyncio.sleep(0)
        async with Standfast("memory://") as other, other.transaction():
            assert is_inside(app.database)
            assert is_inside(other.database)
        assert is_inside(app.database)
        assert not is_inside(other.database)
    ended.set()
    await task
    assert seen == [True, False, None]


async def test_what_nobody_would_call_or_await_is_refused(app):
    async def later():
        pass

    async with app.transaction() as tx:
        for wrong in (later, None, 5):
            with pytest.raises(ConfigurationError, match="give a plain function"):
                tx.on_commit(wrong)


async def test_a_savepoint_undoes_what_its_block_wrote(app):
    told = []
    async with app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")
        tx.on_commit(lambda: told.append("before"))
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                await tx.execute("INSERT INTO rows VALUES (1)")
                tx.on_commit(lambda: told.append("undone"))
                async with tx.savepoint():
                    await tx.execute("INSERT INTO rows VALUES (2)")
                    tx.on_commit(lambda: told.append("undone too"))
                raise ZeroDivisionError
        async with tx.savepoint():
            await tx.execute("INSERT INTO rows VALUES (3)")
            tx.on_commit(lambda: told.append("kept"))
            with pytest.raises(ZeroDivisionError):
                async with tx.savepoint():
                    await tx.execute("INSERT INTO rows VALUES (4)")
                    raise ZeroDivisionError
        assert [row[0] for row in await tx.fetch("SELECT id FROM rows")] == [3]
    assert told == ["before", "kept"]


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_a_savepoint_undoes_starts_signals_and_marks(url, tmp_path):
    from tests.adopted.conftest import Order, Place

    url = url if url == "memory://" else f"sqlite:///{tmp_path}/app.db"
    async with Standfast(url).add(Place(), Barrier()) as app:
        waits = await app.start(Place, Order("waits"), key="waits")
        async with app.transaction() as tx:
            kept = await tx.start(Place, Order("kept"), key="kept")
            with pytest.raises(ZeroDivisionError):
                async with tx.savepoint():
                    await tx.start(Place, Order("undone"), key="undone")
                    await tx.signal(waits, "paid", 1)
                    await tx.signal(kept, "paid", 1)
                    async with barrier(tx, BranchKey("1/pay")) as gate:
                        assert gate.first
                    raise ZeroDivisionError
            async with barrier(tx, BranchKey("1/pay")) as gate:
                assert gate.first
        with pytest.raises(SagaNotFound):
            await app.saga(Place, "undone")
        async with app.running():
            assert await waits.status() == await kept.status() == "running"
            for handle in (waits, kept):
                await handle.signal("paid", 2)
                assert (await handle.result(20))["paid"] == 2


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_a_savepoint_that_is_undone_leaves_the_marks_from_before_it(url, tmp_path):
    url = url if url == "memory://" else f"sqlite:///{tmp_path}/app.db"
    async with Standfast(url).add(Barrier()) as app, app.transaction() as tx:
        async with barrier(tx, BranchKey("1/pay")) as gate:
            assert gate.first
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                raise ZeroDivisionError
        async with barrier(tx, BranchKey("1/pay")) as gate:
            assert not gate.first


async def test_a_script_rides_it(app):
    def script():
        yield Statement("CREATE TABLE rows (id int)")
        yield Statement("INSERT INTO rows VALUES ($1)", [(1,), (2,)], True)
        rows = yield Statement("SELECT id FROM rows WHERE id > $1", (1,))
        return [row[0] for row in rows]

    async with app.transaction() as tx:
        assert tx.dialect == "sqlite"
        assert await carry_out(tx, script()) == [2]


async def test_sql_that_is_no_text_is_refused(app):
    async with app.transaction() as tx:
        for run in (tx.execute, tx.fetch, tx.fetch_one, tx.fetch_value):
            with pytest.raises(ConfigurationError, match=r"^an int isn't SQL as text"):
                await run(5)


async def test_after_its_end_it_tells_what_to_use(app):
    async with app.transaction() as tx:
        await tx.fetch("SELECT 1")
    with pytest.raises(StoreError, match=r"is over: .* app\.start\(…\), or app\.transaction\(\)"):
        await tx.execute("SELECT 1")


def test_acts_that_are_left_for_later_follow_the_commit_all_the_same():
    """In a thread, say: until they were called it isn't over, so that they may give others."""
    told: list[int] = []
    ending, after = OwnEnding(), OwnEnding()
    later = LaterEnding(ending, after)
    later.add(lambda: told.append(1))
    assert (later.known, later.over, after.has_acts) == (True, False, False)
    ending.committed()
    assert (later.over, after.has_acts, told) == (False, True, [])
    later.add(lambda: told.append(2))
    after.committed()
    assert (later.over, told) == (True, [1, 2])
    ending, after = OwnEnding(), OwnEnding()
    LaterEnding(ending, after).add(lambda: told.append(3))
    ending.rolled_back()
    assert not after.has_acts
    ending.known = False
    assert not LaterEnding(ending, after).known
