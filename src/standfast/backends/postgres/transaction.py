"""A transaction on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any
from uuid import UUID

import asyncpg

from standfast.backends.postgres import statements as sql
from standfast.backends.postgres import writing
from standfast.backends.postgres.errors import DRIVER_ERRORS, translate
from standfast.backends.postgres.journal import instance_of
from standfast.backends.postgres.pool import Pool, drop
from standfast.errors import StandfastError, StoreError
from standfast.ports.database import Mark, Row
from standfast.ports.journal import Append, Instance, Mail, Start, Started


class PostgresTransaction:
    """`StoreTransaction` on PostgreSQL, READ COMMITTED. BEGIN comes with the first statement.

    For one task at a time. A failed statement ends the transaction, unless a SAVEPOINT was set.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._stack = AsyncExitStack()
        self._connection: Any = None
        self._entered = self._left = False
        self._foreign = False

    async def __aenter__(self) -> PostgresTransaction:
        if self._entered:
            raise StoreError("a transaction can be entered once: call database.transaction() again")
        self._entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left = True
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with self._errors(own=False):
            async with self._stack:
                try:
                    if error is None:
                        await self._pool.commit(connection)
                    else:
                        await self._pool.roll_back(connection)
                except BaseException:
                    # The connection's state isn't known any more.
                    drop(connection)
                    raise
                if self._foreign:
                    await self._reset(connection)

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        connection = await self._begun()
        self._foreign = True
        with self._errors(own=False):
            tag = await connection.execute(sql, *args)
        count = tag.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        connection = await self._begun()
        self._foreign = True
        with self._errors(own=False):
            rows: Sequence[Row] = await connection.fetch(sql, *args)
            return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        connection = await self._begun()
        self._foreign = True
        with self._errors(own=False):
            row: Row | None = await connection.fetchrow(sql, *args)
            return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = await self.fetch_one(sql, *args)
        return None if row is None else row[0]

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """See `StoreTransaction.start`."""
        return await writing.start(self._fetch, starts, owner=owner)

    async def append(self, owner: int, append: Append) -> StandfastError | None:
        """See `StoreTransaction.append`."""
        connection = await self._begun()
        try:
            if writing.is_plain(append):
                refused = await writing.append(connection.fetch, owner, (append,))
            else:
                refused = await writing.append_with_mail(connection.fetch, owner, (append,))
        except asyncpg.UniqueViolationError:
            return writing.overtaken(append)
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error
        return writing.not_owned(owner, append.id) if refused else None

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `StoreTransaction.send`."""
        return await writing.send(self._fetch, mails)

    async def instance(self, id: UUID) -> Instance | None:
        """See `StoreTransaction.instance`."""
        rows = await self._fetch(sql.BY_ID, id)
        return instance_of(rows[0]) if rows else None

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `StoreTransaction.mark`."""
        while True:
            if await self._fetch(sql.MARK, key, operation, reason, at):
                return None
            rows = await self._fetch(sql.MARK_THERE, key, operation)
            if rows:
                return Mark(rows[0][0], rows[0][1])
            # It was purged in between, so there is room for a new one.

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `StoreTransaction.keep_result`."""
        if not await self._fetch(sql.KEEP_RESULT, key, operation, result):
            raise StoreError(
                f"no mark ({key!r}, {operation!r}) to keep a result with: call mark() before it"
            )

    async def _fetch(self, sql: str, *args: Any) -> list[Any]:
        connection = await self._begun()
        with self._errors(own=True):
            rows: list[Any] = await connection.fetch(sql, *args)
            return rows

    async def _begun(self) -> Any:
        if self._connection is None:
            if self._left or not self._entered:
                raise StoreError("this transaction isn't open: use it inside `async with`")
            with self._errors(own=True):
                connection = await self._stack.enter_async_context(self._pool.acquire())
                self._connection = connection
                try:
                    await self._pool.begin_on(connection)
                except BaseException:
                    drop(connection)
                    raise
        return self._connection

    async def _reset(self, connection: Any) -> None:
        """What the user's SQL may have left on the session must not meet the next."""
        try:
            await connection.reset(timeout=self._pool.timeout)
        except DRIVER_ERRORS:
            # The transaction is over and its outcome known: only the connection is of no use.
            drop(connection)

    @contextmanager
    def _errors(self, *, own: bool) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place, own=own) from error
