"""``standfast migrate``: whose lines, how far they are, and the SQL for someone else."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from standfast.backends import open_database
from standfast.backends.postgres.journal import tables as postgres
from standfast.backends.sqlite.journal import tables as sqlite
from standfast.cli.migrating import known_ports, lines_of
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore
from standfast.ports.rate_limit import RateLimitStore

OLD = Path(__file__).parents[1] / "backends" / "old"
OLD_POSTGRES = """
INSERT INTO standfast.workers (name, kinds, expires_at)
    VALUES ('host-1', '[["saga", "order", 1]]', now() + interval '1 hour');
INSERT INTO standfast.instances (id, pattern, name, version, key, correlation_id, input_hash,
    status, step, cause, created_at, updated_at, last_mail, unread)
    VALUES (gen_random_uuid(), 'saga', 'order', 1, 'k', '', '', 'waiting', '', '', 1, 2, 0, 0);
"""
JUST_MARKS = """\
from shop import Barrier, Standfast
import os
app = Standfast(os.environ["SHOP_DATABASE"]).add(Barrier())
nothing = Standfast(os.environ["SHOP_DATABASE"])
"""


def run_sql(url, sql):
    """Have someone else run it: the database's own means."""
    if url.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(sql)
        return

    async def run():
        import asyncpg

        connection = await asyncpg.connect(url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture
def url(shared_shop):
    import os

    (shared_shop / "justmarks.py").write_text(JUST_MARKS)
    return os.environ["SHOP_DATABASE"]


def newest_of_journal(url):
    """How many migrations the line of the journal has by now; all others have one."""
    return (sqlite if url.startswith("sqlite:") else postgres).LINE.newest


SINCE = [f"--after={line}=1" for line in ("coordination", "journal", "marks")]
"""What came after a database that is taken over."""


def is_whole(stands):
    """Whether nothing is missing in any line."""
    return all(applied == newest for applied, newest in stands.values())


def stands(standfast, *arguments, code=0):
    told = standfast("migrate", "--app", *arguments, "--status", "--json", code=code).stdout
    return {one["line"]: (one["applied"], one["newest"]) for one in json.loads(told)}


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("sqlite:///x.db", {"coordination", "journal", "marks"}),
        ("postgresql://u@h/d", {"coordination", "journal", "marks", "rate_limits"}),
        ("memory://", set()),
    ],
)
def test_the_lines_of_a_backend_are_found(address, named):
    ports = set(known_ports())
    assert {LeaseStore, JournalStore, MarkStore, RateLimitStore} <= ports
    found = lines_of(open_database(address), ports)
    assert set(found) == named
    if "journal" in found:
        assert [line.name for line in found["journal"]] == ["coordination", "journal"]


def test_an_app_gets_the_tables_of_its_patterns_only(url, standfast):
    told = standfast("migrate", "--app", "justmarks:app").stdout
    assert "applied marks 1: marks\n" in told
    assert "journal" not in told
    assert stands(standfast, "justmarks:app") == {"marks": (1, 1)}
    assert stands(standfast, "shop:app", code=1) == {
        "coordination": (0, 1),
        "journal": (0, newest_of_journal(url)),
        "marks": (1, 1),
    }
    # A URL gets what its database has: still only marks.
    assert "applied" not in standfast("migrate", "--app", url).stdout
    assert stands(standfast, url) == {"marks": (1, 1)}
    refused = standfast("sagas", "list", "--app", "justmarks:app", code=1).stderr
    assert f"journal is at 0, this version needs {newest_of_journal(url)}" in refused
    assert "--line coordination --line journal" in refused
    assert "--line coordination" in standfast("services", "--app", url, code=1).stderr
    assert "applied journal 1: " in standfast("migrate", "--app", "shop:app").stdout
    assert stands(standfast, url) == stands(standfast, "shop:app")
    # One that stores nothing needs none.
    assert "is at nothing" in standfast("migrate", "--app", "justmarks:nothing").stdout


def test_an_empty_database_is_asked_for_lines(url, standfast):
    for options in ([], ["--dry-run"]):
        told = standfast("migrate", "--app", url, *options, code=2).stderr
        assert "has no tables of Standfast's yet" in told
        assert "--line coordination --line journal --line marks" in " ".join(
            sorted(told.split("have: ")[1].replace("--line ", "--line=").split())
        ).replace("--line=", "--line ")
    assert not Path("shop.db").exists()
    told = standfast("migrate", "--app", url, "--line", "tables", code=2).stderr
    assert told.startswith("error: --line tables: choose from coordination, journal, marks")
    told = standfast("migrate", "--app", "justmarks:app", "--line", "journal", code=2).stderr
    assert told == "error: --line journal: choose from marks\n"
    dry = standfast("migrate", "--app", url, "--line", "journal", "--dry-run", "--json").stdout
    assert [(one["line"], one["number"]) for one in json.loads(dry)] == [
        ("coordination", 1),
        *(("journal", number) for number in range(1, newest_of_journal(url) + 1)),
    ]
    assert not Path("shop.db").exists()
    assert (
        "applied coordination 1: leases\n"
        in standfast("migrate", "--app", url, "--line", "journal").stdout
    )
    again = standfast("migrate", "--app", url, "--dry-run").stdout
    assert again == "would apply nothing: nothing is missing\n"
    assert json.loads(standfast("migrate", "--app", url, "--json").stdout) == []


def test_how_far_they_are_is_a_table(url, standfast, monkeypatch):
    standfast("migrate", "--app", "justmarks:app")
    lines = standfast("migrate", "--app", "shop:app", "--status", code=1).stdout.splitlines()
    assert lines[0].split() == ["LINE", "APPLIED", "NEWEST", "NEXT"]
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in lines[1:]}
    assert rows["marks"] == ["1", "1"]
    assert rows["coordination"] == ["0", "1", "leases"]
    assert max(map(len, lines)) <= 80


def test_the_status_of_what_is_not_there_makes_no_file(shop, standfast):
    told = standfast("migrate", "--app", "shop:app", "--status", code=1)
    assert "there is no database at shop.db" in told.stderr
    assert not Path("shop.db").exists()
    run_sql("sqlite:///shop.db", "CREATE TABLE somebody_elses (x)")
    before = Path("shop.db").read_bytes()
    assert stands(standfast, "sqlite:///shop.db", code=1)["journal"] == (0, sqlite.LINE.newest)
    assert (
        "has no tables of Standfast's"
        in standfast("migrate", "--app", "sqlite:///shop.db", code=2).stderr
    )
    assert Path("shop.db").read_bytes() == before


def test_what_a_newer_version_made_is_told(shop, standfast):
    standfast("migrate", "--app", "shop:app")
    run_sql(
        "sqlite:///shop.db",
        "INSERT INTO standfast_schema_migrations (line, number, name) VALUES"
        " ('marks', 2, 'more'), ('outbox', 1, 'outbox')",
    )
    told = standfast("migrate", "--app", "sqlite:///shop.db", "--status")
    assert "(a newer version of Standfast made it)" in told.stdout
    assert told.stderr == "there are others, which an app of theirs must tell of: outbox\n"


def begun(sql):
    """The lines before those that begin a transaction."""
    lines = sql.splitlines()
    return [
        lines[number - 1]
        for number, line in enumerate(lines)
        if line in ("BEGIN;", "BEGIN IMMEDIATE;")
    ]


def test_the_sql_is_complete(url, standfast):
    sql = standfast("migrate", "--app", "shop:app", "--sql").stdout
    assert not Path("shop.db").exists()
    how = "sqlite3 -bail" if url.startswith("sqlite:") else "psql -v ON_ERROR_STOP=1"
    assert sql.startswith(f"-- Run it with: {how} ")
    assert ("BEGIN IMMEDIATE;\n" in sql) == url.startswith("sqlite:"), "a lock is waited for first"
    assert begun(sql)[0] == "-- coordination 1: leases"
    run_sql(url, sql)
    assert "applied" not in standfast("migrate", "--app", "shop:app").stdout
    assert all(applied == newest for applied, newest in stands(standfast, url).values())
    standfast("workers", "--app", url)
    after = [
        "--after",
        "coordination=1",
        "--after",
        f"journal={newest_of_journal(url)}",
        "--after",
        "marks=1",
    ]
    assert standfast("migrate", "--app", "shop:app", "--sql", *after).stdout == ""
    rest = standfast("migrate", "--app", "shop:app", "--sql", *after[2:]).stdout
    assert begun(rest) == ["-- coordination 1: leases"]
    by_url = standfast("migrate", "--app", url, "--line", "marks", "--sql").stdout
    assert begun(by_url) == ["-- marks 1: marks"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sqlite:///x.db", "--sql"], "--sql connects nowhere, so say which tables: --line "),
        (["shop:app", "--after", "journal=1"], "goes with --sql, --alembic and --django only"),
        (["shop:app", "--take-over"], "goes with --sql only"),
        (["shop:app", "--take-over", "--sql", "--line", "marks"], "leave --line and --after out"),
        (
            ["shop:app", "--take-over", "--sql", "--after", "marks=1"],
            "leave --line and --after out",
        ),
        (["shop:app", "--sql", "--json"], "there is no JSON of SQL"),
        (
            ["shop:app", "--sql", "--status"],
            "one of --status, --dry-run, --sql, --alembic and --django",
        ),
        (["shop:app", "--sql", "--after", "journal"], "write LINE=NUMBER, such as journal=1"),
        (["shop:app", "--sql", "--after", "tables=1"], "choose from coordination, journal, marks"),
        (["memory://", "--line", "marks"], "lives and dies with the process"),
    ],
)
def test_what_makes_no_sense_is_told(shop, standfast, arguments, said):
    assert said in standfast("migrate", "--app", *arguments, code=2).output
    assert list(Path().glob("*.db")) == []


def make_old(url):
    """The database as the version before the lines left it, with a live worker."""
    if url.startswith("sqlite:"):
        run_sql(url, (OLD / "sqlite_1.sql").read_text())
        return
    for number in (1, 2):
        run_sql(url, (OLD / f"postgres_{number}.sql").read_text())
    run_sql(url, OLD_POSTGRES)


def refused(url, sql):
    """What the database says to a script that it refuses."""
    import asyncpg

    with pytest.raises((sqlite3.Error, asyncpg.PostgresError)) as caught:
        run_sql(url, sql)
    return f"{caught.value} {getattr(caught.value, 'hint', '')}"


@pytest.mark.parametrize("target", ["shop:app", ""])
def test_a_database_of_the_old_version_is_taken_over(url, standfast, target):
    make_old(url)
    target = target or url
    assert {applied for applied, _ in stands(standfast, target, code=1).values()} == {0}
    status = standfast("migrate", "--app", target, "--status", code=1)
    assert [row.split(maxsplit=3)[3] for row in status.stdout.splitlines()[1:]] == [
        "(will be taken over)"
    ] * len(stands(standfast, target, code=1))
    assert "`standfast migrate` will take it over with all it holds" in status.stderr
    told = json.loads(standfast("migrate", "--app", target, "--status", "--json", code=1).stdout)
    assert all(one["to_be_taken_over"] and one["missing"][0] == 1 for one in told)
    dry = standfast("migrate", "--app", target, "--dry-run")
    assert "will be taken over: coordination 1: leases\n" in dry.stdout
    assert dry.stdout.count("would apply") == newest_of_journal(url) - 1, "what came later"
    assert "end them first" in dry.stderr
    told = json.loads(standfast("migrate", "--app", target, "--dry-run", "--json").stdout)
    assert {"line": "marks", "number": 1, "name": "marks", "taken_over": True} in told
    told = standfast("migrate", "--app", target)
    assert told.stderr == (
        "took over the tables of an older version: its workers can't write any more\n"
    )
    assert told.stdout.count("applied") == newest_of_journal(url) - 1, "what came later"
    assert is_whole(stands(standfast, target))
    assert json.loads(standfast("sagas", "list", "--app", target, "--json").stdout)
    # Its workers stay registered until their leases run out.
    registered = json.loads(standfast("services", "--app", target, "--json").stdout)
    assert [one["services"] for one in registered] == [[]] * len(registered)
    assert len(registered) >= 1
    assert registered[0]["process"] in standfast("services", "--app", target).stdout
    assert "order v1" in standfast("workers", "--app", target).stdout
    told = json.loads(standfast("migrate", "--app", target, "--status", "--json").stdout)
    assert not any(one["to_be_taken_over"] for one in told)


def test_what_an_old_database_never_had_is_applied_after_it_is_taken_over(url, standfast):
    if url.startswith("sqlite:"):
        pytest.skip("all that there is on SQLite was there before")
    run_sql(url, (OLD / "postgres_1.sql").read_text())
    limits = ["migrate", "--app", url, "--line", "rate_limits"]
    dry = standfast(*limits, "--dry-run").stdout
    assert "will be taken over: journal 1: instances, journal and mail\n" in dry
    assert "would apply rate_limits 1: rate limits\n" in dry
    told = json.loads(standfast(*limits, "--json").stdout)
    assert {one["line"]: one["taken_over"] for one in told} == {
        "coordination": True,
        "journal": True,
        "marks": True,
        "rate_limits": False,
    }


def test_an_old_database_is_taken_over_with_the_sql_only(url, standfast):
    make_old(url)
    before = standfast("migrate", "--app", "shop:app", "--status", code=1).output
    assert "standfast migrate -a URL --sql --take-over" in refused(
        url, standfast("migrate", "--app", "shop:app", "--sql").stdout
    )
    assert "standfast migrate -a URL --sql --take-over" in refused(
        url, standfast("migrate", "--app", url, "--sql", "--line", "marks").stdout
    )
    assert standfast("migrate", "--app", "shop:app", "--status", code=1).output == before
    taking_over = standfast("migrate", "--app", url, "--sql", "--take-over").stdout
    assert taking_over.startswith("-- Run it with: ")
    assert len(begun(taking_over)) == 1
    run_sql(url, taking_over)
    run_sql(url, standfast("migrate", "--app", "shop:app", "--sql", *SINCE).stdout)
    assert is_whole(stands(standfast, url))
    assert "order v1" in standfast("workers", "--app", url).stdout
    assert "nothing to take over" in refused(url, taking_over)
    assert standfast("migrate", "--app", "shop:app").stderr == ""
    assert is_whole(stands(standfast, url))


def test_there_is_nothing_to_take_over_in_a_new_database(url, standfast):
    taking_over = standfast("migrate", "--app", "shop:app", "--sql", "--take-over").stdout
    assert not Path("shop.db").exists()
    assert "nothing to take over" in refused(url, taking_over)
    standfast("migrate", "--app", "shop:app")
    assert "nothing to take over" in refused(url, taking_over)


@pytest.mark.parametrize("noted", [False, True])
def test_what_is_half_made_is_told_with_the_remedy(url, standfast, noted):
    """As scripts left it that didn't look whether an old database was there."""
    make_old(url)
    where = "standfast_" if url.startswith("sqlite:") else "standfast."
    script = standfast("migrate", "--app", url, "--sql", "--line", "coordination").stdout
    lines = script.splitlines()
    begin = lines.index(next(line for line in lines if "CREATE TABLE IF NOT EXISTS" in line))
    run_sql(url, "CREATE SCHEMA IF NOT EXISTS standfast;" if where == "standfast." else "")
    run_sql(url, "\n".join(lines[begin:]).replace("COMMIT;", ""))
    if noted:  # SQLite's shell goes on after an error, to the note.
        note = f"INSERT INTO {where}schema_migrations (line, number, name) VALUES"
        run_sql(url, f"{note} ('journal', 1, 'x'), ('marks', 1, 'x')")
    for arguments in (
        ["migrate", "--app", "shop:app"],
        ["migrate", "--app", url],
        ["migrate", "--app", "shop:app", "--dry-run"],
        ["migrate", "--app", url, "--status"],
        ["run", "--app", "shop:app", "--migrate"],
        ["run", "--app", "shop:app"],
    ):
        told = standfast(*arguments, code=1).stderr
        assert f"run `DROP TABLE {where}leases`, and then `standfast migrate`" in told, arguments
        assert "restore a backup" in told
    taking_over = standfast("migrate", "--app", url, "--sql", "--take-over").stdout
    assert f"DROP TABLE {where}leases" in refused(url, taking_over)
    run_sql(url, f"DROP TABLE {where}leases")
    assert "took over" in standfast("migrate", "--app", "shop:app").stderr
    assert is_whole(stands(standfast, url))
    assert "order v1" in standfast("workers", "--app", url).stdout


def shell(url, sql):
    """Run it with the database's shell, as the first line of the script says."""
    Path("script.sql").write_text(sql)
    _, _, command = sql.splitlines()[0].partition("-- Run it with: ")
    for name, value in {
        "DATABASE.db": url.removeprefix("sqlite:///"),
        "THIS_FILE": "script.sql",
        "URL": url,
    }.items():
        command = command.replace(name, value)
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"there is no {command.split()[0]}")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_shells_stop_where_they_should(url, standfast):
    make_old(url)
    sql = standfast("migrate", "--app", "shop:app", "--sql").stdout
    code, told = shell(url, sql)
    assert code != 0
    assert "standfast migrate -a URL --sql --take-over" in told
    assert {applied for applied, _ in stands(standfast, "shop:app", code=1).values()} == {0}
    assert shell(url, standfast("migrate", "--app", url, "--sql", "--take-over").stdout)[0] == 0
    since = standfast("migrate", "--app", "shop:app", "--sql", *SINCE).stdout
    assert shell(url, since)[0] == 0
    assert is_whole(stands(standfast, "shop:app"))
    code, told = shell(url, sql)
    assert code != 0
    assert "already exists" in told
    assert is_whole(stands(standfast, "shop:app"))
    assert standfast("workers", "--app", url).stdout.count("order v1") == 1


def test_the_shells_make_a_new_database(url, standfast):
    code, told = shell(url, standfast("migrate", "--app", "shop:app", "--sql").stdout)
    assert code == 0, told
    assert "applied" not in standfast("migrate", "--app", "shop:app").stdout
    assert is_whole(stands(standfast, "shop:app"))


def test_a_gap_is_told_and_filled(url, standfast):
    standfast("migrate", "--app", "shop:app")
    where = "standfast_" if url.startswith("sqlite:") else "standfast."
    run_sql(url, f"UPDATE {where}schema_migrations SET number = 2 WHERE line = 'marks'")
    told = json.loads(standfast("migrate", "--app", url, "--status", "--json", code=1).stdout)
    assert [(one["line"], one["applied"], one["missing"]) for one in told if one["missing"]] == [
        ("marks", 0, [1])
    ]
    status = standfast("migrate", "--app", url, "--status", code=1).stdout.splitlines()
    assert ["marks", "0", "1", "marks"] in [row.split() for row in status]
    assert standfast("migrate", "--app", url, "--dry-run").stdout == "would apply marks 1: marks\n"
    run_sql(url, f"DROP TABLE {where}marks")
    assert "applied marks 1: marks\n" in standfast("migrate", "--app", "shop:app").stdout
