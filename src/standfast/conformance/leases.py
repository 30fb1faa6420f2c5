"""The contract of `WorkerLeases`, as tests."""

from __future__ import annotations

import asyncio
import time

import pytest

from standfast.conformance.samples import (
    KIND,
    KINDS,
    Suite,
    facts,
    is_due,
    loaded,
    owned,
    passive,
    register,
)
from standfast.errors import StaleWriter
from standfast.ports.database import Database
from standfast.ports.journal import Append


class LeasesSuite(Suite):
    """Override the fixture `database`."""

    async def test_tokens_grow(self, database: Database) -> None:
        """Each is larger than any before, also when those are gone."""
        tokens: list[int] = []
        for _ in range(4):
            tokens.append(await register(database))
            await database.leases.release(tokens[-1])
        assert tokens == sorted(set(tokens))

    async def test_one_worker_where_the_store_takes_one(self, database: Database) -> None:
        """None while another's lease runs, a token once it is gone."""
        if database.capabilities.many_workers:
            pytest.skip("the backend takes many workers")
        first = await database.leases.register("a", KINDS, ttl=600)
        assert first is not None
        assert await database.leases.register("b", KINDS, ttl=600) is None
        assert [w.name for w in await database.leases.workers()] == ["a"]
        await database.leases.release(first)
        assert await database.leases.register("b", KINDS, ttl=600) is not None

    async def test_many_workers_at_once(self, database: Database) -> None:
        """Where the store takes many, registering at once gives each its own token."""
        if not database.capabilities.many_workers:
            pytest.skip("the backend takes one worker")
        tokens = await asyncio.gather(*(register(database, f"w{n}") for n in range(8)))
        assert len(set(tokens)) == 8
        workers = await database.leases.workers()
        assert [w.token for w in workers] == sorted(tokens)

    async def test_register_expires_first(self, database: Database) -> None:
        """Leases that ran out are ended by it, as by `expire`."""
        old = await register(database, ttl=0.001)
        id = await owned(database, old)
        await asyncio.sleep(0.01)
        new = await register(database)
        assert [w.token for w in await database.leases.workers()] == [new]
        assert await database.leases.renew(old, ttl=60) is False
        assert await is_due(database, new, id)

    async def test_workers(self, database: Database) -> None:
        """Name, kinds, the time left and the number of instances owned."""
        assert await database.leases.workers() == []
        token = await register(database, "host-1", ttl=100)
        await owned(database, token)
        await owned(database, token)
        await passive(database)
        (worker,) = await database.leases.workers()
        assert (worker.token, worker.name, worker.kinds, worker.owned) == (
            token,
            "host-1",
            KINDS,
            2,
        )
        assert 90 < worker.expires_in <= 100

    async def test_overdue_workers_are_listed(self, database: Database) -> None:
        """With a negative `expires_in`, until somebody ends them."""
        await register(database, ttl=0.001)
        await asyncio.sleep(0.01)
        (worker,) = await database.leases.workers()
        assert worker.expires_in < 0

    async def test_renew(self, database: Database) -> None:
        """The lease then runs for `ttl` from now."""
        token = await register(database, ttl=0.2)
        assert await database.leases.renew(token, ttl=100)
        (worker,) = await database.leases.workers()
        assert 90 < worker.expires_in <= 100
        await asyncio.sleep(0.25)
        assert await database.leases.expire() == []
        assert await database.leases.renew(token, ttl=0.001)
        await asyncio.sleep(0.01)
        assert await database.leases.expire() == [token]

    async def test_renew_of_a_lost_lease(self, database: Database, stale: int) -> None:
        """False, for good; and for a token that never was."""
        assert await database.leases.renew(stale, ttl=60) is False
        assert await database.leases.renew(stale, ttl=60) is False
        assert await database.leases.renew(stale + 1000, ttl=60) is False
        assert await database.leases.workers() == []

    async def test_expire(self, database: Database) -> None:
        """Ends what has run out, nothing else; the instances become passive and due now."""
        token = await register(database, ttl=0.05)
        mine = [await owned(database, token) for _ in range(3)]
        asleep = await passive(database, wake_at=time.time() + 1e6)
        assert await database.leases.expire() == []
        assert (await loaded(database, mine[0])).instance.owner == token
        await asyncio.sleep(0.06)
        assert await database.leases.expire() == [token]
        assert await database.leases.expire() == []
        new = await register(database)
        claimed = await database.journal.claim(new, [KIND], now=time.time(), limit=10)
        assert {it.instance.id for it in claimed} == set(mine)
        assert (await loaded(database, asleep)).instance.owner is None

    async def test_expire_leaves_the_living(self, database: Database) -> None:
        """Where there are several."""
        if not database.capabilities.many_workers:
            pytest.skip("the backend takes one worker")
        alive = await register(database, "alive")
        dead = await register(database, "dead", ttl=0.001)
        kept = await owned(database, alive)
        await asyncio.sleep(0.01)
        assert await database.leases.expire() == [dead]
        assert (await loaded(database, kept)).instance.owner == alive
        assert await database.leases.renew(alive, ttl=60)

    async def test_expire_is_atomic_against_append(self, database: Database) -> None:
        """Each write either came before and is there, or is refused and isn't."""
        token = await register(database, ttl=0.05)
        id = await owned(database, token)

        async def write() -> int:
            for number in range(100_000):
                (answer,) = await database.journal.append(token, [Append(id, number, ["x"])])
                if answer is not None:
                    assert isinstance(answer, StaleWriter)
                    return number
                await asyncio.sleep(0)
            raise AssertionError("the lease never ended")

        async def end() -> int:
            await asyncio.sleep(0.06)
            assert await database.leases.expire() == [token]
            return len(await facts(database, id)) - 1

        accepted, seen = await asyncio.gather(write(), end())
        assert accepted > 0
        assert accepted == seen == len(await facts(database, id)) - 1

    async def test_release(self, database: Database) -> None:
        """Its instances become passive and due now, and the token is stale; twice is fine."""
        token = await register(database)
        id = await owned(database, token)
        await database.leases.release(token)
        await database.leases.release(token)
        assert await database.leases.workers() == []
        assert await database.leases.renew(token, ttl=60) is False
        (answer,) = await database.journal.append(token, [Append(id, 0, ["late"])])
        assert isinstance(answer, StaleWriter)
        new = await register(database)
        assert await is_due(database, new, id)
