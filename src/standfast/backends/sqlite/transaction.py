"""Interactive transactions on SQLite: exclusive use of the one writer."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from standfast.backends.control import refuse_control
from standfast.backends.sqlite.connection import Work
from standfast.backends.sqlite.driver import check_arguments, native, run, touched
from standfast.backends.sqlite.file import SqliteFile
from standfast.backends.sqlite.session import Session
from standfast.errors import StoreError
from standfast.ports.database import TRANSACTION_OVER, Row, Script
from standfast.ports.providing import Dialect
from standfast.text import class_of, on_one_line

T = TypeVar("T")
log = logging.getLogger("standfast.backends.sqlite")

WARNS_AFTER = 5.0
"""Seconds for which a transaction may have the writer before a warning tells of it."""
REFUSES_AFTER = 30.0
"""Seconds until what waits for it is refused, and then again: it may wait for what waits for it."""


class SqliteTransaction:
    """`StoreTransaction` on SQLite: an async context manager, made by `SqliteDatabase.transaction`.

    It takes the writer (``BEGIN IMMEDIATE``) with its first statement, in turn with everything else
    that writes, and keeps it until the block ends: do nothing slow in there.
    """

    dialect: Dialect = "sqlite"

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._session: Session | None = None
        self._task: asyncio.Task[Any] | None = None
        self._over = True
        self._sql = ""
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0

    async def __aenter__(self) -> SqliteTransaction:
        self._task = asyncio.current_task()
        self._file.refuse_nesting()
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
        if self._timer is not None:
            self._timer.cancel()
        self._file.ended(session)
        if error is None:
            await session.commit()
        else:
            await session.rollback()

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        return await self._query(sql, args, touched)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        rows: Sequence[Row] = await self._query(sql, args, _all)
        return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = await self._query(sql, args, _first)
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = await self.fetch_one(sql, *args)
        return None if row is None else row[0]

    async def run_script(self, script: Script[T]) -> T:
        """See `RunsScripts.run_script`: all of it in one go on the connection's thread."""
        self._sql = getattr(script, "__qualname__", class_of(script))
        return await self._do(lambda con: run(con, script))

    async def _query(
        self, sql: str, args: Sequence[Any], answer: Callable[[sqlite3.Cursor, int], T]
    ) -> T:
        text, arrange, numbers = native(sql)
        check_arguments(sql, numbers, len(args))
        refuse_control(sql, "sqlite")
        self._sql = sql
        arranged = args if arrange is None else arrange(args)

        def work(con: sqlite3.Connection) -> T:
            cursor = con.cursor()
            cursor.row_factory = sqlite3.Row
            before = con.total_changes
            try:
                return answer(cursor.execute(text, arranged), before)
            finally:
                cursor.close()

        return await self._do(work)

    async def _do(self, work: Work[T]) -> T:
        if self._over:
            raise StoreError(TRANSACTION_OVER)
        session = self._session
        if session is not None:
            return await session.submit(work)
        session = self._session = self._file.begin(self._task)
        done = await session.submit(work)
        if not self._over:  # from now on it has the writer
            self._since = self._file.now()
            self._timer = asyncio.get_running_loop().call_later(WARNS_AFTER, self._warn)
        return done

    def _warn(self) -> None:
        log.warning(
            "a transaction has kept the only writer of %s for %g s, and all else that writes "
            "waits; what it ran last is `%s`: do nothing slow inside a transaction",
            self._file.path,
            WARNS_AFTER,
            on_one_line(self._sql, 200),
        )
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(REFUSES_AFTER - WARNS_AFTER, 0.0), self._refuse)

    def _refuse(self) -> None:
        since = datetime.fromtimestamp(self._since, UTC)
        task = "" if self._task is None else f" in {self._task.get_name()}"
        self._file.refuse_waiting(
            f"this waited in vain for the only writer, which a transaction of this process{task} "
            f"has kept since {since:%H:%M:%S} UTC, what it ran last is "
            f"`{on_one_line(self._sql, 200)}`. End its block sooner, with nothing slow in it; and "
            "what is called inside of it, by another thread or task too, must write through its "
            "tx (tx.start(…)), or it waits for itself"
        )
        self._timer = asyncio.get_running_loop().call_later(REFUSES_AFTER, self._refuse)


def _all(cursor: sqlite3.Cursor, before: int) -> list[Any]:
    return cursor.fetchall()


def _first(cursor: sqlite3.Cursor, before: int) -> Any:
    return cursor.fetchone()
