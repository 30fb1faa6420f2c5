"""Which tables a file has: the lines of migrations, and files from before there were lines.

The lines themselves are written where their ports are.
"""

# ruff: noqa: S608 - what is put into the SQL text is our own, or quoted

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from urllib.parse import quote

from standfast.backends.sqlite import leases
from standfast.backends.sqlite.database import SqliteDatabase
from standfast.backends.sqlite.errors import translate
from standfast.backends.sqlite.file import SqliteFile
from standfast.ports.providing import Provided
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration

_TABLE = "standfast_schema_migrations"
_OLD_TABLE = "standfast_migrations"
_BOOKKEEPING = """\
CREATE TABLE IF NOT EXISTS standfast_schema_migrations (
    line TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    PRIMARY KEY (line, number)
) STRICT, WITHOUT ROWID;
"""
# What stood at the end of the one line that there was, as the first of the lines of today. Its
# workers become leases, and the tokens go on where they were.
_ADOPTION = f"""\
{_BOOKKEEPING}{leases.LINE.migrations[0].sql}\
INSERT INTO standfast_leases (token, name, holder, note, expires_at)
    SELECT token, 'member:' || token, name, '{{"kinds": ' || kinds || '}}', expires_at
    FROM standfast_workers;
DELETE FROM sqlite_sequence WHERE name = 'standfast_leases';
UPDATE sqlite_sequence SET name = 'standfast_leases' WHERE name = 'standfast_workers';
DROP TABLE standfast_workers;
INSERT INTO standfast_schema_migrations (line, number, name, applied_at)
    SELECT v.column1, 1, v.column2, m.applied_at FROM standfast_migrations AS m, (VALUES
        ('coordination', 'leases'), ('journal', 'instances, journal and mail'), ('marks', 'marks')
    ) AS v WHERE m.number = 1;
DROP TABLE standfast_migrations;
"""


class SqliteSchema:
    """`Schema` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def versions(self) -> Mapping[str, int]:
        """See `Schema.versions`."""
        return await self._file.read(_versions)

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """See `Schema.migrate`. SQLite's write lock keeps others out meanwhile."""
        return await self._file.transact(lambda con: _migrate(con, lines))

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """See `Schema.script`."""
        return _script(line, migration)


def is_standfast(path: str) -> bool:
    """Whether the SQLite file has tables of Standfast's, also of an older version. Changes nothing.

    Raises `StoreUnavailable` if it isn't there or can't be read, `CorruptRecord` if it is damaged
    or no SQLite file.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as con:
            return _has(con, _TABLE) or _has(con, _OLD_TABLE)
    except sqlite3.Error as error:
        raise translate(error, path) from error


def _has(con: sqlite3.Connection, table: str) -> bool:
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return con.execute(sql, (table,)).fetchone() is not None


def _versions(con: sqlite3.Connection) -> dict[str, int]:
    if not _has(con, _TABLE):
        return {}
    sql = "SELECT line, max(number) FROM standfast_schema_migrations GROUP BY line"
    return dict(con.execute(sql).fetchall())


def _migrate(con: sqlite3.Connection, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
    if _has(con, _OLD_TABLE):
        _execute(con, _ADOPTION)
    versions = _versions(con)
    missing = [
        (line, migration)
        for line in lines
        for migration in line.migrations
        if migration.number > versions.get(line.name, 0)
    ]
    for line, migration in missing:
        _execute(con, _script(line, migration))
    return [AppliedMigration(line.name, migration) for line, migration in missing]


def _script(line: SchemaLine, migration: SchemaMigration) -> str:
    sql = migration.sql.strip() + "\n"
    if not sqlite3.complete_statement(sql):
        sql += ";\n"
    return (
        f"{_BOOKKEEPING}{sql}INSERT INTO standfast_schema_migrations (line, number, name) VALUES"
        f" ({_quoted(line.name)}, {migration.number}, {_quoted(migration.name)});\n"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _execute(con: sqlite3.Connection, sql: str) -> None:
    """One statement at a time, as `executescript` would commit the transaction it is in."""
    for statement in _statements(sql):
        con.execute(statement)


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for part in sql.split(";")[:-1]:  # what follows the last one is blank
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _make(database: SqliteDatabase) -> SqliteSchema:
    return SqliteSchema(database.file)


PROVIDES: dict[type, Provided] = {Schema: Provided(_make)}
