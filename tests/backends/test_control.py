"""SQL that would end its transaction is found wherever it hides, and nothing else is refused."""

import pytest

from standfast import Context, Retry, Saga, SagaParked, Standfast, Transaction, step
from standfast.backends.control import refuse_control
from standfast.clock import SYSTEM_CLOCK
from standfast.errors import StoreError
from standfast.testing.simulation.store import SharedDatabase
from standfast.testing.virtual import VirtualLoop

BOTH = ("postgresql", "sqlite")


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "  commit ;",
        "BEGIN IMMEDIATE",
        "/**/ROLLBACK",
        "-- a note; with 'a quote\n--\n end transaction",
        "ABORT WORK",
        "start /* */ transaction read only",
        "Prepare Transaction 'x'",
        "COMMIT PREPARED 'x'",
        "ROLLBACK TRANSACTION",
    ],
)
def test_control_is_refused(dialect, sql):
    with pytest.raises(StoreError, match="the block ends its transaction itself"):
        refuse_control(sql, dialect)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; COMMIT",
        "SELECT ';'; -- x\nROLLBACK; SELECT 1",
        "SELECT E'it\\'s; ', $a$ it's; $a$; /* /* ; */ ; */ END",
        'INSERT INTO "a;b" VALUES (CASE WHEN true THEN 1 END); COMMIT AND CHAIN',
        "/* /* */ */ COMMIT",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; COMMIT",
    ],
)
def test_of_several_statements_each_is_looked_at(sql):
    with pytest.raises(StoreError, match="the block ends its transaction itself"):
        refuse_control(sql, "postgresql")


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'COMMIT'",
        "SELECT 1 -- ; COMMIT",
        "/* ; ROLLBACK */ SELECT 1",
        'SELECT "end" FROM begin_of',
        "SELECT CASE WHEN true THEN 1 END",
        "UPDATE t SET start = 1, abort = 2",
        "SAVEPOINT begin_here",
        "RELEASE SAVEPOINT s",
        "ROLLBACK TO s",
        "rollback work to savepoint s",
        "ROLLBACK TRANSACTION TO s",
        "PREPARE mine AS SELECT 1",
        "",
        "-- COMMIT",
        "/* COMMIT",
    ],
)
def test_what_only_looks_like_it_is_not(dialect, sql):
    refuse_control(sql, dialect)


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("postgresql", "DO $$ BEGIN PERFORM 1; END $$"),
        (
            "postgresql",
            "CREATE FUNCTION f() RETURNS int AS $x$ BEGIN RETURN 1; END $x$ LANGUAGE sql",
        ),
        ("postgresql", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END"),
        ("postgresql", "SELECT E'\\'; COMMIT'"),
        ("postgresql", "SELECT $1; SELECT 'a$b$; COMMIT'"),
        ("sqlite", "CREATE TRIGGER t AFTER INSERT ON x BEGIN UPDATE y SET a = 1; END"),
        ("sqlite", "/* /* */ SELECT 1 -- */ COMMIT"),
        ("postgresql", "/* /* */ COMMIT; */ SELECT 1"),
    ],
)
def test_bodies_of_functions_and_triggers_are_not(dialect, sql):
    refuse_control(sql, dialect)


class Impatient(Saga[str]):
    """A transactional step that ends its transaction itself."""

    @step(transactional=True, retry=Retry(attempts=1), on_exhausted="park")
    async def note(self, text: str, ctx: Context, tx: Transaction) -> None:
        await tx.execute("INSERT INTO notes (text) VALUES ($1)", text)
        await tx.execute("COMMIT")

    @note.compensation
    async def forget(self, text: str, ctx: Context) -> None: ...


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_a_transactional_step_that_commits_by_itself_fails(backend, request, tmp_path):
    """Its rows were lost or kept, and the step was told as completed."""
    url = f"sqlite:///{tmp_path}/app.db"
    if backend == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    app = Standfast(url, migrate=True).add(Impatient())
    async with app.running(drain=2):
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE notes (text text)")
        with pytest.raises(SagaParked, match="the block ends its transaction itself"):
            await (await app.start(Impatient, "x")).result(timeout=10)
        async with app.transaction() as tx:
            assert await tx.fetch_value("SELECT count(*) FROM notes") == 0


async def test_the_simulation_refuses_it_too():
    """A test that passes there must not fail in production."""
    tx = SharedDatabase(VirtualLoop(), SYSTEM_CLOCK, "CREATE TABLE t (n)").begin()
    with pytest.raises(StoreError, match="the block ends its transaction itself"):
        await tx.execute("INSERT INTO t VALUES (1)")
        await tx.execute("-- at last\nCOMMIT")


async def test_one_that_hides_in_a_procedure_is_told(database, direct):
    """What no reading of the text can find is seen by the state of the session."""
    await direct.execute("CREATE TABLE t (n int)")
    with pytest.raises(StoreError, match="termination"):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            await tx.execute("DO $$ BEGIN COMMIT; END $$")
    assert await direct.fetchval("SELECT count(*) FROM t") == 0


async def test_a_transaction_that_was_ended_early_is_no_success(database, monkeypatch):
    monkeypatch.setattr(
        "standfast.backends.postgres.transaction.refuse_control", lambda sql, dialect: None
    )
    with pytest.raises(StoreError, match="ended the transaction before its block did"):
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE t (n int)")
            await tx.execute("ROLLBACK")
