"""Marks on SQLite."""

from __future__ import annotations

import sqlite3

from standfast.backends.sqlite.database import SqliteDatabase
from standfast.backends.sqlite.file import SqliteFile
from standfast.errors import StoreError
from standfast.ports.database import Script, Statement, StoreTransaction, carry_out, of_dialect
from standfast.ports.marks import Mark, MarkStore
from standfast.ports.providing import Provided
from standfast.ports.schema import SchemaLine, SchemaMigration

LINE = SchemaLine(
    "marks",
    (
        SchemaMigration(
            1,
            "marks",
            """\
CREATE TABLE standfast_marks (
    key TEXT NOT NULL,
    operation TEXT NOT NULL,
    reason TEXT NOT NULL,
    result TEXT,
    at REAL NOT NULL,
    PRIMARY KEY (key, operation)
) STRICT, WITHOUT ROWID;
CREATE INDEX standfast_marks_at ON standfast_marks (at);
""",
        ),
    ),
)


class SqliteMarkWriter:
    """`MarkWriter` on SQLite. Ask `SqliteMarks` for it."""

    def __init__(self, tx: StoreTransaction) -> None:
        self._tx = of_dialect(tx, "sqlite")

    async def set(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `MarkWriter.set`."""
        return await carry_out(self._tx, _set(key, operation, reason, at))

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `MarkWriter.keep_result`."""
        await carry_out(self._tx, _keep_result(key, operation, result))


class SqliteMarks:
    """`MarkStore` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def within(self, tx: StoreTransaction) -> SqliteMarkWriter:
        """See `MarkStore.within`."""
        return SqliteMarkWriter(tx)

    async def count(self, *, before: float) -> int:
        """See `MarkStore.count`."""

        def work(con: sqlite3.Connection) -> int:
            sql = "SELECT count(*) FROM standfast_marks WHERE at < ?"
            (number,) = con.execute(sql, (before,)).fetchone()
            return int(number)

        return await self._file.read(work)

    async def purge(self, *, before: float, limit: int) -> int:
        """See `MarkStore.purge`."""

        def work(con: sqlite3.Connection) -> int:
            return con.execute(
                "DELETE FROM standfast_marks WHERE (key, operation) IN (SELECT key, operation"
                " FROM standfast_marks WHERE at < ? ORDER BY at LIMIT ?)",
                (before, limit),
            ).rowcount

        return await self._file.transact(work)


def _set(key: str, operation: str, reason: str, at: float) -> Script[Mark | None]:
    # Run as one of many, a statement is answered with the number of rows that it touched.
    rows = yield Statement(
        "INSERT INTO standfast_marks (key, operation, reason, at) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (key, operation) DO NOTHING",
        [(key, operation, reason, at)],
        many=True,
    )
    if rows[0][0]:
        return None
    rows = yield Statement(
        "SELECT reason, result FROM standfast_marks WHERE key = $1 AND operation = $2",
        (key, operation),
    )
    return Mark(rows[0][0], rows[0][1])


def _keep_result(key: str, operation: str, result: str) -> Script[None]:
    rows = yield Statement(
        "UPDATE standfast_marks SET result = $1 WHERE key = $2 AND operation = $3",
        [(result, key, operation)],
        many=True,
    )
    if not rows[0][0]:
        raise StoreError(f"no mark ({key!r}, {operation!r}) is set: set it first")


def _make(database: SqliteDatabase) -> SqliteMarks:
    return SqliteMarks(database.file)


PROVIDES: dict[type, Provided] = {MarkStore: Provided(_make, LINE)}
