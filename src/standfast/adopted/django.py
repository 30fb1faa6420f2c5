"""Transactions of Django: what is open inside ``transaction.atomic()``, by the database's alias.

Statements go through Django's own cursors, so that its query log and its wrappers see them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import ref

from django.core.exceptions import SynchronousOnlyOperation
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db import Error as DjangoError
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from standfast.adopted.errors import of_postgres
from standfast.adopted.pipelines import refuse_pipeline
from standfast.adopted.placeholders import by_name
from standfast.adopted.places import check_file, check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.affinity import running_loop
from standfast.backends.sqlite.driver import COUNT
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.inside import inside_while
from standfast.ports.database import Database, savepoint_by_sql
from standfast.ports.providing import Dialect
from standfast.transaction import Ending, OwnEnding

_ASYNC = (
    "this is async code, and Django has transactions in sync code only: put `with "
    "transaction.atomic():` and all that is inside into a function, and `await "
    "sync_to_async(function)()`"
)

_OF_A_TEST = (
    ". Here it is the one that Django's TestCase keeps open around each test: use a "
    "TransactionTestCase (pytest-django: django_db(transaction=True)) for code that writes in "
    "transactions of its own"
)


def adopt(source: str, database: Database) -> tuple[RidingTransaction, Ending]:
    """See `standfast.adopted`."""
    alias = source or DEFAULT_DB_ALIAS
    if running_loop() is not None and not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise ConfigurationError(f"adopt({alias!r}): {_ASYNC}")
    try:
        connection = connections[alias]
    except ConnectionDoesNotExist as error:
        raise ConfigurationError(
            f"adopt({alias!r}): {error}: settings.DATABASES has "
            f"{', '.join(map(repr, connections.settings))}"
        ) from error
    if connection.vendor not in ("postgresql", "sqlite"):
        raise ConfigurationError(
            f"adopt({alias!r}): Django speaks {connection.vendor} here, and Standfast keeps its "
            "data in PostgreSQL or SQLite: adopt the alias of the app's own database"
        )
    if not _is_open(connection):
        raise ConfigurationError(
            f"adopt({alias!r}): no transaction is open: adopt inside `with "
            f"transaction.atomic({'' if alias == DEFAULT_DB_ALIAS else repr(alias)}):`, or set "
            "ATOMIC_REQUESTS for this database"
        )
    _check_place(alias, connection, database)
    return DjangoRiding(connection, database), DjangoEnding(connection)


def _is_open(connection: Any) -> bool:
    return bool(connection.in_atomic_block or not connection.get_autocommit())


def _check_place(alias: str, connection: Any, database: Database) -> None:
    """Raise `ConfigurationError` if the alias surely leads to another database than the app's."""
    given: Mapping[str, Any] = connection.settings_dict
    if connection.vendor != database.dialect:
        return  # told by whoever called
    try:
        if connection.vendor == "postgresql":
            check_server(database, given["HOST"], given["PORT"] or None, given["NAME"])
        elif str(given["NAME"]) != getattr(database, "path", None):
            check_file(database, "" if connection.is_in_memory_db() else str(given["NAME"]))
    except ConfigurationError as error:
        remedy = ""
        if "test" in str(given["NAME"]) or connection.vendor == "sqlite":
            remedy = (
                ". In Django's tests an alias leads to a database of the tests' own: the app of "
                "standfast.integrations.django follows it there"
            )
        told = str(error).removeprefix("adopt(…): ")
        raise ConfigurationError(f"adopt({alias!r}): {told}{remedy}") from None


class DjangoRiding(RidingTransaction):
    """Rides what is open on one of Django's connections.

    It is good until the end of the ``atomic`` block in which it was adopted. Blocks are told apart
    by identity, and a function decorated with ``atomic`` has the same in each of its calls.
    """

    blocking = True

    def __init__(self, connection: Any, database: Database) -> None:
        self.dialect: Dialect = connection.vendor
        self._connection = connection
        self.place = database.url
        self._block = atomic_block(connection)
        self._enter = enter_atomic(connection, database)

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        self._check()
        with self._connection.cursor() as cursor:
            driver = self._connection.connection
            before = driver.total_changes if self.dialect == "sqlite" else 0
            cursor.execute(*by_name(sql, args))
            described = cursor.description
            rows = cursor.fetchall() if described else ()
            count = cursor.rowcount
            if self.dialect == "sqlite" and count < 0 and driver.total_changes != before:
                ((count,),) = driver.execute(COUNT).fetchall()  # see `touched` of sqlite3
            return Answer([column[0] for column in described or ()], rows, count)

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`: the library's own have no rows to be read."""
        if not own:
            return await super().touch(sql, args, own=own)
        self._check()
        with self._connection.cursor() as cursor:
            driver = self._connection.connection
            before = driver.total_changes if self.dialect == "sqlite" else 0
            cursor.execute(*by_name(sql, args))
            count: int = cursor.rowcount
            if count <= 0 and self.dialect == "sqlite":  # it may be through a view
                count = driver.total_changes - before
            return max(count, 0)

    def _check(self) -> None:
        """Raise `StoreError` once the transaction is over."""
        if is_over(self._connection, self._block):
            raise StoreError(
                "this transaction is over: its atomic block has ended. Adopt inside the block that "
                "is open now"
            )
        if self._enter is not None:
            self._enter()  # who uses it may run in another context
        refuse_pipeline(self._connection.connection)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`: by Django, which forgets what was to follow the commit."""
        if self._connection.in_atomic_block:
            with transaction.atomic(using=self._connection.alias):
                yield
        else:
            async with savepoint_by_sql(self):
                yield

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        if isinstance(error, SynchronousOnlyOperation):
            return ConfigurationError(f"adopted transaction of Django: {_ASYNC}")
        if isinstance(error, TransactionManagementError):
            return StoreError(
                f"{self.place}: a statement of this transaction had failed, so nothing of it "
                "counts any more. Let the error end the atomic block; or, to go on after one, put "
                f"what may fail into an atomic block of its own ({error})"
            )
        origin = error.__cause__ if isinstance(error, DjangoError) else error
        if self.dialect == "sqlite" and isinstance(origin, sqlite3.Error):
            return of_sqlite(origin, self.place)
        if isinstance(error, DjangoError):
            if self.dialect == "postgresql" and origin is not None:
                return of_postgres(origin, self.place, own=own)
            return StoreError(f"{self.place}: {error}")
        return None


def atomic_block(connection: Any) -> object | None:
    """The ``atomic`` block that the code is in; None where there is none."""
    return connection.atomic_blocks[-1] if connection.atomic_blocks else None


def is_over(connection: Any, block: object | None) -> bool:
    """Whether a transaction that was adopted in that block has ended, as far as is known."""
    if block is None:
        return not _is_open(connection)
    return not any(one is block for one in connection.atomic_blocks)


def enter_atomic(connection: Any, database: Database) -> Callable[[], None] | None:
    """If the code is in an ``atomic`` block, it is inside a transaction of `database` from now on.

    Answers with what says so once more, in another context; None where there is no such block.
    """
    block = atomic_block(connection)
    if block is None:
        return None
    besides = _OF_A_TEST if getattr(block, "_from_testcase", False) else ""
    enter = partial(inside_while, database, StillInBlock(connection, block), "app.adopt()", besides)
    enter()
    return enter


class StillInBlock:
    """Asks a connection whether an ``atomic`` block of its present transaction is open."""

    def __init__(self, connection: Any, block: object) -> None:
        self._connection = ref(connection)
        self._block = ref(block)
        # A decorated function has the same block in each of its calls. This list is another after
        # each commit and rollback, also of a savepoint: then nothing is said any more.
        self._acts = connection.run_on_commit

    def __call__(self) -> bool:
        """Whether it is, as far as that is sure."""
        connection, block = self._connection(), self._block()
        if connection is None or block is None or connection.run_on_commit is not self._acts:
            return False
        return not is_over(connection, block)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, StillInBlock)
            and self._acts is other._acts
            and self._block == other._block
        )

    __hash__ = None  # type: ignore[assignment]


class DjangoEnding:
    """Follows a transaction by Django's ``on_commit``, which knows of its savepoints."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._block = atomic_block(connection)

    @property
    def known(self) -> bool:
        """See `Ending.known`: where autocommit was switched off by hand, Django tells nobody."""
        return bool(self._connection.in_atomic_block)

    @property
    def over(self) -> bool:
        """See `Ending.over`."""
        return is_over(self._connection, self._block)

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""
        ending = OwnEnding()
        ending.add(act)
        transaction.on_commit(ending.committed, using=self._connection.alias)
