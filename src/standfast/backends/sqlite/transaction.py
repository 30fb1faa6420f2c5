"""Interactive transactions on SQLite: exclusive use of the one writer."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from standfast.backends.sqlite import reading, writing
from standfast.backends.sqlite.connection import Session, Work
from standfast.errors import StandfastError, StoreError
from standfast.ports.database import Mark, Row
from standfast.ports.journal import Append, Filter, Instance, Mail, Start, Started

if TYPE_CHECKING:
    from standfast.backends.sqlite.database import SqliteDatabase

T = TypeVar("T")
_PLACEHOLDER = re.compile(r"\$(\d+)")
_CONTROL = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK)\b(?!\s+(TRANSACTION\s+)?TO\b)", re.I)


class SqliteTransaction:
    """`StoreTransaction` on SQLite: an async context manager, made by `SqliteDatabase.transaction`.

    It takes the writer (``BEGIN IMMEDIATE``) with its first statement, in turn with everything else
    that writes, and keeps it until the block ends: do nothing slow in there.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._session: Session | None = None
        self._task: asyncio.Task[Any] | None = None
        self._over = True

    async def __aenter__(self) -> SqliteTransaction:
        self._task = asyncio.current_task()
        self._database.refuse_nesting()
        self._over = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over = True
        session, self._session = self._session, None
        if session is None:
            return
        self._database.ended(self)
        if error is None:
            await session.commit()
        else:
            await session.rollback()

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """The task that opened it."""
        return self._task

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        return await self._query(sql, args, lambda cursor: max(cursor.rowcount, 0))

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        rows: Sequence[Row] = await self._query(sql, args, lambda cursor: cursor.fetchall())
        return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = await self._query(sql, args, _first)
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = await self.fetch_one(sql, *args)
        return None if row is None else row[0]

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """See `StoreTransaction.start`."""
        return await self._do(lambda con: writing.start(con, starts, owner=owner))

    async def append(self, owner: int, append: Append) -> StandfastError | None:
        """See `StoreTransaction.append`."""
        now = self._database.now()
        path = self._database.path
        (answer,) = await self._do(
            lambda con: writing.append_each(con, owner, (append,), now=now, path=path)
        )
        return answer

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `StoreTransaction.send`."""
        now = self._database.now()
        return await self._do(lambda con: writing.send(con, mails, now=now))

    async def instance(self, id: UUID) -> Instance | None:
        """See `StoreTransaction.instance`."""
        wanted = Filter(pattern="", ids=(id,))
        found = await self._do(lambda con: reading.find(con, wanted, limit=1, after=None))
        return found[0] if found else None

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `StoreTransaction.mark`."""

        def work(con: sqlite3.Connection) -> Mark | None:
            new = con.execute(
                "INSERT INTO standfast_marks (key, operation, reason, at) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (key, operation) DO NOTHING",
                (key, operation, reason, at),
            ).rowcount
            if new:
                return None
            return Mark(
                *con.execute(
                    "SELECT reason, result FROM standfast_marks WHERE key = ? AND operation = ?",
                    (key, operation),
                ).fetchone()
            )

        return await self._do(work)

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `StoreTransaction.keep_result`. Raises `StoreError` if the mark isn't there."""

        def work(con: sqlite3.Connection) -> None:
            touched = con.execute(
                "UPDATE standfast_marks SET result = ? WHERE key = ? AND operation = ?",
                (result, key, operation),
            ).rowcount
            if not touched:
                raise StoreError(f"no mark ({key!r}, {operation!r}) is set: call mark() first")

        await self._do(work)

    async def _query(
        self, sql: str, args: Sequence[Any], answer: Callable[[sqlite3.Cursor], T]
    ) -> T:
        unused = [n for n in range(1, len(args) + 1) if n not in _placeholders(sql)]
        if unused:
            raise StoreError(
                f"${unused[0]} isn't in the statement, but {len(args)} arguments are given: {sql}"
            )
        if _CONTROL.match(sql):
            raise StoreError(
                f"{sql!r}: the block ends its transaction itself. Leave it to commit, raise to "
                "roll back"
            )
        parameters = {str(number): value for number, value in enumerate(args, 1)}

        def work(con: sqlite3.Connection) -> T:
            cursor = con.cursor()
            cursor.row_factory = sqlite3.Row
            try:
                return answer(cursor.execute(sql, parameters))
            finally:
                cursor.close()

        return await self._do(work)

    async def _do(self, work: Work[T]) -> T:
        if self._over:
            raise StoreError("this transaction is over: use it inside its `async with` block only")
        session = self._session
        if session is None:
            session = self._session = self._database.begin(self)
        return await session.submit(work)


def _first(cursor: sqlite3.Cursor) -> Any:
    return cursor.fetchone()


@lru_cache(maxsize=512)
def _placeholders(sql: str) -> frozenset[int]:
    return frozenset(int(number) for number in _PLACEHOLDER.findall(sql))
