"""The app on one of Django's databases."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from django.db import connections

from standfast.adopted.django import enter_atomic
from standfast.app import Standfast
from standfast.backends import open_database
from standfast.backends.sqlite import SqliteDatabase
from standfast.blocking import BlockingClient
from standfast.doors import Transaction
from standfast.errors import ConfigurationError, Unsupported
from standfast.inside import refuse_inside
from standfast.integrations.django.addresses import address
from standfast.integrations.django.threads import with_fresh_connections
from standfast.ports.database import Database

if TYPE_CHECKING:
    from standfast.adopted import CommitsAsync, CommitsBlocking, KnowsItsTransaction
    from standfast.doors.blocking import BlockingTransaction

T = TypeVar("T")


class DjangoStandfast(Standfast):
    """A `Standfast` on the database that Django calls `alias`; `options` are of that database."""

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        self.alias: str = alias
        try:
            database = _database(alias, options)
        except ConfigurationError as error:
            raise ConfigurationError(f"settings.DATABASES[{alias!r}]: {error}") from error
        # Its tables may be of the migrations of the project.
        super().__init__(database, migrate=False)
        self.sagas.threads.wrap = with_fresh_connections

    @overload
    def adopt(self, source: CommitsAsync | KnowsItsTransaction) -> Transaction: ...
    @overload
    def adopt(self, source: CommitsBlocking | str = "") -> BlockingTransaction: ...
    def adopt(self, source: Any = "") -> Transaction | BlockingTransaction:
        """See `Standfast.adopt`; by default what is open on the app's own alias.

        Raises `ConfigurationError` for an alias of another database too.
        """
        if source == "":
            source = self.alias
        elif isinstance(source, str) and source in connections.settings:
            own, other = (connections.settings[one]["NAME"] for one in (self.alias, source))
            if str(own) != str(other):
                raise ConfigurationError(
                    f"adopt({source!r}): this alias is of the database {str(other)!r}, and the app "
                    f"keeps its data in {str(own)!r}: use transaction.atomic({self.alias!r}) and "
                    "adopt() without an alias"
                )
        return super().adopt(source)  # type: ignore[no-any-return]

    @property
    def blocking(self) -> BlockingClient:
        """See `Standfast.blocking`; inside an ``atomic`` block of the app's own alias it refuses
        what that wouldn't take along when it is rolled back."""
        return self._client.get("") or self._client.setdefault("", AtomicClient(self))

    def close_blocking(self, *, unless_held: bool) -> None:
        """Close ``app.blocking``, where it is open.

        `unless_held`: and where that isn't by a block, whose code still is to end it.
        """
        for client in self._client.values():
            if not (unless_held and client.is_held):
                client.close()


class AtomicClient(BlockingClient):
    """The blocking client that knows where its caller is inside a transaction of Django's."""

    def __init__(self, app: DjangoStandfast) -> None:
        super().__init__(app)
        self._alias = app.alias

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See `BlockingClient.complete`: inside an ``atomic`` block as inside one of the app's."""
        self._enter_atomic()
        return super().complete(coroutine)

    def _enter_atomic(self) -> bool:
        return enter_atomic(connections[self._alias], self._openable.database) is not None

    @contextmanager
    def transaction(self) -> Iterator[BlockingTransaction]:
        """See `BlockingClient.transaction`. Raises `ConfigurationError` in an ``atomic`` block."""
        if self._enter_atomic():
            refuse_inside(self._openable.database, "begin a transaction", "{tx}")
        with super().transaction() as tx:
            yield tx

    @contextmanager
    def running(self, **options: Any) -> Iterator[None]:
        """See `BlockingClient.running`. Raises `ConfigurationError` in an ``atomic`` block."""
        if self._enter_atomic():
            raise ConfigurationError(
                "can't run sagas inside an atomic block, of which a worker sees nothing before its "
                "end: run them after it. Django's TestCase keeps one open around each test, a "
                "TransactionTestCase doesn't"
            )
        with super().running(**options):
            yield


def _database(alias: str, options: Mapping[str, Any]) -> Database:
    connection: Any = connections[alias]
    if connection.vendor == "sqlite" and connection.is_in_memory_db():
        return InMemoryDatabase(str(connection.settings_dict["NAME"]))
    return open_database(address(connection.vendor, connection.settings_dict, options))


class InMemoryDatabase(SqliteDatabase):
    """An SQLite database in Django's memory, as its tests have it: to be adopted, and no more."""

    def __init__(self, name: str) -> None:
        super().__init__("sqlite:///in_memory")
        self.path = self.url = name

    async def open(self) -> None:
        """Raise `Unsupported`: only Django's own connection sees this database."""
        raise Unsupported(
            "Django keeps this SQLite database in memory, where nobody else sees it: app.adopt() "
            "works there, and nothing that needs the app open. For tests that run sagas give it a "
            'file: DATABASES = {"default": {…, "TEST": {"NAME": BASE_DIR / "test.sqlite3"}}}'
        )
