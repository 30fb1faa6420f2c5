"""Who makes a commit: the writer's thread, or the event loop itself."""

import asyncio
import contextlib
import sqlite3
import threading
import time

import pytest

from standfast.backends.sqlite import SqliteDatabase, connection, transaction, writer
from standfast.backends.sqlite.journal import writing
from standfast.conformance.samples import journal, leases, marks, migrate, register, start
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.journal import Append

LOOP, THREAD = "event loop", "thread"


@contextlib.asynccontextmanager
async def opened(tmp_path, **options):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db", **options)
    await database.open()
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


def where(con=None):
    return LOOP if threading.current_thread() is threading.main_thread() else THREAD


@pytest.fixture
def writes(monkeypatch):
    """Where each start and append of the journal was written."""
    seen = []
    for name in ("start", "append", "append_fact"):
        real = getattr(writing, name)

        def spy(*args, real=real, **options):
            seen.append(where())
            return real(*args, **options)

        monkeypatch.setattr(writing, name, spy)
    return seen


async def test_a_lone_write_is_made_by_the_event_loop(tmp_path, writes):
    async with opened(tmp_path, inline_below="1h") as database:
        one = start("k")
        (answer,) = await journal(database).start([one], owner=None)
        assert answer.created
        token = await register(database)
        await journal(database).claim(token, [("saga", "order", 1)], now=time.time(), limit=1)
        assert await journal(database).append(token, [Append(one.instance.id, 0, ["1"])]) == [None]
        assert writes == [LOOP, LOOP]


async def test_zero_leaves_every_write_to_the_thread(tmp_path, writes):
    async with opened(tmp_path, inline_below=0) as database:
        for _ in range(100):
            await journal(database).start([start()], owner=None)
    assert set(writes) == {THREAD}


def commit(con, pause=0.0):
    con.execute("INSERT INTO standfast_marks (key, operation, reason, at) VALUES ('k', 'o', '', 0)")
    con.execute("DELETE FROM standfast_marks")
    time.sleep(pause)
    return where()


async def test_only_after_a_row_of_fast_commits(tmp_path):
    async with opened(tmp_path, inline_below="200ms") as database:
        places = [await database.file.write(commit, brief=True) for _ in range(50)]
        assert places[0] == THREAD
        assert places[-1] == LOOP
        await database.file.write(lambda con: commit(con, 0.25), brief=True)
        for _ in range(100):  # reading says nothing about the disk
            await database.file.write(where, brief=True)
        assert await database.file.write(commit, brief=True) == THREAD
        places = [await database.file.write(commit, brief=True) for _ in range(50)]
        assert places[-1] == LOOP


async def test_many_or_large_ones_are_for_the_thread(tmp_path, writes):
    async with opened(tmp_path, inline_below="1h") as database:
        await journal(database).start([start(), start()], owner=None)
        large = start()
        large.fact = '"' + "x" * 100_000 + '"'
        await journal(database).start([large], owner=None)
        await journal(database).start([start()], owner=None)
    assert writes == [THREAD, THREAD, LOOP]


async def test_what_waits_behind_another_is_for_the_thread(tmp_path):
    async with opened(tmp_path, inline_below="1h") as database:
        async with database.transaction() as tx:
            await marks(database).within(tx).set("k", "do", "x", at=1.0)

            async def write():
                return await database.file.write(where, brief=True)

            waiting = asyncio.create_task(write())
            await asyncio.sleep(0.01)
            assert not waiting.done()
        assert await waiting == THREAD
        assert await database.file.write(where, brief=True) == LOOP


async def test_the_event_loop_never_waits_for_another_process(tmp_path):
    """The lock is held for 0.3 s, and meanwhile the loop goes on."""
    async with opened(tmp_path, inline_below="1h") as database:
        assert await database.file.write(where, brief=True) == LOOP
        with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            starting = journal(database).start([start("k")], owner=None)
            ticks = 0
            for _ in range(30):
                await asyncio.sleep(0.01)
                ticks += not starting.done()
            other.execute("ROLLBACK")
        assert ticks == 30
        (answer,) = await starting
        assert answer.created


async def test_another_process_that_never_lets_go_is_an_error(tmp_path):
    async with opened(tmp_path, inline_below="1h", busy_timeout=0.05) as database:
        with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="busy timeout"):
                await journal(database).start([start("k")], owner=None)
        (answer,) = await journal(database).start([start("k")], owner=None)
        assert answer.created


async def test_the_log_is_tidied_up_though_all_writes_are_inline(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 50)
    async with opened(tmp_path, inline_below="1h") as database:
        for _ in range(1000):
            await journal(database).start([start()], owner=None)
        with contextlib.closing(sqlite3.connect(database.path)) as other:
            _, frames, _ = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert 0 < frames < 1000  # of some 4,000 written: after 100 writes, the thread has its turn


def test_wrong_option(tmp_path):
    with pytest.raises(ConfigurationError, match="inline_below"):
        SqliteDatabase(f"sqlite:///{tmp_path}/test.db", inline_below="soon")


async def test_a_transaction_that_keeps_the_writer_is_told_of(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(transaction, "WARNS_AFTER", 0.1)
    async with opened(tmp_path) as database:
        for pause in (0.0, 0.3):
            async with database.transaction() as tx:
                await tx.fetch("SELECT 1 AS here")
                await asyncio.sleep(pause)
        await asyncio.sleep(0.2)
    (told,) = [one.getMessage() for one in caplog.records]
    assert "has kept the only writer of " in told
    assert "what it ran last is `SELECT 1 AS here`" in told


async def test_a_transaction_that_is_waited_for_by_itself_is_told(tmp_path, caplog, monkeypatch):
    """What waits for the writer is refused in the end, whatever it is, and leases are not."""
    monkeypatch.setattr(transaction, "WARNS_AFTER", 0.05)
    monkeypatch.setattr(transaction, "REFUSES_AFTER", 0.1)
    why = r"has kept since .* UTC, what it ran last is `start`\. .* through its tx \(tx\.start"

    async def another(database):
        async with database.transaction() as tx:
            await tx.fetch("SELECT 1")

    async def plain(database):
        await journal(database).start([start()], owner=None)

    async with opened(tmp_path) as database, asyncio.timeout(20):
        token = await register(database)
        async with database.transaction() as tx:
            await journal(database).within(tx).start([start("mine")])
            for _ in range(2):  # those that come later, too
                for one in [asyncio.create_task(act(database)) for act in (another, plain)]:
                    with pytest.raises(StoreUnavailable, match=why):
                        await one
            renewed = asyncio.create_task(leases(database).renew([token], ttl=60))
        assert "what it ran last is `start`" in caplog.text
        assert await renewed == [True]
        await another(database)
        assert await journal(database).count("saga") == {("order", "running"): 1}


@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("count", [1, 8, 73, 130])
async def test_of_many_starts_each_is_answered_whose_key_was_taken(tmp_path, count, owned):
    """They are inserted many by one statement, of several sizes."""
    async with opened(tmp_path) as database:
        owner = await register(database) if owned else None
        _, *rest = [start(f"k{number}") for number in range(count)]
        assert all(one.created for one in await journal(database).start(rest, owner=owner))
        again = [start(f"k{number}") for number in range(count)]
        answers = await journal(database).start(again, owner=owner)
        assert [one.created for one in answers] == [True] + [False] * (count - 1)
        assert [one.id for one in answers[1:]] == [one.instance.id for one in rest]
        stored = await journal(database).load([answers[0].id, *(one.instance.id for one in rest)])
        assert [len(one.facts) for one in stored] == [1] * count
        assert {one.instance.owner for one in stored} == {owner}
