"""Transactions of psycopg 3: of a ``Connection`` or an ``AsyncConnection``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from standfast.adopted.endings import Unknown
from standfast.adopted.errors import of_postgres
from standfast.adopted.pipelines import refuse_pipeline
from standfast.adopted.placeholders import by_name
from standfast.adopted.places import check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.ports.database import Database
from standfast.ports.providing import Dialect
from standfast.text import class_of

_places: WeakKeyDictionary[Any, tuple[str, int, str]] = WeakKeyDictionary()
"""Host, port and database of each connection that was asked for them: they stay the same."""


def adopt(source: Any, database: Database) -> tuple[RidingTransaction, Unknown]:
    """See `standfast.adopted`."""
    if not isinstance(source, psycopg.Connection | psycopg.AsyncConnection):
        raise ConfigurationError(
            f"adopt({class_of(source)}): of psycopg, give a Connection or an AsyncConnection, not "
            "its cursor"
        )
    if source.closed:
        raise ConfigurationError("adopt(a connection of psycopg): it is closed")
    refuse_pipeline(source)
    if source.autocommit and source.info.transaction_status == TransactionStatus.IDLE:
        raise ConfigurationError(
            "adopt(a connection of psycopg): no transaction is open, and it is in autocommit mode: "
            "adopt it inside `with connection.transaction():`"
        )
    place = _places.get(source)
    if place is None:
        place = _places[source] = (source.info.host, source.info.port, source.info.dbname)
    check_server(database, *place)
    if isinstance(source, psycopg.Connection):
        return PsycopgRiding(source, database), Unknown()
    return AsyncPsycopgRiding(source, database), Unknown()


class _Riding(RidingTransaction):
    dialect: Dialect = "postgresql"

    def __init__(self, source: Any, database: Database) -> None:
        self._source = source
        self.place = database.url
        self._begun = source.info.transaction_status != TransactionStatus.IDLE

    def _check(self) -> None:
        source = self._source
        refuse_pipeline(source)
        if source.closed and not source.broken:
            raise StoreError("this transaction is over: its connection was closed")
        if self._begun and source.info.transaction_status == TransactionStatus.IDLE:
            raise StoreError("this transaction is over: adopt the connection again in its next one")
        self._begun = True

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        known = isinstance(error, psycopg.Error)
        return of_postgres(error, self.place, own=own) if known else None


def _names(cursor: Any) -> list[str]:
    return [column.name for column in cursor.description or ()]


class PsycopgRiding(_Riding):
    """Rides what is open on a ``Connection``."""

    blocking = True

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        self._check()
        with psycopg.Cursor(self._source, row_factory=tuple_row) as cursor:
            cursor.execute(*by_name(sql, args))
            names = _names(cursor)
            return Answer(names, cursor.fetchall() if names else (), cursor.rowcount)

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`: to describe columns takes the driver long."""
        self._check()
        with psycopg.Cursor(self._source, row_factory=tuple_row) as cursor:
            return max(cursor.execute(*by_name(sql, args)).rowcount, 0)


class AsyncPsycopgRiding(_Riding):
    """Rides what is open on an ``AsyncConnection``."""

    blocking = False

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        self._check()
        async with psycopg.AsyncCursor(self._source, row_factory=tuple_row) as cursor:
            await cursor.execute(*by_name(sql, args))
            names = _names(cursor)
            return Answer(names, await cursor.fetchall() if names else (), cursor.rowcount)

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`."""
        self._check()
        async with psycopg.AsyncCursor(self._source, row_factory=tuple_row) as cursor:
            return max((await cursor.execute(*by_name(sql, args))).rowcount, 0)
