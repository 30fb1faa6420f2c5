"""Transactions of aiosqlite: those of ``sqlite3``, on the thread of its connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import aiosqlite

from standfast.adopted.endings import Unknown
from standfast.adopted.factories import AS_IT_IS, text_as_str
from standfast.adopted.places import check_file
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.adopted.sqlite import NOT_OPEN, OVER, begins, is_open, writes
from standfast.backends.sqlite.driver import COUNT, WHICH_FILE, check_arguments, native
from standfast.backends.sqlite.errors import DRIVER_ERRORS
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.ports.database import Database
from standfast.ports.providing import Dialect
from standfast.text import class_of

_paths: WeakKeyDictionary[aiosqlite.Connection, str] = WeakKeyDictionary()
"""The file of each connection that was asked for it, "" for one in memory: it stays the same."""


def adopt(source: Any, database: Database) -> tuple[RidingTransaction, Unknown]:
    """See `standfast.adopted`."""
    if not isinstance(source, aiosqlite.Connection):
        raise ConfigurationError(f"adopt({class_of(source)}): of aiosqlite, give a Connection")
    try:
        open_already = source.in_transaction
    except ValueError as error:  # not connected yet, or closed
        raise ConfigurationError(f"adopt(an aiosqlite.Connection): {error}") from error
    if not open_already and not begins(source):
        raise ConfigurationError(f"adopt(an aiosqlite.Connection): {NOT_OPEN}")
    return AiosqliteRiding(source, database), Unknown()


class AiosqliteRiding(RidingTransaction):
    """Rides what is open on a connection."""

    blocking = False
    dialect: Dialect = "sqlite"

    def __init__(self, source: aiosqlite.Connection, database: Database) -> None:
        self._source = source
        self._database = database
        self.place = database.url
        self._begun = source.in_transaction
        self._checked = False

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        source = self._source
        is_begun = is_open(source)
        if not self._checked:
            path = _paths.get(source)
            if path is None:
                path = (await self._run(WHICH_FILE, (), own=True)).rows[0][2] or ""
                _paths[source] = path
            check_file(self._database, path)
            self._checked = True
        if not is_begun:
            if self._begun:
                raise StoreError(OVER)
            if writes(sql):
                await source.execute("BEGIN IMMEDIATE")
        text, arrange, numbers = native(sql)
        check_arguments(sql, numbers, len(args))
        try:
            return await self._run(text, args if arrange is None else arrange(args), own=own)
        finally:
            self._begun = self._begun or source.in_transaction

    async def _run(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """As `standfast.adopted.sqlite.run`."""
        if own and self._source.row_factory is None:  # in one turn of the connection's thread
            with text_as_str(self._source):
                return Answer((), list(await self._source.execute_fetchall(sql, args)), -1)
        with text_as_str(self._source) if own else AS_IT_IS:
            before = self._source.total_changes
            async with self._source.execute(sql, args) as cursor:
                cursor.row_factory = None
                names = [column[0] for column in cursor.description or ()]
                rows: list[Any] = list(await cursor.fetchall())
                count = cursor.rowcount
                if count < 0 and self._source.total_changes != before:  # see `touched` of sqlite3
                    await cursor.execute(COUNT)
                    ((count,),) = await cursor.fetchall()
                return Answer(names, rows, count)

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`."""
        is_open(self._source)  # or it raises, where the connection was closed
        if own:
            return len((await self.ask(f"{sql} RETURNING 1", args, own=True)).rows)
        return await super().touch(sql, args, own=own)

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        return of_sqlite(error, self.place) if isinstance(error, DRIVER_ERRORS) else None
