"""Transactions of asyncpg: of a connection, or of one that a pool lent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from standfast.adopted.endings import Unknown
from standfast.adopted.places import check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.backends.postgres.errors import DRIVER_ERRORS, translate
from standfast.errors import ConfigurationError, StandfastError, StoreError, StoreUnavailable
from standfast.ports.database import Database
from standfast.ports.providing import Dialect
from standfast.text import class_of


def adopt(source: Any, database: Database) -> tuple[RidingTransaction, Unknown]:
    """See `standfast.adopted`."""
    if not isinstance(source, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        raise ConfigurationError(
            f"adopt({class_of(source)}): of asyncpg, give the connection on which a transaction is "
            "open, as in `async with pool.acquire() as connection, connection.transaction():`"
        )
    try:
        is_closed, is_open = source.is_closed(), source.is_in_transaction()
    except asyncpg.InterfaceError as error:  # back in its pool
        raise ConfigurationError(f"adopt(a connection of asyncpg): {error}") from error
    if is_closed:
        raise ConfigurationError("adopt(a connection of asyncpg): it is closed")
    if not is_open:
        raise ConfigurationError(
            "adopt(a connection of asyncpg): no transaction is open: adopt it inside `async with "
            "connection.transaction():`"
        )
    check_server(database, *_place_of(source))
    return AsyncpgRiding(source, database), Unknown()


def _place_of(source: Any) -> tuple[Any, Any, Any]:
    """Host, port and database of a connection, None for what isn't known.

    The driver keeps them to itself; to ask the server would be a round trip for each connection.
    """
    at: Any = getattr(source, "_addr", None)  # text for a socket's folder
    host, port = at if isinstance(at, tuple) else (None, None)
    return host, port, getattr(getattr(source, "_params", None), "database", None)


class AsyncpgRiding(RidingTransaction):
    """Rides what is open on a connection."""

    blocking = False
    dialect: Dialect = "postgresql"

    def __init__(self, source: Any, database: Database) -> None:
        self._source = source
        self.place = database.url

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        self._check()
        rows = await self._source.fetch(sql, *args)
        return Answer(tuple(rows[0].keys()) if rows else (), [tuple(row) for row in rows], 0)

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`: the driver answers with rows or with their number."""
        self._check()
        tag: str = (await self._source.execute(sql, *args)).rpartition(" ")[2]
        return int(tag) if tag.isdigit() else 0

    def _check(self) -> None:
        source = self._source
        try:
            is_closed, is_open = source.is_closed(), source.is_in_transaction()
        except asyncpg.InterfaceError as error:  # back in its pool
            raise StoreError(f"this transaction is over: {error}") from error
        if is_closed and is_open:
            raise StoreUnavailable(
                "this transaction is over: its connection was lost, or closed inside of it. "
                "Nothing was written"
            )
        if is_closed:
            raise StoreError("this transaction is over: its connection was closed")
        if not is_open:
            raise StoreError("this transaction is over: adopt the connection again in its next one")

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        known = isinstance(error, DRIVER_ERRORS)
        return translate(error, self.place, own=own) if known else None
