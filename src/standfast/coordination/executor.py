"""What a worker asks of the pattern whose instances it claims, and what it offers in return."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from standfast.coordination.membership import Kind
from standfast.coordination.slots import Slots
from standfast.ports.journal import Loaded, Mail


class Desk(Protocol):
    """Where an executor does its work: a worker that holds a lease."""

    @property
    def owner(self) -> int:
        """The fencing token that owns what is claimed here."""
        ...

    @property
    def slots(self) -> Slots:
        """The places for instances here. The executor takes one for each that it takes in."""
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

    def left(self, id: UUID, name: str, wakes_at: float | None) -> None:
        """An instance left memory, and its place is free. `wakes_at`: when it is due again."""
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
