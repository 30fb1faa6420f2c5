"""Which tables a file has: the lines of migrations, and files from before there were lines.

The lines themselves are written where their ports are.
"""

# ruff: noqa: S608 - what is put into the SQL text is our own, or quoted

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from urllib.parse import quote

from standfast.backends.sqlite import leases
from standfast.backends.sqlite.database import SqliteDatabase
from standfast.backends.sqlite.errors import translate
from standfast.backends.sqlite.file import SqliteFile
from standfast.errors import ConfigurationError, StoreError
from standfast.ports.providing import Provided
from standfast.ports.schema import (
    AppliedMigration,
    Schema,
    SchemaLine,
    SchemaMigration,
    distinct,
)

_TABLE = "standfast_schema_migrations"
_OLD_TABLE = "standfast_migrations"
_LEASES = "standfast_leases"
_OF_OLD = {("coordination", 1): 1, ("journal", 1): 1, ("marks", 1): 1}
"""By line and number, the number that it had in the line for everything."""
_BOOKKEEPING = """\
CREATE TABLE IF NOT EXISTS standfast_schema_migrations (
    line TEXT NOT NULL,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    PRIMARY KEY (line, number)
) STRICT, WITHOUT ROWID;
"""
EMPTYING = """\
SELECT 'DELETE FROM ' || name FROM sqlite_master
WHERE type = 'table' AND substr(name, 1, 10) = 'standfast_' AND name NOT IN
    ('standfast_schema_migrations', 'standfast_migrations', 'standfast_leases')
"""
"""Answers with the statements that empty all tables but those of migrations and of leases, which
tell what is there and who lives. They don't truncate, which would lock out a worker that looks."""
# What stood at the end of the one line that there was, as the first of the lines of today. Its
# workers become leases, and the tokens go on where they were.
_TAKE_OVER = f"""\
{_BOOKKEEPING}{leases.LINE.migrations[0].sql}\
INSERT INTO standfast_leases (token, name, holder, note, expires_at)
    SELECT token, 'member:' || token, name, '{{"kinds": ' || kinds || '}}', expires_at
    FROM standfast_workers;
DELETE FROM sqlite_sequence WHERE name = 'standfast_leases';
UPDATE sqlite_sequence SET name = 'standfast_leases' WHERE name = 'standfast_workers';
DROP TABLE standfast_workers;
INSERT OR IGNORE INTO standfast_schema_migrations (line, number, name, applied_at)
    SELECT v.column1, 1, v.column2, m.applied_at FROM standfast_migrations AS m, (VALUES
        ('coordination', 'leases'), ('journal', 'instances, journal and mail'), ('marks', 'marks')
    ) AS v WHERE m.number = 1;
DROP TABLE standfast_migrations;
"""


_HALF_MADE = (
    "has an older version's tables (standfast_migrations), and beside them newer ones "
    "(standfast_leases), made without taking the old ones over. If processes of the new version "
    "have worked there since, restore a backup from before; otherwise end all processes, run "
    "`DROP TABLE standfast_leases`, and then `standfast migrate`"
)


def _guard(table: str, *, there: bool, remedy: str) -> str:
    """SQL that fails with the remedy unless the table is there, or isn't.

    Plain SQL can't raise, but it can break a constraint, whose name is told.
    """
    return f"""\
CREATE TEMP TABLE standfast_guard (holds INTEGER CONSTRAINT "{remedy}" CHECK (holds));
INSERT INTO standfast_guard SELECT count(*) = {there:d} FROM main.sqlite_master
    WHERE type = 'table' AND name = '{table}';
DROP TABLE standfast_guard;
"""


_REFUSE_OLD = _guard(
    _OLD_TABLE,
    there=False,
    remedy="an older version of Standfast made this file: take it over first, with `standfast "
    "migrate`, or with what `standfast migrate -a URL --sql --take-over` prints",
)
_REFUSE_NEW = _guard(
    _OLD_TABLE,
    there=True,
    remedy="there is nothing to take over: no older version of Standfast made this file, or it was "
    "taken over already",
) + _guard(_LEASES, there=False, remedy=f"this file {_HALF_MADE}")


class SqliteSchema:
    """`Schema` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    async def applied(self) -> Mapping[str, frozenset[int]]:
        """See `Schema.applied`."""
        return await self._file.read(
            lambda con: {} if _has(con, _OLD_TABLE) else _by_line(_noted(con))
        )

    async def to_take_over(self) -> Mapping[str, frozenset[int]]:
        """See `Schema.to_take_over`."""
        return await self._file.read(lambda con: _to_take_over(con, self._file.path))

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """See `Schema.migrate`. SQLite's write lock keeps others out meanwhile.

        Raises `ConfigurationError` for a migration whose SQL ends in the middle of a statement.
        """
        lines = distinct(lines)
        return await self._file.transact(lambda con: _migrate(con, self._file.path, lines))

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """See `Schema.script`. Raises `ConfigurationError` as `migrate` does."""
        return (
            f"BEGIN IMMEDIATE;\n{_REFUSE_OLD}{_BOOKKEEPING}{_whole(line.name, migration)}"
            f"{_note(line.name, migration)}COMMIT;\n"
        )

    def preparation(self) -> Sequence[str]:
        """See `Schema.preparation`."""
        return _bare(_REFUSE_OLD + _BOOKKEEPING)

    def statements(self, line: SchemaLine, migration: SchemaMigration) -> Sequence[str]:
        """See `Schema.statements`. Raises `ConfigurationError` as `migrate` does."""
        return _bare(_whole(line.name, migration) + _note(line.name, migration))

    def taking_over(self) -> str:
        """See `Schema.taking_over`."""
        return f"BEGIN IMMEDIATE;\n{_REFUSE_NEW}{_TAKE_OVER}COMMIT;\n"


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


def _noted(con: sqlite3.Connection) -> list[tuple[str, int]]:
    if not _has(con, _TABLE):
        return []
    return con.execute("SELECT line, number FROM standfast_schema_migrations").fetchall()


def _by_line(rows: Iterable[tuple[str, int]]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for line, number in rows:
        found[line] = found.get(line, frozenset()) | {number}
    return found


def _is_old(con: sqlite3.Connection, path: str) -> bool:
    """Whether it is to be taken over. Raises `StoreError` where that can't be done."""
    if not _has(con, _OLD_TABLE):
        return False
    if _has(con, _LEASES):
        raise StoreError(f"{path}: {_HALF_MADE}")
    return True


def _to_take_over(con: sqlite3.Connection, path: str) -> dict[str, frozenset[int]]:
    if not _is_old(con, path):
        return {}
    numbers = {number for (number,) in con.execute("SELECT number FROM standfast_migrations")}
    return _by_line([*_noted(con), *(new for new, old in _OF_OLD.items() if old in numbers)])


def _migrate(
    con: sqlite3.Connection, path: str, lines: Sequence[SchemaLine]
) -> list[AppliedMigration]:
    if _is_old(con, path):
        _execute(con, _TAKE_OVER)
    applied = _by_line(_noted(con))
    missing = [
        AppliedMigration(line.name, migration)
        for line in lines
        for migration in line.migrations
        if migration.number not in applied.get(line.name, ())
    ]
    if missing:
        con.execute(_BOOKKEEPING)
    for one in missing:
        _execute(con, _whole(one.line, one.migration))
        con.execute(_note(one.line, one.migration))
    return missing


def _note(line: str, migration: SchemaMigration) -> str:
    return (
        "INSERT INTO standfast_schema_migrations (line, number, name) VALUES"
        f" ({_quoted(line)}, {migration.number}, {_quoted(migration.name)});\n"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _whole(line: str, migration: SchemaMigration) -> str:
    """Its SQL up to a last semicolon. Raises `ConfigurationError` for an unfinished statement."""
    sql = migration.sql.strip() + "\n"
    if not sqlite3.complete_statement(sql):
        sql += ";\n"
    if not sqlite3.complete_statement(sql):
        _, rest = _split(migration.sql)
        raise ConfigurationError(
            f"migration {migration.number} ({migration.name}) of the line {line!r} ends in the "
            "middle of a statement: look for a string or comment that isn't closed, or a trigger "
            f"without END, from {rest.strip()[:60]!r}"
        )
    return sql


def _execute(con: sqlite3.Connection, sql: str) -> None:
    """One statement at a time, as `executescript` would commit the transaction it is in."""
    statements, _ = _split(sql)
    for statement in statements:
        con.execute(statement)


def _split(sql: str) -> tuple[list[str], str]:
    """The statements that are complete, and the rest: comments and blanks, or an unfinished one."""
    statements: list[str] = []
    statement = ""
    *parts, rest = sql.split(";")
    for part in parts:
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            statements.append(statement)
            statement = ""
    return statements, statement + rest


def _bare(sql: str) -> list[str]:
    """Its statements, each without the semicolon that ends it."""
    return [statement.strip().removesuffix(";") for statement in _split(sql)[0]]


def _make(database: SqliteDatabase) -> SqliteSchema:
    return SqliteSchema(database.file)


PROVIDES: dict[type, Provided] = {Schema: Provided(_make)}
