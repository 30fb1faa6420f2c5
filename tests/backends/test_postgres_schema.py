"""Tables on PostgreSQL: made anew, for someone else to make, and taken over from before."""

import asyncio
import json
import time
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase, PostgresRateLimits, schema
from standfast.conformance.samples import (
    KINDS,
    PORTS,
    journal,
    leases,
    loaded,
    marks,
    migrate,
    register,
)
from standfast.errors import MigrationNeeded, StoreUnavailable
from standfast.ports.journal import Append, JournalStore, RowChange
from standfast.ports.marks import Mark
from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.ports.schema import Schema, SchemaLine, SchemaMigration
from standfast.rates import Rate

OLD = [(Path(__file__).parent / "old" / f"postgres_{n}.sql").read_text() for n in (1, 2)]
"""The migrations of the version that had one line for everything."""

OWNED, WAITING, DUE, COMPLETED, PARKED = (UUID(int=n) for n in range(1, 6))

ROWS = f"""
INSERT INTO standfast.workers (name, kinds, expires_at) VALUES
    ('gone', '[]', now()), ('host-1 "a"', '[["saga", "order", 1], ["saga", "invoice", 2]]', now()),
    ('host-2', '[["saga", "order", 1]]', now() + interval '1 hour'), ('gone too', '[]', now());
DELETE FROM standfast.workers WHERE token IN (1, 4);
UPDATE standfast.workers SET expires_at = now() - interval '1 second' WHERE token = 2;
INSERT INTO standfast.instances (id, pattern, name, version, key, correlation_id, input_hash,
    status, step, cause, owner, wake_at, deadline_at, created_at, updated_at, finished_at, claim,
    last_mail, unread, mailed_at)
VALUES
    ('{OWNED}', 'saga', 'order', 1, 'owned', 'trace', 'hash', 'running', '', '', 2, NULL, 9e9, 1, 2,
     NULL, 77, 2, 1, 3.5),
    ('{WAITING}', 'saga', 'order', 1, 'waiting', '', '', 'waiting', 'pay', '', NULL, 4e9, NULL, 1,
     2, NULL, NULL, 0, 0, NULL),
    ('{DUE}', 'saga', 'invoice', 2, 'due', '', '', 'running', '', '', NULL, 5, NULL, 1, 2, NULL,
     NULL, 0, 0, NULL),
    ('{COMPLETED}', 'saga', 'order', 1, 'completed', '', '', 'completed', '', '', NULL, NULL, NULL,
     1, 2, 3, NULL, 0, 0, NULL),
    ('{PARKED}', 'saga', 'order', 1, 'parked', '', '', 'parked', 'pay', 'declined', NULL, NULL,
     NULL, 1, 2, NULL, NULL, 0, 0, NULL);
INSERT INTO standfast.journal (id, seq, fact)
    SELECT id, n, '{{"n":' || n || '}}' FROM standfast.instances, generate_series(0, 2) n;
INSERT INTO standfast.mail (instance, number, id, kind, body, at) VALUES
    ('{OWNED}', 1, 'folded', 'signal', NULL, 3), ('{OWNED}', 2, 'new', 'signal', '{{}}', 3.5);
INSERT INTO standfast.marks (key, operation, reason, result, at) VALUES
    ('order-1', 'reserve', 'done', '{{"seats":2}}', 10), ('order-2', 'reserve', 'undone', NULL, 11);
"""
TAKEN = "SELECT standfast.check_rates('{0:api}', '{f}', '{10}', '{3600}', '{10}', '{4}')"


@pytest.fixture
async def databases(postgres_dsn):
    """Two, as of two processes."""
    databases = [PostgresDatabase(postgres_dsn) for _ in range(2)]
    for database in databases:
        await database.open()
    yield databases
    for database in databases:
        await database.close()


TABLES = (
    (
        "SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity, "
        "identity_generation FROM information_schema.columns WHERE table_schema = 'standfast'"
    ),
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'standfast'",
    (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE connamespace = 'standfast'::regnamespace"
    ),
    (
        "SELECT relname, relpersistence::text, reloptions::text FROM pg_class "
        "WHERE relnamespace = 'standfast'::regnamespace"
    ),
    (
        "SELECT oid::regprocedure::text, prosrc FROM pg_proc "
        "WHERE pronamespace = 'standfast'::regnamespace"
    ),
)


async def tables(direct):
    """All that there is in the schema: columns, indexes, constraints, sequences, functions."""
    return [sorted(map(repr, await direct.fetch(query))) for query in TABLES]


def later(lines):
    """The numbers of the migrations that the old version didn't have."""
    return sorted(one.number for line in lines for one in line.migrations if one.number > 1)


async def test_a_database_of_the_old_version_is_taken_over_with_all_it_holds(databases, direct):
    for sql in (*OLD, ROWS):
        await direct.execute(sql)
    await direct.execute(TAKEN)
    applied = await direct.fetch("SELECT applied_at FROM standfast.migrations ORDER BY number")
    database, other = databases
    assert await database.port(Schema).applied() == {}
    foreseen = await database.port(Schema).to_take_over()
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await journal(database).claim(3, KINDS, now=time.time(), limit=1)
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await leases(database).renew([3], ttl=1)

    lines = database.lines([*PORTS, RateLimitStore])
    done = await asyncio.gather(*(each.port(Schema).migrate(lines) for each in databases))
    # What came after the old version is applied by one of the two.
    assert sorted(one.migration.number for each in done for one in each) == later(lines)
    assert foreseen == {name: {1} for name in ("coordination", "journal", "marks", "rate_limits")}
    expected = {line.name: {one.number for one in line.migrations} for line in lines}
    for each in databases:
        assert await each.port(Schema).applied() == expected
        assert await each.port(Schema).migrate(lines) == []
    noted = dict(
        await direct.fetch(
            "SELECT line, applied_at FROM standfast.schema_migrations WHERE number = 1"
        )
    )
    assert noted == {line: applied[line == "rate_limits"][0] for line in expected}
    assert await direct.fetchval("SELECT to_regclass('standfast.migrations')") is None

    dead, alive = await leases(database).leases()
    assert (dead.name, dead.token, dead.holder) == ("member:2", 2, 'host-1 "a"')
    assert (alive.name, alive.token, alive.holder) == ("member:3", 3, "host-2")
    assert json.loads(dead.note) == {"kinds": [["saga", "order", 1], ["saga", "invoice", 2]]}
    assert json.loads(alive.note) == {"kinds": [["saga", "order", 1]]}
    assert dead.expires_in < 0
    assert 3500 < alive.expires_in <= 3600

    # Still owned, though overdue; then reclaimed, and taken by one with a token never given before.
    assert await journal(database).owned() == {2: 1}
    assert await journal(database).reclaim() == 0
    assert await leases(database).expire() == [2]
    assert await journal(database).reclaim() == 1
    token = await register(other)
    assert token == 5
    claimed = await journal(other).claim(token, KINDS, now=time.time() + 1, limit=10)
    assert [one.instance.id for one in claimed] == [DUE, OWNED]
    owned = claimed[1]
    assert owned.facts == ['{"n":0}', '{"n":1}', '{"n":2}']
    assert [(one.id, one.number, one.body) for one in owned.mails] == [("new", 2, "{}")]
    append = Append(OWNED, 2, ["{}"], RowChange("running"), consumed=[2])
    assert await journal(other).append(token, [append]) == [None]

    stored = {id: await loaded(database, id) for id in (OWNED, WAITING, DUE, COMPLETED, PARKED)}
    assert [one.instance.owner for one in stored.values()] == [5, None, 5, None, None]
    assert [len(one.facts) for one in stored.values()] == [4, 3, 3, 3, 3]
    waiting, parked = stored[WAITING].instance, stored[PARKED].instance
    assert (waiting.status, waiting.step, waiting.wake_at) == ("waiting", "pay", 4e9)
    assert (parked.status, parked.cause, parked.wake_at) == ("parked", "declined", None)
    assert stored[COMPLETED].instance.finished_at == 3
    assert stored[OWNED].instance.deadline_at == 9e9

    async with database.transaction() as tx:
        there = marks(database).within(tx)
        assert await there.set("order-1", "reserve", "x", at=1.0) == Mark("done", '{"seats":2}')
        assert await there.set("order-2", "reserve", "x", at=1.0) == Mark("undone", None)
        assert await there.set("order-3", "reserve", "x", at=1.0) is None
    (decision,) = await database.port(RateLimitStore).check([RateRequest("api", Rate(10, "1h"))])
    assert decision.remaining == 5


async def test_what_was_taken_over_is_as_if_made_anew(postgres_dsn, databases, direct):
    for sql in (*OLD, ROWS):
        await direct.execute(sql)
    lines = databases[0].lines([*PORTS, RateLimitStore])
    await databases[0].port(Schema).migrate(lines)
    taken_over = await tables(direct)
    await direct.execute("DROP SCHEMA standfast CASCADE")
    for sql in (*OLD, ROWS):
        await direct.execute(sql)
    await direct.execute(databases[0].port(Schema).taking_over())
    await databases[0].port(Schema).migrate(lines)
    assert await tables(direct) == taken_over, "by someone else"
    await direct.execute("DROP SCHEMA standfast CASCADE")
    done = await databases[0].port(Schema).migrate(lines)
    names = [one.line for one in done]
    assert list(dict.fromkeys(names)) == ["coordination", "journal", "marks", "rate_limits"]
    assert await tables(direct) == taken_over


async def test_an_old_database_without_rate_limits_gets_them_when_they_are_asked_for(
    postgres_dsn, databases, direct
):
    await direct.execute(OLD[0])
    database = databases[0]
    assert set(await database.port(Schema).to_take_over()) == {"coordination", "journal", "marks"}
    done = await migrate(database)
    assert sorted(one.migration.number for one in done) == later(database.lines(PORTS))
    assert set(await database.port(Schema).applied()) == {"coordination", "journal", "marks"}
    async with PostgresRateLimits(postgres_dsn) as limits:
        with pytest.raises(MigrationNeeded):
            await limits.check([RateRequest("k", Rate(10, "1h"))])
        assert [one.line for one in await limits.migrate()] == ["rate_limits"]
        assert (await limits.check([RateRequest("k", Rate(10, "1h"))]))[0].allowed


async def test_an_old_worker_in_the_middle_of_a_write_is_waited_for(
    postgres_dsn, databases, direct
):
    for sql in (*OLD, ROWS):
        await direct.execute(sql)
    old = await asyncpg.connect(postgres_dsn)
    writing = old.transaction()
    await writing.start()
    await old.fetch("SELECT token FROM standfast.workers WHERE token = 2 FOR KEY SHARE")
    migrating = asyncio.create_task(migrate(databases[0]))
    await asyncio.sleep(0.2)
    assert not migrating.done()
    await old.execute("INSERT INTO standfast.journal VALUES ($1, 3, 'last')", OWNED)
    await writing.commit()
    assert sorted(one.migration.number for one in await migrating) == later(
        databases[0].lines(PORTS)
    )
    with pytest.raises(asyncpg.UndefinedTableError):
        await old.fetch("SELECT token FROM standfast.workers WHERE token = 2 FOR KEY SHARE")
    await old.close()
    assert (await loaded(databases[0], OWNED)).facts[-1] == "last"


async def test_scripts_are_complete_and_alike(databases, direct):
    """Run by someone else, one by one, they leave what `migrate` would."""
    database = databases[0]
    port = database.port(Schema)
    lines = database.lines([RateLimitStore, JournalStore, *PORTS])
    assert [line.name for line in lines] == ["rate_limits", "coordination", "journal", "marks"]
    for line in lines:
        for migration in line.migrations:
            await direct.execute(port.script(line, migration))
    assert await port.migrate(lines) == []
    by_script = await tables(direct)
    await direct.execute("DROP SCHEMA standfast CASCADE")
    assert len(await port.migrate(lines)) == sum(len(line.migrations) for line in lines)
    assert await tables(direct) == by_script


SLOW = SchemaLine(
    "slow", (SchemaMigration(1, "slow", "CREATE TABLE slow (id int); SELECT pg_sleep(1.5);"),)
)


@pytest.fixture
async def hasty(postgres_dsn):
    """One whose statements may take half a second."""
    database = PostgresDatabase(postgres_dsn, timeout=0.5)
    await database.open()
    yield database
    await database.close()


async def test_a_migration_may_take_longer_than_any_other_statement(hasty):
    assert [one.line for one in await hasty.port(Schema).migrate([SLOW])] == ["slow"]
    assert await hasty.port(Schema).applied() == {"slow": {1}}


async def test_another_migration_is_waited_for(hasty, databases, caplog):
    one, other = databases[0].port(Schema), hasty.port(Schema)
    first = asyncio.create_task(one.migrate([SLOW]))
    await asyncio.sleep(0.2)
    assert await other.migrate([SLOW]) == [], "it waited for the first, which did it"
    assert len(await first) == 1
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "another migration is running on PostgreSQL at" in record.getMessage()


async def test_the_wait_for_another_migration_ends(postgres_dsn, direct, caplog):
    hasty = PostgresDatabase(postgres_dsn, migration_wait=1.3)
    await hasty.open()
    await direct.execute("SELECT pg_advisory_lock($1)", schema.LOCK_KEY)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="another migration has been running"):
        await migrate(hasty)
    assert 1.3 <= time.monotonic() - began < 10
    assert len(caplog.records) == 1
    await direct.execute("SELECT pg_advisory_unlock($1)", schema.LOCK_KEY)
    assert {one.line for one in await migrate(hasty)} == {"coordination", "journal", "marks"}
    assert len(caplog.records) == 1
    await hasty.close()


async def test_a_script_waits_for_a_migration_too(databases, direct):
    """Both take the same lock, so that none is in the midst of the other."""
    port = databases[0].port(Schema)
    first = asyncio.create_task(port.migrate([SLOW]))
    await asyncio.sleep(0.2)
    with pytest.raises(asyncpg.UniqueViolationError):
        await direct.execute(
            port.script(SLOW, SLOW.migrations[0]).replace("CREATE TABLE slow", "CREATE TABLE s2")
        )
    assert len(await first) == 1


BEHIND = """
DROP INDEX standfast.instances_stuck;
ALTER TABLE standfast.instances DROP COLUMN recoveries, DROP COLUMN stood_at;
DELETE FROM standfast.schema_migrations WHERE line = 'journal' AND number > 1;
"""
"""Back to how the version before left the journal."""


async def test_nobody_queues_behind_a_migration_that_waits(postgres_dsn, databases, direct, caplog):
    """A transaction that only read the table keeps the migration waiting, and no other reader."""
    await migrate(databases[0])
    await direct.execute(BEHIND)
    holder = await asyncpg.connect(postgres_dsn, server_settings={"application_name": "report"})
    reading = holder.transaction()
    await reading.start()
    await holder.fetch("SELECT 'a secret' FROM standfast.instances LIMIT 1")
    pid = holder.get_server_pid()
    migrating = asyncio.create_task(migrate(databases[0]))
    longest, until = 0.0, time.monotonic() + 4
    while time.monotonic() < until:
        began = time.monotonic()
        await direct.fetch("SELECT count(*) FROM standfast.instances", timeout=10)
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.02)
    assert longest < 2.5, "no longer than the lock_timeout, on a busy machine"
    assert not migrating.done()
    await reading.rollback()
    await holder.close()
    assert [one.migration.number for one in await migrating] == [2, 3]
    told = caplog.records[0].getMessage()
    assert caplog.records[0].levelname == "WARNING"
    assert f"in its way is PID {pid} (report, role " in told
    assert "idle in transaction, in a transaction for" in told
    assert "secret" not in caplog.text
    assert 1 <= len(caplog.records) <= 3, "after growing pauses"


async def test_the_wait_for_a_lock_ends(postgres_dsn, databases, direct):
    await migrate(databases[0])
    await direct.execute(BEHIND)
    hasty = PostgresDatabase(f"{postgres_dsn}?migration_wait=500ms")
    await hasty.open()
    async with databases[1].transaction() as tx:
        await tx.fetch("SELECT 1 FROM standfast.instances LIMIT 1")
        with pytest.raises(StoreUnavailable, match="didn't get its locks within") as caught:
            await migrate(hasty)
    assert "PID" in str(caught.value)
    assert "Nothing was written" in str(caught.value)
    assert [one.migration.number for one in await migrate(hasty)] == [2, 3]
    await hasty.close()


async def test_a_script_doesn_t_queue_for_long_either(databases, direct):
    await migrate(databases[0])
    await direct.execute(BEHIND)
    port, (line,) = databases[0].port(Schema), databases[0].lines([JournalStore])[-1:]
    script = port.script(line, line.migrations[1])
    async with databases[1].transaction() as tx:
        await tx.fetch("SELECT 1 FROM standfast.instances LIMIT 1")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await direct.execute(script, timeout=20)
    await direct.execute("ROLLBACK")
    await direct.execute(script)
    assert "lock_timeout" in port.taking_over()


async def test_the_index_of_what_is_stuck_may_have_been_made_by_hand(databases, direct):
    """As `docs/how-to/deploy.md` says it for large tables."""
    await migrate(databases[0])
    await direct.execute(BEHIND)
    await direct.execute(
        "CREATE INDEX CONCURRENTLY instances_stuck ON standfast.instances (pattern, name, status) "
        "WHERE status IN ('parked', 'compensation_failed')"
    )
    assert [one.migration.number for one in await migrate(databases[0])] == [2, 3]
