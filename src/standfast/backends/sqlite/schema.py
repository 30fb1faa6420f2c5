"""The tables on SQLite, as numbered migrations, and how they are applied."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from standfast.ports.database import Migration

# Mail that was folded into the journal stays, with a NULL body, so that a repeated id is known.
# One partial index serves leases (owner = ?) and waking (owner IS NULL, per kind by wake_at): an
# instance is in it only while it is owned or due some time, so finished ones cost nothing there.
_JOURNAL = """\
CREATE TABLE standfast_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
) STRICT;
CREATE TABLE standfast_instances (
    id BLOB NOT NULL PRIMARY KEY,
    pattern TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    key TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    input_hash TEXT NOT NULL,
    status TEXT NOT NULL,
    step TEXT NOT NULL,
    cause TEXT NOT NULL,
    owner INTEGER,
    wake_at REAL,
    deadline_at REAL,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    finished_at REAL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX standfast_instances_key ON standfast_instances (pattern, name, key);
CREATE INDEX standfast_instances_work
    ON standfast_instances (owner, pattern, name, version, wake_at)
    WHERE owner IS NOT NULL OR wake_at IS NOT NULL;
CREATE INDEX standfast_instances_finished ON standfast_instances (pattern, finished_at)
    WHERE finished_at IS NOT NULL;
CREATE TABLE standfast_journal (
    id BLOB NOT NULL,
    seq INTEGER NOT NULL,
    fact TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE standfast_mail (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    recipient BLOB NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT,
    at REAL NOT NULL,
    UNIQUE (recipient, id)
) STRICT;
CREATE TABLE standfast_workers (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    kinds TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
CREATE TABLE standfast_marks (
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    reason TEXT NOT NULL,
    result TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
CREATE INDEX standfast_marks_at ON standfast_marks (at);
INSERT INTO standfast_migrations (number, name) VALUES (1, 'journal, leases and marks');
"""

MIGRATIONS: tuple[Migration, ...] = (Migration(1, "journal, leases and marks", _JOURNAL),)


def schema_version(con: sqlite3.Connection) -> int:
    """The number of the last migration applied, 0 for none."""
    known = con.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'standfast_migrations'"
    ).fetchone()
    if known is None:
        return 0
    (number,) = con.execute("SELECT max(number) FROM standfast_migrations").fetchone()
    return number or 0


def migrate(con: sqlite3.Connection, migrations: Sequence[Migration]) -> list[Migration]:
    """Apply what is missing, inside the caller's transaction. Each tells that it was applied."""
    version = schema_version(con)
    missing = [migration for migration in migrations if migration.number > version]
    for migration in missing:
        for statement in _statements(migration.sql):
            con.execute(statement)
    return missing


def _statements(sql: str) -> Iterator[str]:
    """One statement at a time, as `executescript` would commit the transaction it is in."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
