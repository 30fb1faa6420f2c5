"""Overdue leases renewed in the nick of time, and sessions that leave nothing behind."""

import asyncio

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.conformance.samples import leases, migrate, register


@pytest.fixture
async def database(postgres_dsn):
    database = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


async def test_a_lease_that_is_renewed_as_it_is_found_overdue_stays(database, monkeypatch):
    """It was ended all the same, and with it its process's turn."""
    token = await register(database, ttl=0.01)
    await asyncio.sleep(0.05)
    fetch, renewed = database.vital.fetch, []

    async def and_renew(sql, *args):
        rows = await fetch(sql, *args)
        if not renewed and [row[0] for row in rows] == [token]:  # it was found overdue
            renewed.append(token)
            assert await leases(database).renew([token], ttl=60.0) == [True]
        return rows

    monkeypatch.setattr(database.vital, "fetch", and_renew)
    assert await leases(database).expire() == []
    assert renewed
    assert await leases(database).renew([token], ttl=60.0) == [True]


@pytest.mark.parametrize("how", ["execute", "fetch", "fetch_one", "fetch_value"])
async def test_what_sql_leaves_on_the_session_meets_no_other(database, how):
    """Only that of some methods was cleaned up."""
    ask = "SELECT current_setting('standfast.test', true)"
    async with database.transaction() as tx:
        await getattr(tx, how)("SELECT set_config('standfast.test', 'left', false)")
    async with database.transaction() as tx:
        assert not await tx.fetch_value(ask)


async def test_one_that_couldnt_be_cleaned_up_for_a_cancellation_goes_to_nobody(
    database, monkeypatch
):
    cleaning = asyncio.Event()

    async def hang(*_, **__):
        cleaning.set()
        await asyncio.sleep(1e6)

    async def leave_something():
        async with database.transaction() as tx:
            await tx.execute("SELECT set_config('standfast.test', 'left', false)")

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "reset", hang)
        task = asyncio.create_task(leave_something())
        await cleaning.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with database.transaction() as tx:
        assert not await tx.fetch_value("SELECT current_setting('standfast.test', true)")
