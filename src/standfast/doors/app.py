"""The verbs of `app`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, overload
from uuid import UUID

from standfast.checks import whole
from standfast.doors.transaction import ThreadTransaction, Transaction
from standfast.durations import Duration, time_left
from standfast.inside import innermost, refuse_adopting
from standfast.joining import Joined, P
from standfast.ports.database import Database
from standfast.stepping import Complete, step

if TYPE_CHECKING:
    from standfast.adopted import CommitsAsync, CommitsBlocking, KnowsItsTransaction
    from standfast.doors.blocking import BlockingTransaction

if TYPE_CHECKING:  # so that an app without sagas doesn't load their engine
    from standfast.saga import Change, SagaHandle
    from standfast.saga.operations import Operations
    from standfast.saga.saga import I, S, SagaClass
    from standfast.saga.sagas import Sagas


class Completes(Protocol):
    """What carries coroutines out for sync code, in the event loop in which the app is open."""

    @property
    def complete(self) -> Complete:
        """How."""
        ...


class AppDoors(ABC):
    """What an app does with its patterns, besides running them."""

    patterns: Joined
    database: Database

    @abstractmethod
    def hand_over(self, act: Callable[[], None]) -> None:
        """Call `act` in the event loop in which the app is open, here if it isn't open."""

    @property
    @abstractmethod
    def blocking(self) -> Completes:
        """What carries coroutines out for sync code."""

    @overload
    def adopt(self, source: CommitsAsync | KnowsItsTransaction) -> Transaction: ...
    @overload
    def adopt(self, source: CommitsBlocking | str = "") -> BlockingTransaction: ...
    def adopt(self, source: Any = "") -> Transaction | BlockingTransaction:
        """The transaction that is open in `source`, as one of this app's: what is written through
        it commits with your own rows, or not at all.

        `source` is what your driver gave you: an SQLAlchemy ``Session`` or ``Connection``, sync or
        async, a connection of asyncpg, psycopg, ``sqlite3`` or aiosqlite, or the alias of a Django
        database (by default the one that is Django's default). What is async has an async
        `Transaction`, all else a `BlockingTransaction`, whose methods are called without ``await``.

        It neither commits, nor rolls back, nor connects: that stays with whoever opened the
        transaction, and what is rolled back to a savepoint takes with it what was written since.
        The app need not be open, and needs a worker nowhere but in the process that works. The
        database must be the app's own.

        Raises `ConfigurationError` where no transaction is open, where it is of another database,
        or what isn't known, and inside a transaction that this app has opened, for that would be
        another; `StoreError` once the transaction is over.
        """
        from standfast.adopted import adopted

        if innermost() is not None:
            refuse_adopting(self.database)
        store, ending = adopted(source, self.database)
        tx = Transaction(self, self.database, store, ending)
        if not store.blocking:
            return tx
        return self.blocking_transaction(tx, step)

    def blocking_transaction(
        self,
        tx: Any,
        complete: Complete,
        run_in_thread: Callable[[Callable[[], None]], None] | None = None,
    ) -> BlockingTransaction:
        """See `Host.blocking_transaction`: for patterns."""
        from standfast.doors.blocking import BlockingTransaction

        if run_in_thread is not None:
            tx = ThreadTransaction(tx, run_in_thread)
        # Nothing is opened for its handles before they are used.
        return BlockingTransaction(
            tx, complete, lambda coroutine: self.blocking.complete(coroutine)
        )

    def pattern(self, kind: type[P]) -> P | None:
        """The pattern of that class that was added, None if none was: for other patterns."""
        return self.patterns.find(kind)

    @cached_property
    def sagas(self) -> Sagas:
        """The app's sagas: for tests, operators and tools."""
        from standfast.saga.sagas import Sagas

        return self.patterns.get(Sagas)

    @cached_property
    def operations(self) -> Operations:
        """What operators do to sagas: find them, see what is stuck and why, act on many."""
        from standfast.saga.operations import Operations

        return Operations(self.sagas)

    @overload
    async def start(
        self,
        saga: SagaClass[I, S],
        input: I,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[S]: ...
    @overload
    async def start(
        self,
        saga: str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]: ...
    async def start(
        self,
        saga: Any,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]:
        """Start a saga in a transaction of its own; idempotent by (saga, key).

        Starting again with the same key and input answers with the one there is, running or
        finished (``handle.created`` tells which). `at` (a datetime with a time zone) or `after`
        (seconds or text, from now) let it begin later: until then it is ``"waiting"``, and can be
        cancelled and signalled. Its `deadline` counts from its beginning. The time isn't part of
        what makes two starts the same, so the first one's stays.

        Raises `SagaConflict` for another input, `ConfigurationError` for a saga that isn't added, a
        wrong type of input, a key that can't be stored, a time without a zone, or inside this app's
        own transaction (`Transaction.start` is for there), `CodecError`, `StoreUnavailable`.
        """
        return await self.sagas.starter.start(
            saga, input, key=key, correlation_id=correlation_id, at=at, after=after
        )

    @overload
    async def saga(self, saga: type[S], key: str) -> SagaHandle[S]: ...
    @overload
    async def saga(self, saga: str, key: str) -> SagaHandle[Any]: ...
    async def saga(self, saga: Any, key: str) -> SagaHandle[Any]:
        """The instance that was started with `key`. Raises `SagaNotFound`."""
        return await self.sagas.get(saga, key)

    def handle(self, id: UUID | str) -> SagaHandle[Any]:
        """A handle by id; nothing is looked up until it is used.

        Raises `ConfigurationError` for text that isn't an id.
        """
        return self.sagas.handle(id)

    def progress(
        self,
        saga: SagaHandle[Any] | UUID | str,
        *,
        after: int = 0,
        timeout: Duration | None = None,
    ) -> AsyncGenerator[Change, None]:
        """Follow a saga: what came to its timeline, change by change, until it is at rest.

        ::

            async for change in app.progress(handle):
                print(change.status, *(entry.text for entry in change.entries))

        The first change comes at once and tells what happened until now, or since the change whose
        `number` is `after`, the last that you have. So whoever comes back misses nothing, and is
        told no entry twice. An `after` that it hasn't come to, another saga's say, is as 0. It ends
        with the change that says `at_rest`, and without one after `timeout` (seconds or text, by
        default none).

        Of a saga that is run in this process it learns at once; of one that is run elsewhere within
        half a second, and sooner where something changed just now. Changes that come close together
        are told as one. Who stops early closes it (`contextlib.aclosing`).

        Raises `SagaNotFound`, and `StoreUnavailable` while the database is away, with the first
        step of the iteration or a later one; `ConfigurationError` for wrong options at once.
        """
        from standfast.saga.progress import changes

        whole(after, name="after", least=0)
        limit = None if timeout is None else time_left(timeout, name="timeout")
        return changes(self.sagas, self.sagas.handle(saga).id, after=after, limit=limit)
