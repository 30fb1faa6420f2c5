"""A transaction on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeVar

from standfast.backends.control import refuse_control
from standfast.backends.postgres.errors import (
    DRIVER_ERRORS,
    is_of_server,
    is_refused,
    rolled_back,
    translate,
    translate_commit,
)
from standfast.backends.postgres.pool import Pool, drop, is_closed
from standfast.errors import StandfastError, StoreError
from standfast.ports.database import TRANSACTION_OVER, Row, Script
from standfast.ports.providing import Dialect
from standfast.text import class_of

T = TypeVar("T")


class PostgresTransaction:
    """`StoreTransaction` on PostgreSQL, READ COMMITTED. BEGIN comes with the first statement.

    For one task at a time. A failed statement ends the transaction, unless a SAVEPOINT was set.
    """

    dialect: Dialect = "postgresql"

    def __init__(self, pool: Pool) -> None:
        self.sql: str = "BEGIN"
        """What was run last, a statement or a script, to be told while others wait."""
        self._pool = pool
        self._stack = AsyncExitStack()
        self._connection: Any = None
        self._entered = self._left = False
        self._foreign = self._astray = False
        # Since a statement failed, the server takes none but a ROLLBACK TO.
        self._failed: StandfastError | None = None

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
                        await self._commit(connection)
                    else:
                        await self._pool.roll_back(connection)
                except BaseException:
                    # The connection's state isn't known any more.
                    drop(connection)
                    raise
                if self._astray:
                    await self._pool.leave(connection)
                elif self._foreign:
                    await self._reset(connection)

    async def _commit(self, connection: Any) -> None:
        if not is_closed(connection) and not connection.is_in_transaction():
            raise StoreError(
                f"PostgreSQL at {self._pool.place}: a statement ended the transaction before its "
                "block did, so what came after it may be committed or not: look what is there"
            )
        try:
            await self._pool.commit(connection, self._failed)
        except DRIVER_ERRORS as error:
            raise translate_commit(error, self._pool.place) from error

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        connection = await self._begun_for(sql)
        with self._errors(own=False):
            done = _touched(await connection.execute(sql, *args))
            self._failed = None
            return done

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        connection = await self._begun_for(sql)
        with self._errors(own=False):
            rows: Sequence[Row] = await connection.fetch(sql, *args)
            self._failed = None
            return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        connection = await self._begun_for(sql)
        with self._errors(own=False):
            row: Row | None = await connection.fetchrow(sql, *args)
            self._failed = None
            return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = await self.fetch_one(sql, *args)
        return None if row is None else row[0]

    async def run_script(self, script: Script[T]) -> T:
        """See `RunsScripts.run_script`. What it runs leaves nothing behind in the session."""
        connection = await self._begun()
        self.sql = getattr(script, "__qualname__", class_of(script))
        rows: Any = None
        while True:
            try:
                sql, args, many = script.send(rows)
            except StopIteration as end:
                result: T = end.value
                return result
            with self._errors(own=True):
                if many:
                    rows = [(sum([_touched(await connection.execute(sql, *one)) for one in args]),)]
                else:
                    rows = await connection.fetch(sql, *args)

    async def _begun_for(self, sql: str) -> Any:
        """The connection, for a statement of the user's."""
        refuse_control(sql, "postgresql")
        self.sql = sql
        connection = await self._begun()
        self._foreign = True
        return connection

    async def _begun(self) -> Any:
        if self._connection is None:
            if self._left:
                raise StoreError(TRANSACTION_OVER)
            if not self._entered:
                raise StoreError("this transaction isn't open: use it inside `async with`")
            with self._errors(own=True):
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(self._pool.share.held(self))
                    connection = await stack.enter_async_context(self._pool.acquire())
                    self._stack = stack.pop_all()
                self._connection = connection
                try:
                    await self._pool.begin_on(connection, freely=True)
                except BaseException:  # whether it began isn't known, so nobody may get it
                    drop(connection)
                    raise
        return self._connection

    async def _reset(self, connection: Any) -> None:
        """What the user's SQL may have left on the session must not meet the next."""
        try:
            await connection.reset(timeout=self._pool.timeout)
        except BaseException as error:
            # The transaction is over and its outcome known: only the connection is of no use.
            drop(connection)
            if not isinstance(error, DRIVER_ERRORS):
                raise

    @contextmanager
    def _errors(self, *, own: bool) -> Iterator[None]:
        try:
            yield
        except DRIVER_ERRORS as error:
            if self._connection is not None and self._pool.is_astray(self._connection, error):
                self._astray = True
            if self._failed is not None and is_refused(error):
                raise rolled_back(self._pool.place, self._failed) from self._failed
            told = translate(error, self._pool.place, own=own)
            if self._failed is None and is_of_server(error):
                self._failed = told
            raise told from error


def _touched(tag: str) -> int:
    """How many rows the command of this tag touched, 0 where it doesn't say."""
    count = tag.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0
