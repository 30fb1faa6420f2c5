"""One saga instance, seen from any process: what to ask it, what it answers, how it ended."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, overload
from uuid import UUID

from standfast.durations import Duration, time_left
from standfast.errors import ResultUnavailable, SagaCompensated, SagaParked
from standfast.identity import Uncopied
from standfast.ports.journal import Instance
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.saga import S_co
from standfast.saga.state import SagaState
from standfast.saga.status import Status
from standfast.saga.step import Step, name_of
from standfast.saga.timeline import Timeline

R = TypeVar("R")


class SagaResult(Generic[S_co]):
    """What a completed saga's steps returned.

    ``result[PlaceOrder.ship]`` has the type that the step returns, ``result["ship"]`` is the same
    without it; `ResultUnavailable` where a step was skipped, `Unreadable` where this code has
    another type than that which was stored. ``PlaceOrder.gift in result`` tells whether there is
    one. `as_dict` has all there are, and is what to iterate over.
    """

    __slots__ = ("_definition", "_state")

    def __init__(self, definition: Definition, state: SagaState) -> None:
        self._definition: Definition = definition
        self._state: SagaState = state

    @overload
    def __getitem__(self, step: Step[Any, R], /) -> R: ...
    @overload
    def __getitem__(self, step: str, /) -> Any: ...
    def __getitem__(self, step: Step[Any, Any] | str, /) -> Any:
        try:
            return self._definition.result(self._state, name_of(step))
        except ResultUnavailable as error:
            raise ResultUnavailable(
                f"{error}; ask `step in result` first, or see result.as_dict()"
            ) from None

    def __contains__(self, step: Step[Any, Any] | str, /) -> bool:
        """Whether the step has a result."""
        try:
            self._definition.result(self._state, name_of(step))
        except ResultUnavailable:
            return False
        return True

    if not TYPE_CHECKING:  # they see for themselves that it can't be iterated over

        def __iter__(self):
            # Else Python would ask for the results of 0, 1, …
            raise TypeError("a SagaResult can't be iterated over: write result.as_dict()")

    def as_dict(self) -> dict[str, Any]:
        """Results by step name; steps without one are left out."""
        return self._definition.results(self._state)

    def __repr__(self) -> str:
        return f"SagaResult({self.as_dict()!r})"


@dataclass(frozen=True, slots=True)
class Story:
    """One instance with all that happened to it: the row, the facts in order, the folded state.

    `state` is None, and `problem` says why, when the journal doesn't fit the code at hand.
    """

    instance: Instance
    facts: Sequence[fx.AnyFact]
    state: SagaState | None
    problem: str = ""


class Reachable(Protocol):
    """All sagas of a database, as far as a handle needs them."""

    async def instance(self, id: UUID) -> Instance:
        """The searchable row."""
        ...

    def outcome(self, id: UUID, limit: float | None = None) -> Awaitable[SagaResult[Any]]:
        """Wait until the instance ends or parks, for so many seconds."""
        ...

    async def signal(
        self,
        id: UUID,
        signal: Step[Any, Any] | str,
        payload: Any = None,
        *,
        mail_id: str | None = None,
    ) -> None:
        """Send a signal."""
        ...

    async def send(self, id: UUID, event: ev.Mailed, *, mail_id: str | None = None) -> None:
        """Send an event."""
        ...

    async def stories(self, ids: Iterable[UUID]) -> list[Story]:
        """All that happened to instances."""
        ...

    async def timeline(self, id: UUID) -> Timeline:
        """All that happened to an instance, and what goes on."""
        ...


class SagaHandle(Uncopied, Generic[S_co]):
    """One instance, by id. Cheap to make; every method reads or writes the database.

    Its type parameter is the saga's class, as in ``SagaHandle[PlaceOrder]``.
    """

    __slots__ = ("_sagas", "created", "id")
    _unpicklable = (
        "it belongs to the app of its process; pickle handle.id, and take app.handle(id) there"
    )

    def __init__(self, sagas: Reachable, id: UUID, created: bool = False) -> None:
        self._sagas: Reachable = sagas
        self.id: UUID = id
        self.created: bool = created

    def __repr__(self) -> str:
        return f"SagaHandle({self.id})"

    async def status(self) -> Status:
        """How it stands: one of `standfast.saga.STATUSES`. Raises `SagaNotFound`."""
        return cast(Status, (await self._sagas.instance(self.id)).status)

    async def result(self, timeout: Duration | None = None) -> SagaResult[S_co]:
        """Wait for the end and answer with the steps' results.

        Raises `SagaCompensated` when it ended undone, `SagaParked` when it waits for an operator
        (unless it has just been told something, by an operator say), `TimedOut` after `timeout`
        (seconds or text), which tells how it stands and whether any worker has it, `SagaNotFound`.
        While the database is away it goes on waiting, until the `timeout`; that is logged, and told
        in the `TimedOut`. Where no live worker has it, a warning is logged after some seconds
        and then once a minute.
        """
        limit = None if timeout is None else time_left(timeout, name="timeout")
        return await self._sagas.outcome(self.id, limit)

    @overload
    async def signal(self, signal: Step[Any, R], payload: R, *, id: str | None = None) -> None: ...
    @overload
    async def signal(self, signal: str, payload: Any = None, *, id: str | None = None) -> None: ...
    async def signal(
        self, signal: Step[Any, Any] | str, payload: Any = None, *, id: str | None = None
    ) -> None:
        """Send a signal; it is kept until a wait step takes it. ``resume`` moves what is parked.

        `signal` is its name, or the wait for it: ``handle.signal(PlaceOrder.approved, True)`` has
        its payload checked by type checkers, too.

        With an `id`, sending it again changes nothing. Raises `CodecError` for a payload that
        doesn't fit the wait's type, `SagaNotFound`, `ConfigurationError` where the saga, as this
        process knows it, waits for no such signal, or inside a transaction of the same app:
        `Transaction.signal` commits with it.
        """
        await self._sagas.signal(self.id, signal, payload, mail_id=id)

    async def cancel(self, reason: str = "", *, force: bool = False, by: str = "") -> None:
        """Ask for compensation. An attempt in flight may end first; past the pivot it is ignored.

        `force`: also when the pivot's outcome is unknown, taking it as not done. Raises
        `SagaNotFound`, `ConfigurationError` inside a transaction (there: `Transaction.cancel`).
        """
        await self._sagas.send(self.id, ev.CancelAsked(reason, by, force))

    async def timeline(self) -> Timeline:
        """All that happened so far, and what it does or waits for now. Raises `SagaNotFound`."""
        return await self._sagas.timeline(self.id)

    async def story(self) -> Story:
        """What its journal holds, as the engine's own records: for tests and tools.

        Whoever only wants to tell what happened takes `timeline`.
        """
        (story,) = await self._sagas.stories([self.id])
        return story


def outcome(
    definition: Definition, state: SagaState, row: Instance | None = None
) -> SagaResult[Any]:
    """The result or its error; the `row` knows of one that was put aside, the `state` doesn't."""
    name, key = definition.name, state.started.key
    if state.outcome == "completed":
        return SagaResult(definition, state)
    if state.outcome == "compensated":
        raise SagaCompensated(
            f"saga {name!r} with key {key!r} was compensated: {state.cause}", cause=state.cause
        )
    status, cause = (state.status, state.cause) if row is None else (row.status, row.cause)
    raise SagaParked(
        f"saga {name!r} with key {key!r} is {status} ({cause}): see "
        f"`standfast sagas show {state.id}`, then `retry`, `skip` or `resolve` it",
        cause=cause,
    )
