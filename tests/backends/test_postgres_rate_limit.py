"""Rate limits in a real PostgreSQL: the contract, and what happens when it goes away."""

import asyncio

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase, PostgresRateLimits
from standfast.conformance import RateLimitSuite
from standfast.errors import ConfigurationError, MigrationNeeded
from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.ports.schema import Schema
from standfast.rates import Rate
from standfast.resilience.deadline import remaining, within
from standfast.resilience.ratelimit import RateLimiter


async def migrate(dsn):
    async with PostgresRateLimits(dsn) as store:
        assert [done.line for done in await store.migrate()] == ["rate_limits"]
        assert await store.migrate() == []


@pytest.fixture
async def dsn(postgres_dsn):
    await migrate(postgres_dsn)
    return postgres_dsn


@pytest.fixture
async def store(dsn):
    async with PostgresRateLimits(dsn, timeout=30) as store:
        yield store


class TestOnADatabase(RateLimitSuite):
    """Made by the port of a database that others use too."""

    @pytest.fixture
    async def store(self, postgres_dsn):
        database = PostgresDatabase(postgres_dsn)
        await database.open()
        await database.port(Schema).migrate(database.lines([RateLimitStore]))
        yield database.port(RateLimitStore)
        await database.close()


class TestPostgres(RateLimitSuite):
    @pytest.fixture
    async def store(self, dsn):
        async with PostgresRateLimits(dsn, timeout=30) as store:
            yield store


async def test_concurrent_checks_share_statements(store, monkeypatch):
    """32 callers that ask at the same time cost one statement, not 32."""
    limiter = RateLimiter(1000, "1h", store=store, name="api", on_store_failure="deny")
    statements = []
    fetch = store._pool.fetch

    async def counted(sql, *args):
        statements.append(sql)
        return await fetch(sql, *args)

    monkeypatch.setattr(store._pool, "fetch", counted)
    decisions = await asyncio.gather(*(limiter.check() for _ in range(32)))
    assert sorted(d.remaining for d in decisions) == list(range(968, 1000))
    assert len(statements) == 1


async def test_processes_share_limits_without_deadlocks(dsn):
    """Batches over the same keys, in any order."""
    stores = [PostgresRateLimits(dsn, timeout=60) for _ in range(3)]
    for store in stores:
        await store.open()
    rate = Rate(50, "1h")
    keys = [f"k{n}" for n in range(10)]

    async def ask(store, turn):
        shifted = keys[turn % 10 :] + keys[: turn % 10]
        return await store.check([RateRequest(key, rate) for key in shifted])

    answers = await asyncio.gather(*(ask(store, n) for store in stores for n in range(30)))
    assert sum(decision.allowed for answer in answers for decision in answer) == 500
    for store in stores:
        await store.close()


async def test_expired_keys_are_purged(dsn):
    async with PostgresRateLimits(dsn, timeout=30, purge_limit=60) as store:
        brief, long = Rate(10, 0.01), Rate(10, "1h")
        await store.check([RateRequest(f"brief-{n}", brief) for n in range(100)])
        await store.check([RateRequest(f"long-{n}", long) for n in range(5)])
        await asyncio.sleep(0.05)
        assert [await store.purge() for _ in range(3)] == [60, 40, 0]
        assert (await store.check([RateRequest("long-1", long)]))[0].remaining == 8


async def test_purges_by_itself(dsn):
    async with PostgresRateLimits(dsn, timeout=30, purge_every=0.01) as store:
        await store.check([RateRequest("brief", Rate(10, 0.01))])
        connection = await asyncpg.connect(dsn)
        async with asyncio.timeout(30):
            while await connection.fetchval(
                "SELECT count(*) FROM standfast.rate_limits WHERE key = '0:brief'"
            ):
                await asyncio.sleep(0.02)
                await store.check([RateRequest("other", Rate(10, "1h"))])
        await connection.close()


async def test_between_two_purges_a_check_is_one_statement(store, monkeypatch):
    statements = []
    fetch = store._pool.fetch

    async def counted(sql, *args):
        statements.append(sql)
        return await fetch(sql, *args)

    monkeypatch.setattr(store._pool, "fetch", counted)
    store._purged_at -= 120  # longer ago than `purge_every`
    for _ in range(3):
        await store.check([RateRequest("k", Rate(10))])
    assert ["DELETE" in sql for sql in statements] == [False, True, False, False]


async def test_a_server_clock_set_back_blocks_no_longer_than_a_refill(store, dsn):
    """A state an hour in the future, as it would be found after the clock was set back."""
    await store.check([RateRequest("k", Rate(10, 1.0))])
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE standfast.rate_limits SET full_at = full_at + 3600")
    await connection.close()
    (denied,) = await store.check([RateRequest("k", Rate(10, 1.0))])
    assert not denied.allowed
    assert denied.retry_after <= 1.0
    await asyncio.sleep(denied.retry_after)
    (allowed,) = await store.check([RateRequest("k", Rate(10, 1.0))])
    assert allowed.allowed


async def test_without_its_tables(postgres_dsn):
    async with PostgresRateLimits(postgres_dsn, timeout=30) as store:
        with pytest.raises(MigrationNeeded):
            await store.check([RateRequest("k", Rate(10))])


@pytest.mark.parametrize("policy", ["allow", "deny"])
async def test_postgres_killed_during_use(postgres_server, policy):
    await migrate(postgres_server.dsn)
    async with PostgresRateLimits(postgres_server.dsn, timeout=10) as store:
        limiter = RateLimiter(3, "1h", store=store, name="api", on_store_failure=policy)
        assert (await limiter.check()).allowed
        postgres_server.kill()
        while_away = await asyncio.gather(*(limiter.check() for _ in range(20)))
        assert {decision.allowed for decision in while_away} == {policy == "allow"}
        postgres_server.start()
        # A connection that broke may fail once more; then it counts again, from nothing (unlogged).
        failures = None
        while failures != limiter._watched.failures:
            failures = limiter._watched.failures
            await limiter.check()
        for _ in range(3):
            await limiter.check()
        assert not (await limiter.check()).allowed
        assert limiter._watched.failures == failures


async def test_on_a_database_it_shares_connections(dsn):
    database = PostgresDatabase(dsn, max_size=3)
    with pytest.raises(ConfigurationError, match="PostgresDatabase"):
        PostgresRateLimits(database, timeout=1)
    await database.open()
    async with PostgresRateLimits(database, max_batch=1) as store:
        rate = Rate(10, "1h")
        checks = (store.check([RateRequest("k", rate)]) for _ in range(12))
        decisions = await asyncio.gather(*checks)
        assert sum(decision.allowed for (decision,) in decisions) == 10
    # What is over is only the store.
    (decision,) = await database.port(RateLimitStore).check([RateRequest("k", rate)])
    assert not decision.allowed
    await database.close()


async def test_a_database_closes_what_its_store_was_asked(dsn):
    database = PostgresDatabase(dsn)
    await database.open()
    store = database.port(RateLimitStore)
    check = asyncio.create_task(store.check([RateRequest("k", Rate(10, "1h"))]))
    await asyncio.sleep(0)
    await database.close()
    assert (await check)[0].allowed
    await database.open()
    assert (await store.check([RateRequest("k", Rate(10, "1h"))]))[0].remaining == 8
    await database.close()


async def test_the_deadline_of_who_asks_first_isnt_that_of_all(monkeypatch):
    left = []

    async def fetch(sql, keys, *_):
        left.append(remaining())
        return [(True, 9, 0.0, 360.0)] * len(keys)

    store = PostgresRateLimits("postgresql://127.0.0.1:1/none")
    monkeypatch.setattr(store._pool, "fetch", fetch)
    request = RateRequest("k", Rate(10, "1h"))
    with within("1h"):
        assert await store.check([request]) == [(True, 9, 0.0, 360.0, True)]
        assert len(await store.check([request] * 2)) == 2
    assert left[0] is None
    assert left[1] is not None, "several at once are one caller's"
