"""Marks on PostgreSQL."""

from __future__ import annotations

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.pool import Pool
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
CREATE TABLE standfast.marks (
    key       text NOT NULL,
    operation text NOT NULL,
    reason    text NOT NULL,
    result    text,
    at        double precision NOT NULL,
    PRIMARY KEY (key, operation)
);
-- For retention: a few pages, whatever the size of the table.
CREATE INDEX marks_at ON standfast.marks
    USING brin (at) WITH (autosummarize = on, pages_per_range = 32);
""",
        ),
    ),
)

_SET = """\
INSERT INTO standfast.marks (key, operation, reason, at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING key
"""
_THERE = "SELECT reason, result FROM standfast.marks WHERE key = $1 AND operation = $2"
_KEEP = "UPDATE standfast.marks SET result = $3 WHERE key = $1 AND operation = $2 RETURNING key"
_COUNT = "SELECT count(*) FROM standfast.marks WHERE at < $1"
_PURGE = """\
DELETE FROM standfast.marks WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM standfast.marks WHERE at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))
RETURNING key
"""


class PostgresMarkWriter:
    """`MarkWriter` on PostgreSQL."""

    def __init__(self, tx: StoreTransaction) -> None:
        self._tx = of_dialect(tx, "postgresql")

    async def set(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `MarkWriter.set`."""
        return await carry_out(self._tx, _set(key, operation, reason, at))

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `MarkWriter.keep_result`."""
        await carry_out(self._tx, _keep_result(key, operation, result))


class PostgresMarks:
    """`MarkStore` on PostgreSQL. Ask the `PostgresDatabase` for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def within(self, tx: StoreTransaction) -> PostgresMarkWriter:
        """See `MarkStore.within`."""
        return PostgresMarkWriter(tx)

    async def count(self, *, before: float) -> int:
        """See `MarkStore.count`."""
        number: int = (await self._pool.fetch(_COUNT, before))[0][0]
        return number

    async def purge(self, *, before: float, limit: int) -> int:
        """See `MarkStore.purge`."""
        return len(await self._pool.fetch(_PURGE, before, limit))


def _set(key: str, operation: str, reason: str, at: float) -> Script[Mark | None]:
    for _ in range(2):
        if (yield Statement(_SET, (key, operation, reason, at))):
            return None
        rows = yield Statement(_THERE, (key, operation))
        if rows:
            return Mark(rows[0][0], rows[0][1])
        # It was purged in between, so there is room for a new one.
    raise StoreError(
        f"the mark ({key!r}, {operation!r}) is neither set nor there: roll back. Is this "
        "connection set up to answer later, or with values of other types?"
    )


def _keep_result(key: str, operation: str, result: str) -> Script[None]:
    if not (yield Statement(_KEEP, (key, operation, result))):
        raise StoreError(
            f"no mark ({key!r}, {operation!r}) to keep a result with: set it before, in the same "
            "transaction"
        )


def _make(database: PostgresDatabase) -> PostgresMarks:
    return PostgresMarks(database.pool)


PROVIDES: dict[type, Provided] = {MarkStore: Provided(_make, LINE)}
