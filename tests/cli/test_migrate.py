"""``standfast migrate``: whose lines, how far they are, and the SQL for someone else."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from standfast.backends import open_database
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
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.executescript(sql)
        connection.close()
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


def stands(standfast, *arguments, code=0):
    told = standfast("migrate", *arguments, "--status", "--json", code=code).stdout
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
    told = standfast("migrate", "justmarks:app").stdout
    assert "applied marks 1: marks\n" in told
    assert "journal" not in told
    assert stands(standfast, "justmarks:app") == {"marks": (1, 1)}
    assert stands(standfast, "shop:app", code=1) == {
        "coordination": (0, 1),
        "journal": (0, 1),
        "marks": (1, 1),
    }
    # A URL gets what its database has: still only marks.
    assert "applied" not in standfast("migrate", url).stdout
    assert stands(standfast, url) == {"marks": (1, 1)}
    refused = standfast("sagas", "list", "--app", "justmarks:app", code=1).stderr
    assert "journal is at 0, this version needs 1" in refused
    assert "--line coordination --line journal" in refused
    assert "--line coordination" in standfast("services", url, code=1).stderr
    assert "applied journal 1: " in standfast("migrate", "shop:app").stdout
    assert stands(standfast, url) == stands(standfast, "shop:app")
    # One that stores nothing needs none.
    assert "is at nothing" in standfast("migrate", "justmarks:nothing").stdout


def test_an_empty_database_is_asked_for_lines(url, standfast):
    for options in ([], ["--dry-run"]):
        told = standfast("migrate", url, *options, code=2).stderr
        assert "has no tables of Standfast's yet" in told
        assert "--line coordination --line journal --line marks" in " ".join(
            sorted(told.split("have: ")[1].replace("--line ", "--line=").split())
        ).replace("--line=", "--line ")
    assert not Path("shop.db").exists()
    told = standfast("migrate", url, "--line", "tables", code=2).stderr
    assert told.startswith("error: --line tables: choose from coordination, journal, marks")
    told = standfast("migrate", "justmarks:app", "--line", "journal", code=2).stderr
    assert told == "error: --line journal: choose from marks\n"
    dry = standfast("migrate", url, "--line", "journal", "--dry-run", "--json").stdout
    assert [(one["line"], one["number"]) for one in json.loads(dry)] == [
        ("coordination", 1),
        ("journal", 1),
    ]
    assert not Path("shop.db").exists()
    assert (
        "applied coordination 1: leases\n" in standfast("migrate", url, "--line", "journal").stdout
    )
    again = standfast("migrate", url, "--dry-run").stdout
    assert again == "would apply nothing: nothing is missing\n"
    assert json.loads(standfast("migrate", url, "--json").stdout) == []


def test_how_far_they_are_is_a_table(url, standfast, monkeypatch):
    standfast("migrate", "justmarks:app")
    lines = standfast("migrate", "shop:app", "--status", code=1).stdout.splitlines()
    assert lines[0].split() == ["LINE", "APPLIED", "NEWEST", "NEXT"]
    rows = {line.split()[0]: line.split(maxsplit=3)[1:] for line in lines[1:]}
    assert rows["marks"] == ["1", "1"]
    assert rows["coordination"] == ["0", "1", "leases"]
    assert max(map(len, lines)) <= 80


def test_the_status_of_what_is_not_there_makes_no_file(shop, standfast):
    told = standfast("migrate", "shop:app", "--status", code=1)
    assert "there is no database at shop.db" in told.stderr
    assert not Path("shop.db").exists()
    run_sql("sqlite:///shop.db", "CREATE TABLE somebody_elses (x)")
    before = Path("shop.db").read_bytes()
    assert stands(standfast, "sqlite:///shop.db", code=1)["journal"] == (0, 1)
    assert (
        "has no tables of Standfast's" in standfast("migrate", "sqlite:///shop.db", code=2).stderr
    )
    assert Path("shop.db").read_bytes() == before


def test_what_a_newer_version_made_is_told(shop, standfast):
    standfast("migrate", "shop:app")
    run_sql(
        "sqlite:///shop.db",
        "INSERT INTO standfast_schema_migrations (line, number, name) VALUES"
        " ('marks', 2, 'more'), ('outbox', 1, 'outbox')",
    )
    told = standfast("migrate", "sqlite:///shop.db", "--status")
    assert "(a newer version of Standfast made it)" in told.stdout
    assert told.stderr == "there are others, which an app of theirs must tell of: outbox\n"


def begun(sql):
    """The lines before those that begin a transaction."""
    lines = sql.splitlines()
    return [lines[number - 1] for number, line in enumerate(lines) if line == "BEGIN;"]


def test_the_sql_is_complete(url, standfast):
    sql = standfast("migrate", "shop:app", "--sql").stdout
    assert not Path("shop.db").exists()
    assert sql.startswith("-- coordination 1: leases\nBEGIN;\n")
    run_sql(url, sql)
    assert "applied" not in standfast("migrate", "shop:app").stdout
    assert all(applied == newest for applied, newest in stands(standfast, url).values())
    standfast("workers", url)
    after = ["--after", "coordination=1", "--after", "journal=1", "--after", "marks=1"]
    assert standfast("migrate", "shop:app", "--sql", *after).stdout == ""
    rest = standfast("migrate", "shop:app", "--sql", *after[2:]).stdout
    assert begun(rest) == ["-- coordination 1: leases"]
    by_url = standfast("migrate", url, "--line", "marks", "--sql").stdout
    assert begun(by_url) == ["-- marks 1: marks"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sqlite:///x.db", "--sql"], "--sql connects nowhere, so say which tables: --line "),
        (["shop:app", "--after", "journal=1"], "goes with --sql only"),
        (["shop:app", "--sql", "--json"], "there is no JSON of SQL"),
        (["shop:app", "--sql", "--status"], "one of --status, --dry-run and --sql"),
        (["shop:app", "--sql", "--after", "journal"], "write LINE=NUMBER, such as journal=1"),
        (["shop:app", "--sql", "--after", "tables=1"], "choose from coordination, journal, marks"),
        (["memory://", "--line", "marks"], "lives and dies with the process"),
    ],
)
def test_what_makes_no_sense_is_told(shop, standfast, arguments, said):
    assert said in standfast("migrate", *arguments, code=2).output
    assert list(Path().glob("*.db")) == []


@pytest.mark.parametrize("target", ["shop:app", ""])
def test_a_database_of_the_old_version_is_taken_over(url, standfast, target):
    if url.startswith("sqlite:"):
        run_sql(url, (OLD / "sqlite_1.sql").read_text())
    else:
        for number in (1, 2):
            run_sql(url, (OLD / f"postgres_{number}.sql").read_text())
        run_sql(url, OLD_POSTGRES)
    target = target or url
    assert set(stands(standfast, target, code=1).values()) == {(0, 1)}
    told = standfast("migrate", target)
    assert told.stderr == (
        "took over the tables of an older version: its workers can't write any more\n"
    )
    assert "applied" not in told.stdout
    assert set(stands(standfast, target).values()) == {(1, 1)}
    assert json.loads(standfast("sagas", "list", "--app", target, "--json").stdout)
    # Its workers stay registered until their leases run out.
    registered = json.loads(standfast("services", target, "--json").stdout)
    assert [one["services"] for one in registered] == [[]] * len(registered)
    assert len(registered) >= 1
    assert registered[0]["process"] in standfast("services", target).stdout
    assert "order v1" in standfast("workers", target).stdout
