"""Transactions of the standard library's ``sqlite3``.

Its driver begins a transaction by itself before a statement that changes rows, unless
``isolation_level`` is None; so does this, with ``BEGIN IMMEDIATE``, for some that the driver
doesn't recognise.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from standfast.adopted.endings import Unknown
from standfast.adopted.factories import AS_IT_IS, text_as_str
from standfast.adopted.places import check_file
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.backends.sqlite.driver import WHICH_FILE, check_arguments, native, touched
from standfast.backends.sqlite.errors import DRIVER_ERRORS
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.ports.database import Database
from standfast.ports.providing import Dialect
from standfast.text import class_of

_READS = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:(?:SELECT|VALUES|PRAGMA|EXPLAIN|RELEASE|ROLLBACK)\b"
    # What a WITH comes to stands behind it, anywhere: where one of these words does too, as a
    # function or in a text, it counts as writing, which only takes the one writer's place sooner.
    r"|WITH\b(?!.*\b(?:INSERT|UPDATE|DELETE|REPLACE)\b))",
    re.I | re.S,
)
NOT_OPEN = (
    "no transaction is open, and this connection begins none by itself (autocommit): begin one "
    "before you adopt it"
)
OVER = "this transaction is over: adopt the connection again in its next one"


@lru_cache(maxsize=1024)
def writes(sql: str) -> bool:
    """Whether a transaction must be open before a statement, as for one that may change rows.

    For a savepoint too: one that began the transaction would commit it with its release.
    """
    return _READS.match(sql) is None


def adopt(source: Any, database: Database) -> tuple[RidingTransaction, Unknown]:
    """See `standfast.adopted`."""
    if not isinstance(source, sqlite3.Connection):
        raise ConfigurationError(f"adopt({class_of(source)}): of sqlite3, give a Connection")
    try:
        if not source.in_transaction and not begins(source):
            raise ConfigurationError(f"adopt(a sqlite3.Connection): {NOT_OPEN}")
        path = run(source, WHICH_FILE, (), own=True).rows[0][2]
    except sqlite3.ProgrammingError as error:  # closed, or of another thread
        raise ConfigurationError(f"adopt(a sqlite3.Connection): {error}") from error
    if database.dialect == "sqlite":
        check_file(database, path or "")
    return SqliteRiding(source, database), Unknown()


def begins(source: Any) -> bool:
    """Whether the driver begins a transaction by itself when one is needed."""
    autocommit = getattr(source, "autocommit", -1)  # since Python 3.12; -1: as it was before
    if autocommit in (True, False) and autocommit != -1:
        return not autocommit
    return source.isolation_level is not None


def is_open(source: Any) -> bool:
    """Whether a transaction is open. Raises `StoreError` where the connection was closed."""
    try:
        return bool(source.in_transaction)
    except (sqlite3.ProgrammingError, ValueError) as error:  # of sqlite3, and of aiosqlite
        raise StoreError(f"this transaction is over: {error}") from error


def run(source: sqlite3.Connection, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
    """Run a statement, whatever the connection is set up to make of its answers.

    Text of the library's own is str; the user's is what the connection makes of it.
    """
    cursor = source.cursor()
    cursor.row_factory = None
    try:
        with text_as_str(source) if own else AS_IT_IS:
            before = source.total_changes
            cursor.execute(sql, args)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchall()
            return Answer(names, rows, touched(cursor, before))
    finally:
        cursor.close()


class SqliteRiding(RidingTransaction):
    """Rides what is open on a connection."""

    blocking = True
    dialect: Dialect = "sqlite"

    def __init__(self, source: sqlite3.Connection, database: Database) -> None:
        self._source = source
        self.place = database.url
        self._begun = source.in_transaction

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        text, arranged = self._prepared(sql, args)
        try:
            return run(self._source, text, arranged, own=own)
        finally:
            self._begun = self._begun or self._source.in_transaction

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`: the library's own have no rows to be read."""
        if not own:
            return await super().touch(sql, args, own=own)
        source, (text, arranged) = self._source, self._prepared(sql, args)
        before = source.total_changes
        try:
            count = source.execute(text, arranged).rowcount
        finally:
            self._begun = self._begun or source.in_transaction
        return count if count > 0 else source.total_changes - before  # through a view: see `run`

    def _prepared(self, sql: str, args: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """A statement as the driver takes it, for which what must be open has been begun."""
        source = self._source
        if not is_open(source):
            if self._begun:
                raise StoreError(OVER)
            if writes(sql):
                source.execute("BEGIN IMMEDIATE")
        text, arrange, numbers = native(sql)
        check_arguments(sql, numbers, len(args))
        return text, args if arrange is None else arrange(args)

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        return of_sqlite(error, self.place) if isinstance(error, DRIVER_ERRORS) else None
