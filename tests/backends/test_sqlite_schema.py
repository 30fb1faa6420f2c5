"""The tables of an SQLite file: scripts, files of older versions, and whose a file is."""

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from uuid import UUID

import pytest

from standfast.backends.sqlite import SqliteDatabase
from standfast.backends.sqlite.schema import is_standfast
from standfast.clock import SystemClock
from standfast.conformance.samples import (
    KINDS,
    PORTS,
    acquire,
    facts,
    journal,
    leases,
    loaded,
    marks,
    migrate,
    only_lease,
    passive,
)
from standfast.errors import (
    ConfigurationError,
    CorruptRecord,
    MigrationNeeded,
    StaleWriter,
    StoreError,
    StoreUnavailable,
)
from standfast.ports.journal import Append, Filter, Mail
from standfast.ports.marks import Mark, MarkStore
from standfast.ports.schema import Schema, SchemaLine, SchemaMigration

OLD = (Path(__file__).parent / "old" / "sqlite_1.sql").read_text(encoding="utf-8")
THEN = 1_700_000_000.0  # when it was filled; its worker's lease ran for 30 s
COMPLETED, PARKED, OWNED, INVOICE, DUE, ASLEEP = (
    UUID(int=(0x01900000000070008000 << 48) + n) for n in range(1, 7)
)
WORKER = 2  # its token


class Clock(SystemClock):
    """Stands still until it is set."""

    def __init__(self, now):
        self.time = now

    def now(self):
        return self.time


def make_old(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as con:
        con.executescript(OLD + "".join(statements))


def tables(path):
    """All that Standfast has in the file, and what it noted as applied."""
    with contextlib.closing(sqlite3.connect(path)) as con:
        objects = con.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name LIKE '%standfast%'"
            " AND name NOT LIKE 'sqlite_%' ORDER BY name"
        ).fetchall()
        noted = con.execute(
            "SELECT line, number, name FROM standfast_schema_migrations ORDER BY line"
        ).fetchall()
        return objects, noted


@pytest.fixture
def clock():
    return Clock(THEN + 10)


@pytest.fixture
async def old(tmp_path, clock):
    make_old(tmp_path / "old.db")
    database = SqliteDatabase(f"sqlite:///{tmp_path}/old.db", clock=clock)
    await database.open()
    yield database
    await database.close()


# Files of older versions


async def test_before_it_is_migrated_the_remedy_is_named(old):
    assert await old.port(Schema).applied() == {}
    assert await old.port(Schema).to_take_over() == {
        "coordination": {1},
        "journal": {1},
        "marks": {1},
    }
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await leases(old).leases()
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await journal(old).append(WORKER, [Append(OWNED, 1, ["x"])])


async def test_an_old_file_gets_the_tables_of_a_new_one(old, tmp_path):
    await migrate(old)
    fresh = SqliteDatabase(f"sqlite:///{tmp_path}/fresh.db")
    await fresh.open()
    await migrate(fresh)
    await fresh.close()
    assert tables(old.path) == tables(fresh.path)
    assert await old.port(Schema).applied() == {
        line.name: {migration.number for migration in line.migrations} for line in old.lines(PORTS)
    }
    assert await migrate(old) == []


async def test_everything_is_still_there(old):
    await migrate(old)
    found = {row.id: row for row in await journal(old).find(Filter(), limit=10)}
    assert {id: row.status for id, row in found.items()} == {
        COMPLETED: "completed",
        PARKED: "parked",
        OWNED: "running",
        INVOICE: "running",
        DUE: "running",
        ASLEEP: "running",
    }
    assert {id: row.owner for id, row in found.items() if row.owner} == {
        OWNED: WORKER,
        INVOICE: WORKER,
    }
    assert (found[PARKED].step, found[PARKED].cause) == ("charge", "no funds")
    assert (found[DUE].wake_at, found[ASLEEP].wake_at) == (THEN, THEN + 86400)
    assert await facts(old, COMPLETED) == [
        '{"type":"started","n":1}',
        '{"type":"done"}',
        '{"type":"completed"}',
    ]
    it = await loaded(old, OWNED)
    assert it.facts == ['{"type":"started","n":3}', '{"type":"signalled"}']
    assert it.mails == [Mail(OWNED, "m2", "signal", '{"text":"Grüße"}', THEN + 2, 2)]
    assert await journal(old).send([Mail(OWNED, "m1", "signal", "{}", THEN)]) == [True]
    assert (await loaded(old, OWNED)).mails == it.mails, "a repeated id is still known"
    async with old.transaction() as tx:
        writer = marks(old).within(tx)
        assert await writer.set("k1", "charge", "x", at=THEN) == Mark("done", '{"paid":1}')
        assert await writer.set("k1", "charge/undo", "x", at=THEN) == Mark("refused", None)
        assert await tx.fetch_value("SELECT text FROM orders") == "mine"


async def test_its_worker_is_a_lease_that_may_go_on(old):
    await migrate(old)
    lease = await only_lease(old, "member:")
    assert (lease.name, lease.token, lease.holder) == ("member:2", WORKER, "host-1 'a'")
    assert json.loads(lease.note) == {"kinds": [list(kind) for kind in KINDS]}
    assert lease.expires_in == 20
    assert await journal(old).owned() == {WORKER: 2}
    assert await journal(old).append(WORKER, [Append(OWNED, 1, ["x"])]) == [None]
    assert await leases(old).renew([WORKER], ttl=30) == [True]


async def test_what_it_owned_is_reclaimed_after_its_lease_ran_out(old, clock):
    await migrate(old)
    assert await leases(old).expire() == []
    assert await journal(old).reclaim() == 0
    clock.time = THEN + 31
    assert await journal(old).reclaim() == 0, "overdue, but not ended"
    new = await acquire(old, "member:new")
    assert new == WORKER + 1
    assert await journal(old).reclaim() == 2
    (answer,) = await journal(old).append(WORKER, [Append(OWNED, 1, ["late"])])
    assert isinstance(answer, StaleWriter)
    claimed = await journal(old).claim(new, KINDS, now=clock.time, limit=10)
    assert [it.instance.id for it in claimed] == [DUE, OWNED, INVOICE]
    assert await journal(old).append(new, [Append(OWNED, 1, ["on time"])]) == [None]


async def test_no_token_is_given_twice_where_no_worker_is_left(tmp_path):
    make_old(tmp_path / "old.db", "DELETE FROM standfast_workers;")
    database = SqliteDatabase(f"sqlite:///{tmp_path}/old.db")
    await database.open()
    try:
        await migrate(database)
        assert await leases(database).leases() == []
        assert await acquire(database, "a") == WORKER + 1
        assert await journal(database).reclaim() == 2
    finally:
        await database.close()


async def test_an_old_file_where_there_never_was_a_worker(tmp_path):
    make_old(
        tmp_path / "old.db",
        "DELETE FROM standfast_workers;",
        "DELETE FROM sqlite_sequence WHERE name = 'standfast_workers';",
    )
    database = SqliteDatabase(f"sqlite:///{tmp_path}/old.db")
    await database.open()
    try:
        await migrate(database)
        assert await acquire(database, "a") == 1
    finally:
        await database.close()


async def test_all_of_it_is_taken_over_whatever_was_asked_for(old):
    await old.port(Schema).migrate(old.lines([MarkStore]))
    assert await old.port(Schema).applied() == {"coordination": {1}, "journal": {1}, "marks": {1}}


async def test_it_is_taken_over_once(old):
    others = [SqliteDatabase(old.url) for _ in range(3)]
    await asyncio.gather(*(other.open() for other in others))
    try:
        await asyncio.gather(*(migrate(each) for each in (*others, old)))
        assert (await only_lease(old)).token == WORKER
    finally:
        await asyncio.gather(*(other.close() for other in others))


async def test_an_old_file_stays_as_it_is_when_a_migration_fails(old):
    broken = SchemaLine("x", (SchemaMigration(1, "x", "INSERT INTO nowhere VALUES (1)"),))
    with pytest.raises(StoreError):
        await old.port(Schema).migrate([*old.lines(PORTS), broken])
    assert await old.port(Schema).applied() == {}
    async with old.transaction() as tx:
        assert await tx.fetch_value("SELECT token FROM standfast_workers") == WORKER


# Scripts


async def test_scripts_run_by_somebody_else_do_the_same(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
    await database.open()
    try:
        lines = database.lines(PORTS)
        script = database.port(Schema).script
        sql = "".join(script(line, each) for line in lines for each in line.migrations)
        with contextlib.closing(sqlite3.connect(database.path)) as other:
            other.executescript(sql)
        assert await migrate(database) == []
        await passive(database)
        with contextlib.closing(sqlite3.connect(database.path)) as other:
            assert other.execute(
                "SELECT count(*) FROM standfast_schema_migrations"
                " WHERE abs(applied_at - unixepoch()) < 60"
            ).fetchone() == (sum(len(line.migrations) for line in lines),)
    finally:
        await database.close()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (id)",
        "CREATE TABLE x (id);",
        "CREATE TABLE x (id); -- the last one",
        "CREATE TABLE x (id) -- the last one",
        "CREATE TABLE x (id); CREATE TABLE y (id)\n",
        "-- x; and y\nCREATE TABLE x (id /* ; */);",
        """CREATE TABLE x (id);
        CREATE TRIGGER t AFTER INSERT ON x BEGIN DELETE FROM x; SELECT ';'; END;
        CREATE TABLE y (id)""",
    ],
)
async def test_however_a_migration_is_written(tmp_path, sql):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
    await database.open()
    try:
        line = SchemaLine("it's", (SchemaMigration(1, "x's", sql),))
        with contextlib.closing(sqlite3.connect(":memory:")) as other:
            other.executescript(database.port(Schema).script(line, line.migrations[0]))
            expected = other.execute("SELECT name FROM sqlite_master ORDER BY name").fetchall()
        await database.port(Schema).migrate([line])
        assert await database.port(Schema).applied() == {"it's": {1}}
        async with database.transaction() as tx:
            rows = await tx.fetch("SELECT name FROM sqlite_master ORDER BY name")
        assert [tuple(row) for row in rows] == expected
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("CREATE TABLE x (id TEXT DEFAULT 'oops);", "CREATE TABLE x (id TEXT DEFAULT 'oops);"),
        (
            "CREATE TABLE x (id);\nCREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1;",
            "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1;",
        ),
        ("CREATE TABLE x (id); /* and; so on", "/* and; so on"),
        ("CREATE TRIGGER nonsense; SELECT 1;", "CREATE TRIGGER nonsense; SELECT 1;"),
    ],
)
async def test_a_migration_that_ends_in_the_middle_is_refused(tmp_path, sql, place):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
    await database.open()
    try:
        line = SchemaLine("mine", (SchemaMigration(1, "one", sql),))
        with pytest.raises(ConfigurationError) as caught:
            await database.port(Schema).migrate([line])
        told = str(caught.value)
        assert "migration 1 (one) of the line 'mine'" in told
        assert repr(place) in told
        with pytest.raises(ConfigurationError, match=r"migration 1 \(one\) of the line 'mine'"):
            database.port(Schema).script(line, line.migrations[0])
        async with database.transaction() as tx:
            assert await tx.fetch("SELECT name FROM sqlite_master") == []
    finally:
        await database.close()


async def test_an_old_file_is_taken_over_by_the_script_as_by_migrate(tmp_path, old):
    with contextlib.closing(sqlite3.connect(tmp_path / "by_script.db")) as con:
        con.executescript(OLD)
        con.executescript(old.port(Schema).taking_over())
        assert con.execute("SELECT count(*) FROM temp.sqlite_master").fetchone() == (0,)
        leases_then = con.execute("SELECT * FROM standfast_leases").fetchall()
        sequence = con.execute("SELECT * FROM sqlite_sequence ORDER BY name").fetchall()
    await old.port(Schema).migrate([])
    assert tables(tmp_path / "by_script.db") == tables(old.path)
    with contextlib.closing(sqlite3.connect(old.path)) as con:
        assert con.execute("SELECT * FROM standfast_leases").fetchall() == leases_then
        assert con.execute("SELECT * FROM sqlite_sequence ORDER BY name").fetchall() == sequence


async def test_a_script_changes_nothing_in_an_old_file(tmp_path, old):
    script = old.port(Schema).script
    with contextlib.closing(sqlite3.connect(old.path)) as con:
        before = list(con.iterdump())
        for line in old.lines(PORTS):
            with pytest.raises(sqlite3.IntegrityError, match="take it over first"):
                con.executescript(script(line, line.migrations[0]))
            con.rollback()
        assert list(con.iterdump()) == before


# Whose a file is


async def test_is_standfast(tmp_path):
    mine, old, other = (str(tmp_path / f"{name} ?#%.db") for name in ("mine", "old", "other"))
    make_old(old)
    assert is_standfast(old)
    with contextlib.closing(sqlite3.connect(other)) as con:
        con.execute("CREATE TABLE standfast_orders (id)")
    assert not is_standfast(other)
    database = SqliteDatabase(f"sqlite:///{mine.replace('?', '%3F')}")
    await database.open()
    try:
        assert not is_standfast(mine)
        await database.port(Schema).migrate(database.lines([MarkStore]))
        assert is_standfast(mine), "while it is open"
    finally:
        await database.close()
    assert is_standfast(mine)


def test_is_standfast_makes_no_file(tmp_path):
    with pytest.raises(StoreUnavailable, match="can't be opened"):
        is_standfast(str(tmp_path / "nowhere.db"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").write_text("remember the milk\n" * 100)
    with pytest.raises(CorruptRecord, match="not an SQLite database"):
        is_standfast(str(tmp_path / "notes.txt"))
