"""What a server's settings, other transactions and administrators do to a transaction."""

import asyncio
from urllib.parse import urlsplit

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.errors import translate, translate_commit
from standfast.conformance.samples import register
from standfast.errors import (
    ConstraintViolated,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TransactionConflict,
)


@pytest.fixture
async def set_to(postgres_dsn, direct):
    """``await set_to(name, value)``: a database whose sessions begin with that setting."""
    opened = []

    async def begin(name, value, **options):
        of = urlsplit(postgres_dsn).path[1:]
        await direct.execute(f"ALTER DATABASE \"{of}\" SET {name} = '{value}'")
        database = PostgresDatabase(postgres_dsn, **options)
        await database.open()
        opened.append(database)
        return database

    yield begin
    for database in opened:
        await database.close()


async def test_statement_timeout(set_to):
    database = await set_to("statement_timeout", "200ms")
    with pytest.raises(StoreUnavailable, match="look for a statement_timeout"):
        async with database.transaction() as tx:
            await tx.execute("SELECT pg_sleep(5)")
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT 1") == 1


async def test_idle_in_transaction_session_timeout(set_to):
    """The role's own is no longer in force: it would end what waits for a participant."""
    database = await set_to("idle_in_transaction_session_timeout", "100ms", idle_timeout="1s")
    async with database.transaction() as tx:
        await tx.execute("SELECT 1")
        await asyncio.sleep(0.4)
        assert await tx.fetch_value("SELECT 1") == 1
    with pytest.raises(StoreUnavailable):
        async with database.transaction() as tx:
            await tx.execute("SELECT 1")
            await asyncio.sleep(1.5)
            await tx.execute("SELECT 1")
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT 1") == 1


async def test_lock_timeout(set_to, direct):
    database = await set_to("lock_timeout", "100ms")
    await direct.execute("CREATE TABLE t (n int)")
    async with direct.transaction():
        await direct.execute("LOCK TABLE t")
        with pytest.raises(StoreUnavailable, match="a lock was held for too long"):
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")


async def test_default_transaction_read_only(set_to, postgres_dsn, database):
    """A role that only looks may be made so; what it would write is refused with the reason."""
    reader = await set_to("default_transaction_read_only", "on")
    async with reader.transaction() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM standfast.leases") == 0
    with pytest.raises(StoreUnavailable, match="default_transaction_read_only is on"):
        await register(reader)


async def test_a_transaction_that_the_user_made_read_only_leaves_no_connection(database):
    """That is no standby: the others of the pool stay."""
    async with database.transaction() as tx:
        before = await tx.fetch_value("SELECT pg_backend_pid()")
    with pytest.raises(StoreUnavailable, match="read-only"):
        async with database.transaction() as tx:
            await tx.execute("SET TRANSACTION READ ONLY")
            await tx.execute("CREATE TABLE t (n int)")
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT pg_backend_pid()") == before
        await tx.execute("CREATE TABLE t (n int)")


async def test_default_transaction_isolation(set_to, database):
    other = await set_to("default_transaction_isolation", "serializable")
    async with other.transaction() as tx:
        assert await tx.fetch_value("SHOW transaction_isolation") == "read committed"
    ((level,),) = await other.pool.fetch("SELECT current_setting('transaction_isolation')")
    assert level == "read committed"


async def test_a_deadlock_says_to_run_it_again(database, direct):
    await direct.execute("CREATE TABLE t (n int PRIMARY KEY, v int); SET deadlock_timeout = '1h'")
    await direct.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
    locked = asyncio.Event()

    async def other_way_round():
        async with direct.transaction():
            await direct.execute("UPDATE t SET v = 1 WHERE n = 2")
            locked.set()
            await direct.execute("UPDATE t SET v = 1 WHERE n = 1")

    with pytest.raises(TransactionConflict, match="Nothing was written: run all of it again"):
        async with asyncio.timeout(20), database.transaction() as tx:
            await tx.execute("UPDATE t SET v = 2 WHERE n = 1")
            task = asyncio.create_task(other_way_round())
            await locked.wait()
            await tx.execute("UPDATE t SET v = 2 WHERE n = 2")
    await task
    assert await direct.fetch("SELECT v FROM t ORDER BY n") == [(1,), (1,)]


async def test_a_serialization_failure_says_to_run_it_again(database, direct):
    await direct.execute("CREATE TABLE t (v int); INSERT INTO t VALUES (0)")
    with pytest.raises(TransactionConflict, match="Nothing was written"):
        async with database.transaction() as tx:
            await tx.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await tx.fetch("SELECT * FROM t")
            await direct.execute("UPDATE t SET v = 1")
            await tx.execute("UPDATE t SET v = 2")


async def test_a_deferred_constraint_is_told_by_the_commit(database, direct):
    """It answered: so nothing is written, and that is known."""
    await direct.execute("CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(ConstraintViolated) as caught:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1), (1)")
    assert "isn't known" not in str(caught.value)


async def test_an_administrator_ends_the_connection_during_the_commit(database, direct):
    """Whether it was written isn't known, and that is said; the next transaction goes on."""
    await direct.execute(
        """CREATE TABLE t (n int);
           CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(20); RETURN NULL; END $$;
           CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION slow()"""
    )

    async def write():
        async with database.transaction() as tx:
            pid.append(await tx.fetch_value("SELECT pg_backend_pid()"))
            await tx.execute("INSERT INTO t VALUES (1)")

    pid = []
    task = asyncio.create_task(write())
    committing = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND query = 'COMMIT'"
    async with asyncio.timeout(10):
        while not (pid and await direct.fetchval(committing, pid[0])):
            await asyncio.sleep(0.02)
    await direct.execute("SELECT pg_terminate_backend($1)", pid[0])
    with pytest.raises(StoreUnavailable, match="whether the transaction was committed isn't known"):
        async with asyncio.timeout(10):
            await task
    async with database.transaction() as tx:
        assert await tx.fetch_value("SELECT count(*) FROM t") == 0


def test_an_answer_to_a_commit_is_an_answer():
    deadlock = asyncpg.DeadlockDetectedError("deadlock detected")
    assert type(translate_commit(deadlock, "x")) is TransactionConflict
    lost = asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
    assert "isn't known" in str(translate_commit(lost, "x"))
    assert "isn't known" in str(translate_commit(TimeoutError(), "x"))
    ended = asyncpg.AdminShutdownError("terminating connection due to administrator command")
    assert "isn't known" in str(translate_commit(ended, "x"))


async def test_a_table_that_was_altered_says_to_run_it_again(database, direct):
    """A connection's prepared statement doesn't fit any more: that passes by itself."""
    await direct.execute("CREATE TABLE t (n int)")

    async def read():
        async with database.transaction() as tx:
            return await tx.fetch("SELECT * FROM t")

    await read()
    await direct.execute("ALTER TABLE t ADD m int")
    with pytest.raises(TransactionConflict, match=r"was altered.*run all of it again"):
        await read()
    assert await read() == []


PASSING = {
    "08000": StoreUnavailable,
    "08006": StoreUnavailable,
    "08P01": StoreUnavailable,
    "25006": StoreUnavailable,
    "25P03": StoreUnavailable,
    "25P04": StoreUnavailable,
    "40000": TransactionConflict,
    "40001": TransactionConflict,
    "40002": TransactionConflict,
    "40003": StoreUnavailable,  # nobody knows whether it was done
    "40P01": TransactionConflict,
    "53000": StoreUnavailable,
    "53100": StoreFull,
    "53200": StoreUnavailable,
    "53300": StoreUnavailable,
    "53400": StoreUnavailable,
    "55P03": StoreUnavailable,
    "57000": StoreUnavailable,
    "57014": StoreUnavailable,
    "57P01": StoreUnavailable,
    "57P02": StoreUnavailable,
    "57P03": StoreUnavailable,
    "57P04": StoreUnavailable,
    "57P05": StoreUnavailable,
}


@pytest.mark.parametrize("state", sorted({*PASSING, "42601", "22012", "0A000"}))
def test_what_passes_by_itself_is_classed_so(state):
    error = asyncpg.PostgresError.new({"C": state, "M": "no"})
    found = translate(error, "x", own=False)
    assert type(found) is PASSING.get(state, StoreError)
    assert not getattr(found, "for_good", False)
