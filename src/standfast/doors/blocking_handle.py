"""One saga instance, for sync code.

Written by tools/blocking_twins.py from `SagaHandle`: `make twins`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Generic, TypeVar, overload
from uuid import UUID

from standfast.durations import Duration
from standfast.identity import Uncopied
from standfast.saga.handle import SagaHandle, SagaResult, Story
from standfast.saga.saga import S_co
from standfast.saga.status import Status
from standfast.saga.step import R, Step
from standfast.saga.timeline import Timeline
from standfast.stepping import Complete

T = TypeVar("T")


def with_ids(which: Any) -> Any:
    """What names instances to an async method: ids in place of blocking handles."""
    if isinstance(which, BlockingSagaHandle):
        return which.id
    if isinstance(which, Iterable) and not isinstance(which, (str, bytes, Mapping)):
        return [with_ids(one) for one in which]
    return which


class BlockingSagaHandle(Uncopied, Generic[S_co]):
    """One instance, by id, for sync code: the methods of `SagaHandle`, without ``await``.

    Cheap to make; every method reads or writes the database, and blocks its thread meanwhile. Its
    type parameter is the saga's class, as in ``BlockingSagaHandle[PlaceOrder]``.
    """

    __slots__ = ("_complete", "_handle")
    _unpicklable = (
        "it belongs to the app of its process; pickle handle.id, and take "
        "app.blocking.handle(id) there"
    )

    def __init__(self, handle: SagaHandle[S_co], complete: Complete) -> None:
        self._handle = handle
        self._complete = complete

    def __repr__(self) -> str:
        return f"BlockingSagaHandle({self.id})"

    def complete(self, act: Callable[[SagaHandle[S_co]], Coroutine[Any, Any, T]]) -> T:
        """Carry out what is done to an async handle; what it returns."""
        return self._complete(act(self._handle))

    @property
    def id(self) -> UUID:
        """The instance's id."""
        return self._handle.id

    @property
    def created(self) -> bool:
        """Whether the start that answered with this handle has made the instance."""
        return self._handle.created

    def status(self) -> Status:
        """How it stands: one of `standfast.saga.STATUSES`. Raises `SagaNotFound`."""
        return self._complete(self._handle.status())

    def result(self, timeout: Duration | None = None) -> SagaResult[S_co]:
        """Wait for the end and answer with the steps' results.

        Raises `SagaCompensated` when it ended undone, `SagaParked` when it waits for an operator
        (unless it has just been told something, by an operator say), `TimedOut` after `timeout`
        (seconds or text), which tells how it stands and whether any worker has it, `SagaNotFound`.
        While the database is away it goes on waiting, until the `timeout`; that is logged, and told
        in the `TimedOut`. Where no live worker has it, a warning is logged after some seconds
        and then once a minute.
        """
        return self._complete(self._handle.result(timeout))

    @overload
    def signal(self, signal: Step[Any, R], payload: R, *, id: str | None = None) -> None: ...

    @overload
    def signal(self, signal: str, payload: Any = None, *, id: str | None = None) -> None: ...

    def signal(
        self, signal: Step[Any, Any] | str, payload: Any = None, *, id: str | None = None
    ) -> None:
        """Send a signal; it is kept until a wait step takes it. ``resume`` moves what is parked.

        `signal` is its name, or the wait for it: ``handle.signal(PlaceOrder.approved, True)`` has
        its payload checked by type checkers, too.

        With an `id`, sending it again changes nothing. Raises `CodecError` for a payload that
        doesn't fit the wait's type, `SagaNotFound`, `ConfigurationError` where the saga, as this
        process knows it, waits for no such signal, or inside a transaction of the same app:
        `BlockingTransaction.signal` commits with it.
        """
        self._complete(self._handle.signal(signal, payload, id=id))

    def cancel(self, reason: str = "", *, force: bool = False, by: str = "") -> None:
        """Ask for compensation. An attempt in flight may end first; past the pivot it is ignored.

        `force`: also when the pivot's outcome is unknown, taking it as not done. Raises
        `SagaNotFound`, `ConfigurationError` inside a transaction (there:
        `BlockingTransaction.cancel`).
        """
        self._complete(self._handle.cancel(reason, force=force, by=by))

    def timeline(self) -> Timeline:
        """All that happened so far, and what it does or waits for now. Raises `SagaNotFound`."""
        return self._complete(self._handle.timeline())

    def story(self) -> Story:
        """What its journal holds, as the engine's own records: for tests and tools.

        Whoever only wants to tell what happened takes `timeline`.
        """
        return self._complete(self._handle.story())
