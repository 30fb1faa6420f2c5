"""Transactions of users never hold all connections: what else there is goes on."""

import asyncio
import logging

import pytest

from standfast import Context, Saga, Standfast, Transaction, step
from standfast.backends.postgres import PostgresDatabase, share
from standfast.conformance.samples import KINDS, journal
from standfast.errors import StoreUnavailable


class Locked(Saga[int]):
    """Its step needs a table that another has locked."""

    @step(no_compensation="it only looks", transactional=True)
    async def look(self, order: int, ctx: Context, tx: Transaction) -> int:
        return len(await tx.fetch("SELECT * FROM locked"))


class Other(Saga[int]):
    @step(no_compensation="it does nothing")
    async def pass_by(self, order: int, ctx: Context) -> int:
        return order


async def test_a_locked_table_stops_only_what_needs_it(postgres_dsn, direct, caplog, monkeypatch):
    monkeypatch.setattr(share, "WARNS_AFTER", 0.2)
    caplog.set_level(logging.WARNING)
    await direct.execute("CREATE TABLE locked (n int)")
    app = Standfast(f"{postgres_dsn}?max_size=4", migrate=True).add(Locked(), Other())
    async with app.running():
        async with direct.transaction():
            await direct.execute("LOCK TABLE locked")
            waiting = [await app.start(Locked, number) for number in range(10)]
            await asyncio.sleep(0.5)  # all of them are in their step
            other = await app.start(Other, 1)
            assert (await other.result(5))[Other.pass_by] == 1
        for handle in waiting:
            await handle.result(10)
    (told,) = [one.getMessage() for one in caplog.records if "transactions wait" in one.message]
    assert "all 2 that they may hold are held, the longest for " in told
    assert "`SELECT * FROM locked`" in told


async def test_the_last_of_them_is_given_back_after_whatever_ends_a_wait(postgres_dsn, database):
    small = PostgresDatabase(postgres_dsn, max_size=2, timeout="200ms")
    await small.open()

    async def hold():
        async with small.transaction() as tx:
            await tx.execute("SELECT 1")

    try:
        async with small.transaction() as held:
            await held.fetch("SELECT 1 AS here")
            with pytest.raises(StoreUnavailable, match="what it ran last is `SELECT 1 AS here`"):
                await hold()
            cancelled = asyncio.create_task(hold())
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.wait((cancelled,))
            assert await journal(small).next_wake(KINDS) is None  # the library's own goes on
        await hold()
        await asyncio.gather(hold(), hold(), hold())
    finally:
        await small.close()


async def test_who_was_served_in_time_warns_of_nothing_afterwards(caplog, monkeypatch):
    monkeypatch.setattr(share, "WARNS_AFTER", 0.05)
    places = share.Share(1, "db", 10.0)

    class Holds:
        sql = "SELECT 1"

    async def hold() -> None:
        async with places.held(Holds()):
            await asyncio.sleep(0)

    await asyncio.gather(hold(), hold())
    await asyncio.sleep(0.1)
    assert caplog.records == []
