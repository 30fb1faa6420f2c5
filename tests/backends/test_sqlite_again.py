"""What works again on SQLite: hints after the last unsubscribed, writes after a failed commit."""

import asyncio
import sqlite3

import pytest

from standfast.backends.sqlite import SqliteDatabase
from standfast.conformance.samples import migrate
from standfast.errors import ConstraintViolated
from standfast.ports.leases import LeaseStore


@pytest.fixture
async def database(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/app.db")
    await database.open()
    await migrate(database)
    yield database
    await database.close()


async def test_hints_come_again_after_the_last_had_unsubscribed(database):
    """An app that worked a second time heard of no other process's commits."""
    told = asyncio.Event()
    leases = database.port(LeaseStore)
    leases.on_freed(lambda: None)()
    await asyncio.sleep(0.1)
    end = leases.on_freed(told.set)
    await asyncio.sleep(0.2)
    with sqlite3.connect(database.path, isolation_level=None) as con:
        con.execute("CREATE TABLE t (n)")
    async with asyncio.timeout(2):
        await told.wait()
    end()


async def test_after_a_commit_that_failed_the_task_can_write_again(database):
    """It was told that it had a transaction open, for ever."""
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE a (id INTEGER PRIMARY KEY)")
        await tx.execute("CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(ConstraintViolated):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO b VALUES (1)")
    async with database.transaction() as tx:
        await tx.execute("INSERT INTO a VALUES (1)")
    assert await database.port(LeaseStore).acquire(["x"], "me", ttl=1.0) != [None]
