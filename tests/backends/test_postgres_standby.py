"""An address that leads to a standby for a while: no connection stays there, in no way of use."""

import asyncio
import time
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.servers.fixtures import without
from tests.servers.process import ServerMissing
from tests.soak.load.schedule import Blow
from tests.soak.standby import cluster

from standfast import Context, Saga, Standfast, step
from standfast.backends.postgres import PostgresDatabase, PostgresRateLimits
from standfast.conformance.samples import journal, leases, migrate, register, start
from standfast.errors import StoreUnavailable
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Rate
from standfast.resilience.ratelimit import RateLimiter

pytestmark = pytest.mark.slow


@pytest.fixture
async def pair():
    """A primary and its synchronous standby behind one address."""
    try:
        async with cluster() as servers:
            yield servers
    except ServerMissing as missing:
        without(missing)


def through(pair) -> str:
    return pair.proxy.through(f"{pair.primary.dsn.rpartition('/')[0]}/app")


async def until_it_works(call, within=10.0):
    """Call until it answers; the seconds that this took."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while True:
            try:
                await call()
                return time.monotonic() - began
            except StoreUnavailable:
                await asyncio.sleep(0.05)


class Note(Saga[str]):
    @step(no_compensation="a note")
    async def note(self, text: str, ctx: Context) -> str:
        return text


async def lead_there_and_back(pair, app_starts):
    """As a service's endpoint that names the standby for a moment: what connects then, stays."""
    await pair.proxy.cut()
    pair.proxy.redirect("127.0.0.1", pair.standby.port)
    await pair.proxy.restore()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        with pytest.raises(StoreUnavailable):
            await app_starts()
        await asyncio.sleep(0.1)
    pair.proxy.redirect("127.0.0.1", pair.primary.port)


async def test_a_worker_goes_on_after_it_was_led_astray(pair):
    """It stayed with the standby for ever, for its connections were never closed."""
    app = Standfast(f"{through(pair)}?timeout=2s", migrate=True).add(Note())
    async with app.running(lease="2s"):
        await (await app.start(Note, "before")).result(timeout=10)
        await lead_there_and_back(pair, lambda: app.start(Note, "never", key="never"))

        async def whole():
            await (await app.start(Note, "after", key="after")).result(timeout=5)

        assert await until_it_works(whole) < 5


@pytest.mark.parametrize("query", ["", "&target_session_attrs=any"])
async def test_every_way_of_use_leaves_a_standby(pair, query):
    """Whether it was refused when it connected, or is found out by the first write."""
    database = PostgresDatabase(f"{through(pair)}?timeout=2s&min_size=2&max_size=3{query}")
    rates = PostgresRateLimits(database)
    await database.open()
    await migrate(database)
    await rates.migrate()
    request = RateRequest("k", Rate(1000, 1), 1)

    async def in_transaction():
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE IF NOT EXISTS t (n int)")
            await tx.execute("INSERT INTO t VALUES (1)")

    async def in_a_script():
        async with database.transaction() as tx:
            await journal(database).within(tx).start([start()])

    for call in (
        in_transaction,
        in_a_script,
        lambda: journal(database).start([start()], owner=None),
        lambda: register(database),
        lambda: leases(database).expire(),
        lambda: rates.check([request]),  # its table is unlogged: another error on a standby
    ):
        await until_it_works(call)  # another connection may be found out by its own first write
        await pair.proxy.cut()
        pair.proxy.redirect("127.0.0.1", pair.standby.port)
        await pair.proxy.restore()
        for _ in range(4):
            if call is not in_transaction:
                # Reading works there, where it is allowed, and keeps a connection at hand.
                try:
                    await database.pool.fetch("SELECT 1")
                except StoreUnavailable:
                    assert not query
            try:
                await call()
            except StoreUnavailable:
                pass
        pair.proxy.redirect("127.0.0.1", pair.primary.port)
        assert await until_it_works(call) < 3
    await database.close()


async def test_hints_come_again_after_a_failover(pair):
    """The standby is promoted; who listens is led there too."""
    database = PostgresDatabase(f"{through(pair)}?timeout=2s")
    await database.open()
    await migrate(database)
    hints = []
    journal(database).on_due(hints.append)
    async with asyncio.timeout(5):
        while not hints:
            await asyncio.sleep(0.05)
    await pair.fail_over_early(Blow(0.0, "early failovers", 0.5, 0.0))
    hints.clear()

    async def heard():
        await journal(database).start([start()], owner=None)
        if not any(hints):  # None is said when the listener is back
            raise StoreUnavailable("no hint yet")

    assert await until_it_works(heard, within=20) < 15
    await database.close()


async def test_a_primary_that_was_fenced_is_left_by_who_listens_too(postgres_dsn):
    """Set to read only by a failover's tool, it keeps its connections."""
    name = urlsplit(postgres_dsn).path[1:]
    admin = await asyncpg.connect(postgres_dsn)
    database = PostgresDatabase(postgres_dsn)
    await database.open()
    await migrate(database)
    hints = []
    journal(database).on_due(hints.append)
    listening = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND query ~ '^LISTEN'"
    async with asyncio.timeout(5):
        while not (before := await admin.fetchval(listening, name)):
            await asyncio.sleep(0.05)
    await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await database.pool._pool.expire_connections()
    for connection in database.pool._at_hand:
        connection.terminate()
    with pytest.raises(StoreUnavailable, match="read-only"):
        await register(database)
    async with asyncio.timeout(10):
        while await admin.fetchval(listening, name) in (before, None):
            await asyncio.sleep(0.05)
    await admin.close()
    await database.close()


async def test_a_standby_may_be_read_from(pair, monkeypatch):
    dsn = f"{pair.standby.dsn.rpartition('/')[0]}/app"
    database = PostgresDatabase(dsn)
    with pytest.raises(StoreUnavailable, match="say target_session_attrs=any"):
        await database.open()
    for kind in ("any", "standby", "read-only"):
        database = PostgresDatabase(f"{dsn}?target_session_attrs={kind}")
        await database.open()
        assert await database.pool.fetch("SELECT pg_is_in_recovery()") == [(True,)]
        await database.close()
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    database = PostgresDatabase(dsn)
    await database.open()
    assert await database.pool.fetch("SELECT pg_is_in_recovery()") == [(True,)]
    await database.close()


async def test_of_several_hosts_the_primary_is_found(pair):
    """In whatever order they stand, and again once another is promoted."""
    first, second = pair.standby, pair.primary
    hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
    database = PostgresDatabase(f"postgresql://postgres@{hosts}/app?timeout=2s")
    await database.open()
    await migrate(database)
    await register(database)
    await asyncio.to_thread(second.kill)
    connection = await asyncpg.connect(first.dsn)
    await connection.fetchval("SELECT pg_promote(true, 30)")
    await connection.close()
    assert await until_it_works(lambda: register(database)) < 5
    await database.close()


async def test_a_limiter_follows_a_failover(pair):
    """Its policy answers until the standby was promoted, and no longer."""
    await pair.proxy.restore()
    async with PostgresRateLimits(through(pair), timeout=2) as store:
        await store.migrate()
        limiter = RateLimiter(1000, "1h", store=store, name="n", on_store_failure="deny")
        assert (await limiter.check("k")).counted
        await pair.fail_over_early(Blow(0.0, "early failovers", 0.5, 0.0))

        async def counted():
            if not (await limiter.check("k")).counted:
                raise StoreUnavailable("not yet")

        assert await until_it_works(counted, within=20) < 10
        answers = await asyncio.gather(*(limiter.check(str(n)) for n in range(20)))
        assert all(decision.counted for decision in answers)
