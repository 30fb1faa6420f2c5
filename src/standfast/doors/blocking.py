"""The verbs of `tx` for sync code."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, TypeVar, overload
from uuid import UUID

from standfast.doors.transaction import Transaction
from standfast.durations import Duration
from standfast.ports.database import Row
from standfast.ports.providing import Dialect
from standfast.saga import SagaHandle
from standfast.saga.saga import I, S, SagaClass
from standfast.saga.step import R, Step
from standfast.stepping import Complete, entered

T = TypeVar("T")


class BlockingTransaction:
    """An open transaction for sync code: the methods of `Transaction`, without ``await``.

    SQL takes ``$1, $2 …`` on every backend. Errors of the driver come out as `StoreError`.
    """

    def __init__(self, tx: Transaction, complete: Complete) -> None:
        self._tx = tx
        self._complete = complete

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
        """See `Transaction.on_commit`."""
        self._tx.on_commit(act)

    def savepoint(self) -> AbstractContextManager[None]:
        """See `Transaction.savepoint`."""
        return entered(self._complete, self._tx.savepoint)

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
    ) -> SagaHandle[S]: ...
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
    ) -> SagaHandle[Any]: ...
    def start(
        self,
        saga: Any,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]:
        """See `Transaction.start`."""
        return self._complete(
            self._tx.start(saga, input, key=key, correlation_id=correlation_id, at=at, after=after)
        )

    @overload
    def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: Step[Any, R],
        payload: R,
        *,
        id: str | None = None,
    ) -> None: ...
    @overload
    def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None: ...
    def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: Any,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None:
        """See `Transaction.signal`."""
        self._complete(self._tx.signal(saga, signal, payload, id=id))

    def cancel(
        self,
        saga: SagaHandle[Any] | UUID | str,
        reason: str = "",
        *,
        force: bool = False,
        by: str = "",
    ) -> None:
        """See `Transaction.cancel`."""
        self._complete(self._tx.cancel(saga, reason, force=force, by=by))
