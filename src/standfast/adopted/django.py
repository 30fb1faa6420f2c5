"""Transactions of Django: what is open inside ``transaction.atomic()``, by the database's alias.

Statements go through Django's own cursors, so that its query log and its wrappers see them.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db import Error as DjangoError
from django.utils.connection import ConnectionDoesNotExist

from standfast.adopted.errors import of_postgres
from standfast.adopted.placeholders import by_name
from standfast.adopted.places import check_file, check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.backends.sqlite.driver import WHICH_FILE
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.ports.database import Database
from standfast.ports.providing import Dialect
from standfast.transaction import Ending

log = logging.getLogger("standfast")


def adopt(source: str | None, database: Database) -> tuple[RidingTransaction, Ending]:
    """See `standfast.adopted`."""
    alias = source or DEFAULT_DB_ALIAS
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist as error:
        raise ConfigurationError(
            f"adopt({alias!r}): {error}: give an alias of settings.DATABASES"
        ) from error
    if connection.vendor not in ("postgresql", "sqlite"):
        raise ConfigurationError(
            f"adopt({alias!r}): Django speaks {connection.vendor} here, and Standfast keeps its "
            "data in PostgreSQL or SQLite: adopt the alias of the app's own database"
        )
    if not (connection.in_atomic_block or not connection.get_autocommit()):
        raise ConfigurationError(
            f"adopt({alias!r}): no transaction is open: adopt inside `with transaction.atomic():`, "
            "or set ATOMIC_REQUESTS for the database"
        )
    _check_place(connection, database)
    return DjangoRiding(connection, database), DjangoEnding(connection)


def _check_place(connection: Any, database: Database) -> None:
    if connection.vendor == database.dialect == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(WHICH_FILE)
            check_file(database, cursor.fetchone()[2] or "")
    elif connection.vendor == database.dialect:
        given = connection.settings_dict
        check_server(database, given["HOST"], given["PORT"] or None, given["NAME"])


class DjangoRiding(RidingTransaction):
    """Rides what is open on one of Django's connections."""

    blocking = True

    def __init__(self, connection: Any, database: Database) -> None:
        self.dialect: Dialect = connection.vendor
        self._connection = connection
        self._place = database.url

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        if self._connection.get_autocommit() and not self._connection.in_atomic_block:
            raise StoreError("this transaction is over: adopt it inside `with atomic():`")
        with self._connection.cursor() as cursor:
            cursor.execute(*by_name(sql, args))
            described = cursor.description
            rows = cursor.fetchall() if described else ()
            return Answer([column[0] for column in described or ()], rows, cursor.rowcount)

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        origin = error.__cause__ if isinstance(error, DjangoError) else error
        if self.dialect == "sqlite":
            return of_sqlite(origin, self._place) if isinstance(origin, sqlite3.Error) else None
        if isinstance(error, DjangoError):
            return of_postgres(origin or error, self._place, own=own)
        return None


class DjangoEnding:
    """Follows a transaction by Django's ``on_commit``, which knows of its savepoints."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def known(self) -> bool:
        """See `Ending.known`: where autocommit was switched off by hand, Django tells nobody."""
        return bool(self._connection.in_atomic_block)

    @property
    def over(self) -> bool:
        """See `Ending.over`."""
        return bool(self._connection.get_autocommit() and not self._connection.in_atomic_block)

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""

        def follow() -> None:
            try:
                act()
            except Exception:
                # Nothing can be taken back any more, and the others must hear of it too.
                log.exception("what was to follow a commit failed")

        transaction.on_commit(follow, using=self._connection.alias)
