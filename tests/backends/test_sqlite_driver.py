"""How statements in ``$1, $2 …`` and scripts are run by SQLite's driver."""

import asyncio
import contextlib
import sqlite3

import pytest

from standfast.backends.sqlite import SqliteDatabase, hints
from standfast.backends.sqlite.driver import native, run
from standfast.backends.sqlite.journal import reading
from standfast.conformance.samples import acquire, journal, leases, migrate, owned, register
from standfast.errors import StoreError
from standfast.ports.database import Statement


@pytest.fixture
def con():
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as con:
        yield con


@pytest.fixture
async def database(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
    await database.open()
    await migrate(database)
    yield database
    await database.close()


def translated(sql, *args):
    text, arrange, _ = native(sql)
    return text, tuple(args if arrange is None else arrange(args))


# Placeholders


@pytest.mark.parametrize(
    ("sql", "text", "args"),
    [
        ("SELECT 1", "SELECT 1", ""),
        ("SELECT $1", "SELECT ?", "a"),
        ("SELECT $1, $2", "SELECT ?, ?", "ab"),
        ("SELECT $2, $1", "SELECT ?, ?", "ba"),
        ("SELECT $1, $1", "SELECT ?, ?", "aa"),
        ("SELECT $2", "SELECT ?", "b"),
        ("SELECT $10,$1,$3", "SELECT ?,?,?", "jac"),
    ],
)
def test_placeholders(sql, text, args):
    given = "abcdefghij"[: max(native(sql).numbers, default=0)]
    assert translated(sql, *given) == (text, tuple(args))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT '$1'",
        "SELECT 'it''s $1', 'and $2'",
        'SELECT "$1", "a""$1"',
        "SELECT `$1`, [$1]",
        "SELECT 1 -- $1, it's",
        "SELECT /* $1 ' \n $2 */ 1",
        "SELECT a$1, ü$1, _$1",
        "SELECT $1a, $name, $",
        "SELECT x'00ff', json(data) -> '$.a[1]'",
        "SELECT '$1",
        'SELECT "$1',
        "SELECT /* $1",
    ],
)
def test_what_is_no_placeholder(sql):
    assert native(sql) == (sql, None, frozenset())


def test_placeholders_beside_what_is_none():
    sql = "SELECT '$9' || $2 -- $8\n, \"$7\" /* $6 */ = $1, col$5, $2"
    text = "SELECT '$9' || ? -- $8\n, \"$7\" /* $6 */ = ?, col$5, ?"
    assert translated(sql, "a", "b") == (text, ("b", "a", "b"))


async def test_wrong_arguments_are_told(database):
    async with database.transaction() as tx:
        for sql, args, said in (
            ("SELECT $1, $2", (1,), r"\$2 is in the statement, but 1 argument"),
            ("SELECT $2", (1,), r"\$1 isn't in the statement"),
            ("SELECT $1", (1, 2), r"\$2 isn't in the statement"),
            ("SELECT $3, $1", (1, 2), r"\$2 isn't in the statement"),
            ("SELECT ?", (1,), r"\$1 isn't in the statement"),
            ("SELECT :name", (), "binding"),
        ):
            with pytest.raises(StoreError, match=said):
                await tx.fetch(sql, *args)
        assert await tx.fetch_value("SELECT '$1' || $1", "x") == "$1x"


# Scripts


def test_a_script(con):
    def script():
        assert (yield Statement("CREATE TABLE t (a, b)")) == []
        insert = "INSERT INTO t (b, a) VALUES ($2, $1)"
        rows = yield Statement(insert, [(1, "x"), (2, "y"), (3, "z")], many=True)
        assert rows[0][0] == 3
        rows = yield Statement("UPDATE t SET b = b || $2 WHERE a = $1", [(9, "!")], many=True)
        assert rows[0][0] == 0
        rows = yield Statement("SELECT b FROM t WHERE a IN ($1, $3, $2)", (1, 3, 2))
        return "".join(row[0] for row in rows)

    assert run(con, script()) == "xyz"


def test_a_script_of_nothing(con):
    def script():
        return 7
        yield

    assert run(con, script()) == 7


def test_an_error_ends_a_script(con):
    ended = []

    def script():
        try:
            yield Statement("SELECT * FROM nowhere")
        finally:
            ended.append(True)

    with pytest.raises(sqlite3.OperationalError):
        run(con, script())
    assert ended == [True]


async def test_a_script_is_one_hop_to_the_thread(database, monkeypatch):
    hops = []
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (a)")
        session = tx._session
        submit = session.submit
        monkeypatch.setattr(session, "submit", lambda work: hops.append(work) or submit(work))

        def script():
            for n in range(3):
                yield Statement("INSERT INTO t (a) VALUES ($1)", (n,))
            return (yield Statement("SELECT count(*) FROM t"))[0][0]

        assert await tx.run_script(script()) == 3
    assert len(hops) == 1


# What waits for other processes


async def test_one_look_for_all_who_wait(database, monkeypatch):
    monkeypatch.setattr(hints, "_POLL", 0.01)
    looks, tasks = [], asyncio.all_tasks()
    write = database.file.write
    monkeypatch.setattr(
        database.file, "write", lambda work, **how: looks.append(1) or write(work, **how)
    )
    heard = []
    ends = [
        journal(database).on_due(heard.append),
        journal(database).on_due(heard.append),
        leases(database).on_freed(lambda: heard.append("freed")),
    ]
    assert len(asyncio.all_tasks() - tasks) == 1
    await asyncio.sleep(0.2)
    assert 0 < len(looks) <= 21
    with contextlib.closing(sqlite3.connect(database.path)) as other:
        other.execute("CREATE TABLE t (a)")
    await asyncio.sleep(0.1)
    assert sorted(map(str, heard)) == ["None", "None", "freed"]
    for end in (*ends, *ends):
        end()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() - tasks == set()


async def test_what_this_process_ends_itself_is_heard_by_those_who_wait_for_leases(database):
    heard = []
    journal(database).on_due(lambda _: heard.append("due"))
    leases(database).on_freed(lambda: heard.append("freed"))
    await asyncio.sleep(0.1)
    token = await acquire(database, "a")
    await leases(database).release([token])
    await leases(database).release([token])
    await asyncio.sleep(0.1)
    assert heard == ["freed"]


async def test_subscriptions_end_with_the_database(database):
    tasks = asyncio.all_tasks()
    end = leases(database).on_freed(lambda: None)
    await database.close()
    assert asyncio.all_tasks() - tasks == set()
    end()
    await database.open()
    journal(database).on_due(lambda _: None)


# Reclaiming


async def test_owners_are_found_by_hopping_over_the_index(database):
    living, dead = await register(database), await register(database)
    for token in (living, dead):
        for _ in range(3):
            await owned(database, token)
    await leases(database).release([dead])

    def plan(con):
        seen = []
        con.set_trace_callback(seen.append)
        try:
            assert reading.orphaned(con) == [dead]
        finally:
            con.set_trace_callback(None)
        return con.execute(f"EXPLAIN QUERY PLAN {seen[-1]}").fetchall()

    steps = [row[3] for row in await database.file.read(plan)]
    looks = [step for step in steps if "standfast_instances" in step]
    assert len(looks) == 2
    assert all(step.startswith("SEARCH") and "(owner>?)" in step for step in looks), steps
    assert await journal(database).reclaim() == 3
    assert await journal(database).owned() == {living: 3}
