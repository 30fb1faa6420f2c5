"""PostgreSQL that is away, full, misused or misconfigured: clear errors, and recovery by itself."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase, PostgresOptions
from standfast.backends.postgres.journal import statements
from standfast.backends.postgres.journal.writer import PostgresJournalWriter
from standfast.backends.postgres.marks import PostgresMarkWriter
from standfast.clock import SYSTEM_CLOCK
from standfast.conformance.samples import (
    KINDS,
    journal,
    leases,
    loaded,
    mail,
    marks,
    migrate,
    register,
    start,
)
from standfast.errors import (
    ConfigurationError,
    ConstraintViolated,
    MigrationNeeded,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from standfast.ports.journal import Append, RowChange
from standfast.ports.schema import Schema


@pytest.fixture
async def database(postgres_dsn):
    database = PostgresDatabase(postgres_dsn, max_size=2)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


@pytest.mark.slow
@pytest.mark.crash
async def test_away_for_10_s_then_the_same_object_works_again(postgres_server):
    database = PostgresDatabase(postgres_server.dsn, timeout="5s")
    await database.open()
    await migrate(database)
    hints = []
    journal(database).on_due(hints.append)
    token = await register(database)
    one = start()
    await journal(database).start([one], owner=token)
    calls = {
        "start": lambda: journal(database).start([start()], owner=token),
        "append": lambda: journal(database).append(token, [Append(one.instance.id, 0, ["{}"])]),
        "with mail": lambda: journal(database).append(
            token, [Append(one.instance.id, 0, ["{}"], mails=[mail(one.instance.id)])]
        ),
        "claim": lambda: journal(database).claim(token, KINDS, now=time.time(), limit=1),
        "load": lambda: journal(database).load([one.instance.id]),
        "send": lambda: journal(database).send([mail(one.instance.id)]),
        "count": lambda: journal(database).count("saga"),
        "purge": lambda: journal(database).purge("saga", finished_before=0.0, limit=1),
        "renew": lambda: leases(database).renew([token], ttl=60),
        "expire": lambda: leases(database).expire(),
        "acquire": lambda: leases(database).acquire(["a"], "me", ttl=60),
        "release": lambda: leases(database).release([token]),
        "free": lambda: journal(database).release(token),
        "reclaim": lambda: journal(database).reclaim(),
        "applied": lambda: database.port(Schema).applied(),
        "migrate": lambda: migrate(database),
    }
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT 1") == 1
    with pytest.raises(StoreUnavailable):
        async with database.transaction() as tx:
            await tx.execute("SELECT 1")
            postgres_server.kill()
            away = time.monotonic()
            await tx.execute("SELECT 1")
    for _ in range(2):
        for name, call in calls.items():
            with pytest.raises(StoreUnavailable):
                await call()
                pytest.fail(name)
    with pytest.raises(StoreUnavailable):
        async with database.transaction() as tx:
            await tx.execute("SELECT 1")
    await asyncio.sleep(10 - (time.monotonic() - away))
    hints.clear()
    await asyncio.to_thread(postgres_server.start)
    async with asyncio.timeout(10):
        while True:
            try:
                assert await leases(database).renew([token], ttl=60) == [True]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    stored = await loaded(database, one.instance.id)
    assert (stored.instance.owner, len(stored.facts)) == (token, 1)
    assert await calls["append"]() == [None]
    # The listener comes back by itself, says that something may have been missed, and hears again.
    async with asyncio.timeout(15):
        while not hints:
            await asyncio.sleep(0.05)
        other = PostgresDatabase(postgres_server.dsn)
        await other.open()
        await journal(other).send([mail(one.instance.id)])
        while one.instance.id not in hints:
            await asyncio.sleep(0.05)
    await other.close()
    await database.close()


async def test_open_without_a_server():
    for options in ("", "?min_size=0"):
        database = PostgresDatabase(f"postgresql://u:hunter2@127.0.0.1:1/shop{options}")
        with pytest.raises(StoreUnavailable, match="check that it runs") as caught:
            await database.open()
        assert "hunter2" not in str(caught.value)
        await database.close()


async def test_a_server_that_stalls_ends_in_unavailable(postgres_dsn, database, direct):
    slow = PostgresDatabase(postgres_dsn, timeout="300ms", max_size=2)
    await slow.open()
    token = await register(database)
    one = start()
    await journal(database).start([one], owner=token)
    async with direct.transaction():
        await direct.execute("LOCK TABLE standfast.journal IN ACCESS EXCLUSIVE MODE")
        for _ in range(4):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="in time"):
                await journal(slow).append(token, [Append(one.instance.id, 0, ["{}"])])
            assert time.monotonic() - began < 2
    assert await journal(slow).append(token, [Append(one.instance.id, 0, ["{}"])]) == [None]
    await slow.close()


async def test_a_network_that_swallows_everything(postgres_dsn, database, tcp_proxy):
    proxy = await tcp_proxy(postgres_dsn)
    cut_off = PostgresDatabase(
        proxy.through(postgres_dsn), timeout="500ms", connect_timeout="500ms", max_size=2
    )
    await cut_off.open()
    token = await register(cut_off)
    one = start()
    await journal(cut_off).start([one], owner=token)
    proxy.blackhole()
    for _ in range(4):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await journal(cut_off).append(token, [Append(one.instance.id, 0, ["{}"])])
        assert time.monotonic() - began < 3
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        async with cut_off.transaction() as tx:
            await tx.execute("SELECT 1")
    assert time.monotonic() - began < 3
    await proxy.restore()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await leases(cut_off).renew([token], ttl=60) == [True]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    proxy.blackhole()
    began = time.monotonic()
    await cut_off.close()
    assert time.monotonic() - began < 3


async def test_cancelled_calls_do_not_poison_the_pool(database, direct):
    token = await register(database)
    starts = [start() for _ in range(20)]
    await journal(database).start(starts, owner=token)

    async def in_transaction(one):
        async with database.transaction() as tx:
            await (
                journal(database)
                .within(tx)
                .append(token, Append(one.instance.id, 0, ["{}"], mails=[mail(one.instance.id)]))
            )
            await tx.fetch_value("SELECT pg_sleep(0.01)")

    for n in range(60):
        one = starts[n % 20]
        if n % 3:
            task = asyncio.create_task(in_transaction(one))
        else:
            # A batch with mail is several statements too.
            task = asyncio.create_task(
                journal(database).append(
                    token, [Append(one.instance.id, 99, ["{}"], mails=[mail(one.instance.id)])]
                )
            )
        await asyncio.sleep(0.0004 * (n % 17))
        task.cancel()
        await asyncio.wait([task])
    async with asyncio.timeout(5):
        await asyncio.gather(*(journal(database).count("saga") for _ in range(10)))
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE "
    )
    assert await direct.fetchval(query + "'idle in transaction%'") == 0
    # Whole or not at all.
    for stored in await journal(database).load([one.instance.id for one in starts]):
        assert len(stored.mails) == len(stored.facts) - 1


async def test_what_a_claim_took_while_its_answer_was_lost_is_known(database, monkeypatch):
    token = await register(database)
    starts = [start() for _ in range(3)]
    await journal(database).start(starts, owner=None)

    async def fails(ids):
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(journal(database), "load", fails)
        with pytest.raises(StoreUnavailable):
            await journal(database).claim(token, KINDS, now=time.time() + 1, limit=2)
    taken = set(await journal(database).owned_by(token))
    (rest,) = await journal(database).claim(token, KINDS, now=time.time() + 1, limit=9)
    assert taken | {rest.instance.id} == {one.instance.id for one in starts}
    assert len(taken) == 2


class Stepping:
    """A clock that is `step` seconds on whenever it is asked."""

    def __init__(self, step: float) -> None:
        self.at, self.step = time.time(), step

    def now(self) -> float:
        self.at += self.step
        return self.at


async def test_the_wait_for_a_connection_is_no_difference_of_clocks(database, direct):
    """The connections of both pools are taken for a while: the clocks agree all the same."""
    others = [*[database.pool.acquire() for _ in range(2)]]
    others += [database.vital.acquire() for _ in range(2)]
    async with AsyncExitStack() as stack:
        for other in others:
            await stack.enter_async_context(other)
        measuring = asyncio.create_task(database.clock_offset(SYSTEM_CLOCK))
        await asyncio.sleep(0.4)
        assert not measuring.done()
    offset = await measuring
    server = await direct.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    assert offset is not None
    assert abs(offset - (server - time.time())) < 0.15


async def test_an_answer_that_took_long_tells_nothing_of_the_clock(database):
    assert await database.clock_offset(Stepping(0.01)) is not None
    assert await database.clock_offset(Stepping(0.6)) is None
    assert await database.clock_offset(Stepping(-0.1)) is None, "it was set meanwhile"


async def test_leases_and_the_clock_have_connections_of_their_own(database):
    """All others are taken, and stay so."""
    token = await register(database, ttl=60)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(database.pool.acquire())
        async with asyncio.timeout(10):
            assert await leases(database).renew([token], ttl=60) == [True]
            await leases(database).annotate(token, "{}")
            assert await leases(database).expire() == []
            (other,) = await leases(database).acquire(["a"], "me", ttl=60)
            await leases(database).release([other])
            assert await database.clock_offset(SYSTEM_CLOCK) is not None


async def test_no_room_left(database, direct):
    await direct.execute(
        """CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
           CREATE TRIGGER no_room BEFORE INSERT ON standfast.journal EXECUTE FUNCTION no_room()"""
    )
    with pytest.raises(StoreFull, match="free some space"):
        await journal(database).start([start()], owner=None)
    await direct.execute("DROP TRIGGER no_room ON standfast.journal")
    assert (await journal(database).start([start()], owner=None))[0].created


async def test_too_many_connections(postgres_dsn, direct):
    name = f"few_{time.monotonic_ns()}"
    await direct.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    try:
        few = PostgresDatabase(postgres_dsn.replace("postgres@", f"{name}@"), min_size=2)
        with pytest.raises(StoreUnavailable, match="no connection left"):
            await few.open()
    finally:
        await direct.execute(f"DROP ROLE {name}")


async def test_without_tables(postgres_dsn):
    database = PostgresDatabase(postgres_dsn)
    await database.open()
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await journal(database).start([start()], owner=None)
    with pytest.raises(MigrationNeeded):
        async with database.transaction() as tx:
            await marks(database).within(tx).set("k", "do", "r", at=1.0)
    # The user's own missing table is the user's own matter.
    with pytest.raises(StoreError, match="nowhere") as caught:
        async with database.transaction() as tx:
            await tx.fetch("SELECT * FROM nowhere")
    assert type(caught.value) is StoreError
    await database.close()


async def test_not_open(postgres_dsn):
    with pytest.raises(StoreError, match="open"):
        await journal(PostgresDatabase(postgres_dsn)).count("saga")


async def test_a_swallowed_failure_is_not_taken_for_a_commit(database):
    with pytest.raises(StoreError, match="rolled the transaction back"):
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE t (n int PRIMARY KEY)")
            with pytest.raises(StoreError):
                await tx.execute("SELECT 1 / 0")
    with pytest.raises(StoreError, match=r"doesn't exist|does not exist"):
        async with database.transaction() as tx:
            await tx.fetch("SELECT * FROM t")


@pytest.mark.parametrize(
    "go_on",
    [
        lambda tx: tx.execute("SELECT 1"),
        lambda tx: tx.fetch("SELECT 1"),
        lambda tx: tx.fetch_value("SELECT 1"),
        lambda tx: PostgresJournalWriter(tx).start([start()]),
        lambda tx: PostgresJournalWriter(tx).send([mail(start().instance.id)]),
        lambda tx: PostgresMarkWriter(tx).set("key", "action", "action", at=1.0),
        None,
    ],
    ids=["execute", "fetch", "fetch_value", "start", "signal", "barrier", "commit"],
)
async def test_what_follows_a_swallowed_failure_names_it_and_the_remedy(database, go_on):
    with pytest.raises(StoreError) as caught:
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE seen (n int PRIMARY KEY)")
            await tx.execute("INSERT INTO seen VALUES (1)")
            await tx.execute("SAVEPOINT s")
            with pytest.raises(StoreError, match="division by zero"):
                await tx.execute("SELECT 1 / 0")
            await tx.execute("ROLLBACK TO s")  # that one is forgiven
            with pytest.raises(ConstraintViolated) as first:
                await tx.execute("INSERT INTO seen VALUES (1)")
            with suppress(StoreError):
                await tx.execute("SELEC 1")  # told as such by the server, and not the first
            if go_on is not None:
                await go_on(tx)
    assert caught.value.__cause__ is first.value
    for part in ("rolled the transaction back", "seen_pkey", "(n)=(1)", "SAVEPOINT", "ON CONFLICT"):
        assert part in str(caught.value)


async def test_a_savepoint_survives_a_failure(database):
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int PRIMARY KEY)")
        await tx.execute("INSERT INTO t VALUES (1)")
        await tx.execute("SAVEPOINT s")
        with pytest.raises(ConstraintViolated):
            await tx.execute("INSERT INTO t VALUES (1)")
        await tx.execute("ROLLBACK TO s")
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM t") == 1


async def test_settings_of_a_transaction_end_with_it(postgres_dsn):
    database = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await database.open()
    async with database.transaction() as tx:
        await tx.execute("SET search_path = nowhere")
    async with database.transaction() as tx:
        assert await tx.fetch_value("SHOW search_path") != "nowhere"
        # And the planner's settings for the library's own statements don't reach the user's.
        for setting in ("seqscan", "hashjoin", "mergejoin"):
            assert await tx.fetch_value(f"SHOW enable_{setting}") == "on"
    await database.close()


async def test_one_bad_append_does_not_fail_the_batch(database):
    token = await register(database)
    good, bad = start(), start()
    await journal(database).start([good, bad], owner=token)
    answers = await journal(database).append(
        token,
        [Append(bad.instance.id, 0, ["nul \0"]), Append(good.instance.id, 0, ["{}"])],
    )
    assert type(answers[0]) is StoreError
    assert answers[1] is None
    stored = await journal(database).load([bad.instance.id, good.instance.id])
    assert [len(one.facts) for one in stored] == [1, 2]


async def test_mail_folded_in_while_it_is_read_is_not_taken_for_none(database, monkeypatch):
    """The row and the mail are read by two statements; between them the owner may fold mail in."""
    token = await register(database)
    one = start()
    await journal(database).start([one], owner=token)
    id = one.instance.id
    await journal(database).send([mail(id)])
    (letter,) = await journal(database).collect(token, [id])
    pool = journal(database)._pool
    fetch, reads = pool.fetch, []

    async def folding(sql, *args):
        if sql == statements.UNREAD and not reads:
            reads.append(sql)
            change = RowChange("running again")
            append = Append(id, 0, ["{}"], change, consumed=[letter.number])
            assert await journal(database).append(token, [append]) == [None]
        return await fetch(sql, *args)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "fetch", folding)
        stored = await loaded(database, id)
    assert reads, "the mail was never asked for"
    assert (stored.instance.status, len(stored.facts), stored.mails) == ("running again", 2, [])


async def test_without_prepared_statements(postgres_dsn):
    """As behind pgbouncer in transaction mode."""
    database = PostgresDatabase(f"{postgres_dsn}?statement_cache_size=0")
    await database.open()
    await migrate(database)
    token = await register(database)
    one = start()
    await journal(database).start([one], owner=token)
    assert await journal(database).append(token, [Append(one.instance.id, 0, ["{}"])]) == [None]
    await database.close()


def test_options():
    database = PostgresDatabase(
        "postgresql://u:s3cret@db:5433/shop?min_size=0&max_size=7&timeout=2.5&sslmode=require"
        "&password=s3cret&idle_timeout=1m",
        PostgresOptions(max_size=3),
    )
    assert database.options.max_size == 7
    assert database.options.timeout == 2.5
    assert database.options.idle_timeout == 60
    assert "s3cret" not in database.url + repr(database)
    assert "sslmode=require" in database.url


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/x",
        "postgresql://h:port/x",
        "postgresql://h/x?max_size=many",
        "postgresql://h/x?max_size=1",
        "postgresql://h/x?timeout=soon",
        "postgresql://h/x?min_size=20",
        "postgresql://h/x?statement_cache_size=-1",
    ],
)
def test_wrong_options(url):
    with pytest.raises(ConfigurationError):
        PostgresDatabase(url)


async def test_an_address_that_led_to_a_read_only_server_is_asked_anew(postgres_dsn):
    """As after a failover: what was connected before stays with a server that takes no writes."""
    name = urlsplit(postgres_dsn).path[1:]
    admin = await asyncpg.connect(postgres_dsn)
    database = PostgresDatabase(postgres_dsn, min_size=2)
    try:
        await database.open()
        await migrate(database)
        await database.close()
        await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await database.open()
        token_of = partial(register, database)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="read-only: is it a standby"):
                await token_of()
        await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        with suppress(StoreUnavailable):  # one more may have been connected meanwhile
            await token_of()
        tokens = await asyncio.gather(*(token_of() for _ in range(20)))
        assert len(set(tokens)) == 20
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE written (id int)")
    finally:
        await database.close()
        await admin.close()
