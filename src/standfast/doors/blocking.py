"""The verbs of `tx` for sync code.

Written by tools/blocking_twins.py from `UnitOfWork` and `Transaction`: `make twins`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar, overload
from uuid import UUID

from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.doors.transaction import Transaction
from standfast.durations import Duration
from standfast.ports.database import Row
from standfast.ports.providing import Dialect
from standfast.saga.handle import SagaHandle
from standfast.saga.saga import I, S, SagaClass
from standfast.saga.step import R, Step
from standfast.stepping import Complete, entered

T = TypeVar("T")


class BlockingTransaction:
    """An open transaction for sync code: the methods of `Transaction`, without ``await``.

    SQL takes ``$1, $2 …`` on every backend. Errors of the driver come out as `StoreError`.
    """

    def __init__(
        self, tx: Transaction, complete: Complete, for_handles: Complete | None = None
    ) -> None:
        def in_here(coroutine: Coroutine[Any, Any, T]) -> T:
            tx.tell_inside()  # in the context of whoever calls, not its block's
            return complete(coroutine)

        self._tx = tx
        self._complete: Complete = in_here
        self._for_handles = for_handles or complete

    def complete(self, act: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        """Carry out what a pattern does to an async transaction; what it returns."""
        return self._complete(act(self._tx))

    def entered(
        self, act: Callable[[Transaction], AbstractAsyncContextManager[T]]
    ) -> AbstractContextManager[T]:
        """As `complete`, for what is an ``async with`` block."""
        return entered(self._complete, lambda: act(self._tx))

    @property
    def dialect(self) -> Dialect:
        """The SQL that it speaks."""
        return self._tx.dialect

    def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched."""
        return self._complete(self._tx.execute(sql, *args))

    def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """All rows, each readable by column name or position."""
        return self._complete(self._tx.fetch(sql, *args))

    def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""
        return self._complete(self._tx.fetch_one(sql, *args))

    def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return self._complete(self._tx.fetch_value(sql, *args))

    def on_commit(self, act: Callable[[], None]) -> None:
        """Call `act` once this transaction is durable, in the order in which they were given.

        It isn't called after a rollback, nor if the process dies in between: hints only. What it
        raises is logged. One that is given while these are called is called too. Raises
        `ConfigurationError` for a coroutine function, which nobody would await, and once the
        transaction is over; `Unsupported` in an adopted transaction whose driver tells nobody of
        its commits.
        """
        self._tx.on_commit(act)

    def savepoint(self) -> AbstractContextManager[None]:
        """A block inside the transaction: what is written in it is undone if it raises.

        So is what `on_commit` was given in it. The error comes out; whoever catches it goes on with
        what was written before the block. Blocks may stand in each other, but not beside each other
        in two threads or tasks: then the second raises `ConfigurationError`.
        """
        return entered(self._complete, lambda: self._tx.savepoint())

    @overload
    def start(
        self,
        saga: SagaClass[I, S],
        input: I,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[S]: ...

    @overload
    def start(
        self,
        saga: str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[Any]: ...

    def start(
        self,
        saga: Any,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[Any]:
        """Start a saga as part of this transaction. Otherwise as `BlockingClient.start`."""
        return BlockingSagaHandle(
            self._complete(
                self._tx.start(
                    saga, input, key=key, correlation_id=correlation_id, at=at, after=after
                )
            ),
            self._for_handles,
        )

    @overload
    def saga(self, saga: type[S], key: str) -> BlockingSagaHandle[S]: ...

    @overload
    def saga(self, saga: str, key: str) -> BlockingSagaHandle[Any]: ...

    def saga(self, saga: Any, key: str) -> BlockingSagaHandle[Any]:
        """The instance that was started with `key`, in this transaction too: to signal or cancel.

        Raises `SagaNotFound`.
        """
        return BlockingSagaHandle(self._complete(self._tx.saga(saga, key)), self._for_handles)

    @overload
    def signal(
        self,
        saga: BlockingSagaHandle[Any] | SagaHandle[Any] | UUID | str,
        signal: Step[Any, R],
        payload: R,
        *,
        id: str | None = None,
    ) -> None: ...

    @overload
    def signal(
        self,
        saga: BlockingSagaHandle[Any] | SagaHandle[Any] | UUID | str,
        signal: str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None: ...

    def signal(
        self,
        saga: BlockingSagaHandle[Any] | SagaHandle[Any] | UUID | str,
        signal: Step[Any, Any] | str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None:
        """Send a signal as part of this transaction. Otherwise as `BlockingSagaHandle.signal`.

        `saga` is a handle, or the instance's id.
        """
        self._complete(self._tx.signal(with_ids(saga), signal, payload, id=id))

    def cancel(
        self,
        saga: BlockingSagaHandle[Any] | SagaHandle[Any] | UUID | str,
        reason: str = "",
        *,
        force: bool = False,
        by: str = "",
    ) -> None:
        """Ask for compensation as part of this transaction. Otherwise as `SagaHandle.cancel`."""
        self._complete(self._tx.cancel(with_ids(saga), reason, force=force, by=by))
