"""The verbs of `tx`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, overload
from uuid import UUID

from standfast.durations import Duration
from standfast.ports.database import Database, StoreTransaction
from standfast.transaction import Ending, LaterEnding, OwnEnding, UnitOfWork

if TYPE_CHECKING:  # so that an app without sagas doesn't load their engine
    from standfast.saga import SagaHandle
    from standfast.saga.saga import I, S, SagaClass
    from standfast.saga.sagas import Sagas
    from standfast.saga.step import R, Step


class Patterns(Protocol):
    """The app of a transaction, as far as its verbs need it."""

    @property
    def sagas(self) -> Sagas:
        """The app's sagas."""
        ...

    def hand_over(self, act: Callable[[], None]) -> None:
        """Call `act` in the app's event loop."""
        ...


class Transaction(UnitOfWork):
    """An open transaction. SQL takes ``$1, $2 …`` on every backend.

    Errors of the driver come out as `StoreError` (`ConstraintViolated`, `StoreUnavailable` …).
    """

    def __init__(
        self, app: Any, database: Database, store: StoreTransaction, ending: Ending
    ) -> None:
        super().__init__(database, store, ending)
        self._app: Patterns = app

    def hint(self, act: Callable[[], None]) -> None:
        """See `UnitOfWork.hint`."""
        super().hint(partial(self._app.hand_over, act))

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
        """Start a saga as part of this transaction. Otherwise as `Standfast.start`."""
        return await self._app.sagas.starter.start_within(
            self, saga, input, key=key, correlation_id=correlation_id, at=at, after=after
        )

    @overload
    async def saga(self, saga: type[S], key: str) -> SagaHandle[S]: ...
    @overload
    async def saga(self, saga: str, key: str) -> SagaHandle[Any]: ...
    async def saga(self, saga: Any, key: str) -> SagaHandle[Any]:
        """The instance that was started with `key`, in this transaction too: to signal or cancel.

        Raises `SagaNotFound`.
        """
        return await self._app.sagas.get_within(self, saga, key)

    @overload
    async def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: Step[Any, R],
        payload: R,
        *,
        id: str | None = None,
    ) -> None: ...
    @overload
    async def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None: ...
    async def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        signal: Step[Any, Any] | str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None:
        """Send a signal as part of this transaction. Otherwise as `SagaHandle.signal`.

        `saga` is a handle, or the instance's id.
        """
        await self._app.sagas.signal_within(self, saga, signal, payload, mail_id=id)

    async def cancel(
        self,
        saga: SagaHandle[Any] | UUID | str,
        reason: str = "",
        *,
        force: bool = False,
        by: str = "",
    ) -> None:
        """Ask for compensation as part of this transaction. Otherwise as `SagaHandle.cancel`."""
        await self._app.sagas.cancel_within(self, saga, reason, force=force, by=by)


class ThreadTransaction(Transaction):
    """`tx`, an open one of the event loop, for code that runs in a thread.

    Once it has committed, what `on_commit` was given is called in a thread, too: it may block.
    `run_in_thread` runs something in one.
    """

    def __init__(
        self, tx: Transaction, run_in_thread: Callable[[Callable[[], None]], None]
    ) -> None:
        # In place of __init__: all that it has is the other's, its list of acts and its savepoints
        # too, for those undo the acts of both.
        vars(self).update(vars(tx))
        self._tx = tx
        self._run_in_thread = run_in_thread
        self._after = OwnEnding()
        self._ending.add(self._committed)
        self._ending = LaterEnding(self._ending, self._after)

    def hint(self, act: Callable[[], None]) -> None:
        """See `UnitOfWork.hint`."""
        self._tx.hint(act)

    def _committed(self) -> None:
        asyncio.get_running_loop().call_soon(self._run_acts)  # when all of them are known

    def _run_acts(self) -> None:
        if self._after.has_acts:
            self._run_in_thread(self._after.committed)
        else:
            self._after.committed()
