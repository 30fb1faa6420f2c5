"""What a worker asks of the pattern whose instances it claims, and what it offers in return."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from standfast.coordination.membership import Kind
from standfast.coordination.slots import Slots
from standfast.ports.journal import Loaded, Mail


class Orphaned(NamedTuple):
    """What becomes of instances of a kind that no live worker has.

    Their `status` and `cause` (``{name}`` and ``{version}`` are filled in); the `remedy` is told in
    the log.
    """

    status: str
    cause: str
    remedy: str


class Desk(Protocol):
    """Where an executor does its work: a worker that holds a lease."""

    @property
    def owner(self) -> int:
        """The fencing token that owns what is claimed here."""
        ...

    @property
    def slots(self) -> Slots:
        """The places for instances here, others in each turn of the worker.

        The executor takes one for each instance that it takes in, and gives it back to the same.
        """
        ...

    @property
    def linger(self) -> float:
        """Seconds: what sleeps for longer leaves memory."""
        ...

    def hint(self, id: UUID) -> None:
        """Something was sent to an instance, or it is due now."""
        ...

    def wake(self) -> None:
        """Look for work now."""
        ...

    def doubt(self, id: UUID) -> None:
        """Look out for an instance whose start under this lease had no known outcome."""
        ...

    def left(self, id: UUID, wakes_at: float | None) -> None:
        """An instance left memory. `wakes_at`: when it is due again, None if only mail wakes it."""
        ...

    async def still_ours(self) -> bool:
        """Whether the lease stands: it is renewed for that. Raises `StoreError`."""
        ...


class Executor(Protocol):
    """Runs the instances of one pattern, which a worker claims for it."""

    @property
    def pattern(self) -> str:
        """The pattern's name, as the journal knows it."""
        ...

    @property
    def orphaned(self) -> Orphaned:
        """What becomes of instances that nobody can run."""
        ...

    @property
    def kinds(self) -> Mapping[Kind, int | None]:
        """The kinds that it can run, each with the most instances of its name at once."""
        ...

    @property
    def active(self) -> Collection[UUID]:
        """The instances in memory."""
        ...

    def begin(self, desk: Desk) -> None:
        """Work under a new lease from now on."""
        ...

    async def take_in(self, loaded: Loaded) -> None:
        """Go on with an instance that was claimed."""
        ...

    def deliver(self, mails: Sequence[Mail]) -> None:
        """Hand mail to instances in memory. The same mail may come more than once."""
        ...

    def drain(self) -> None:
        """Let every instance come to rest after what is in flight, and leave."""
        ...

    async def cut_off(self) -> None:
        """Drop all that is in memory without writing; nothing runs when it returns."""
        ...

    async def end(self) -> None:
        """Finish the writes that were accepted: the lease ends after this."""
        ...
