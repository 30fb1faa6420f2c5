"""`Desk` and `Executor`: what a worker and the pattern whose instances it claims ask of each
other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from standfast.coordination.slots import Slots
from standfast.ports.journal import Instance, Loaded, Mail
from standfast.ports.leases import Kind


class Orphaned(NamedTuple):
    """How instances are flagged that no live worker can run.

    They are given this `status` and `cause`, in which ``{name}`` and ``{version}`` are filled in;
    the `remedy` is logged.
    """

    status: str
    cause: str
    remedy: str


class Desk(Protocol):
    """The worker as its executor sees it: fencing token, slots, wake-up hints."""

    @property
    def owner(self) -> int:
        """The fencing token that owns what is claimed here."""
        ...

    @property
    def holder(self) -> str:
        """This process's name, for people."""
        ...

    @property
    def slots(self) -> Slots:
        """The concurrency limit of this turn: each turn of the worker has a `Slots` of its own.

        The executor takes a slot for each instance that it holds in memory, and gives it back to
        the same `Slots`.
        """
        ...

    @property
    def linger(self) -> float:
        """Seconds: an instance that sleeps for longer is unloaded."""
        ...

    def hint(self, id: UUID) -> None:
        """Tell the worker that an instance was sent something, or is due now."""
        ...

    def wake(self) -> None:
        """Make the worker poll the store now."""
        ...

    def doubt(self) -> None:
        """Say that the token may own what isn't in memory, now or within the next 60 s.

        A start without an answer may be written still, say. The worker then looks for all such
        instances, and takes them in, for no claim would bring them.
        """
        ...

    def left(self, id: UUID, wakes_at: float | None) -> None:
        """Tell the worker that an instance was unloaded.

        `wakes_at`: when it is due again, in seconds since the epoch; None if only mail wakes it.
        """
        ...

    async def still_ours(self) -> bool:
        """Renew the lease, and answer whether it is still held. Raises `StoreError`."""
        ...


class Executor(Protocol):
    """Runs claimed instances of one pattern."""

    @property
    def pattern(self) -> str:
        """The pattern's name, as the journal knows it."""
        ...

    @property
    def orphaned(self) -> Orphaned:
        """How instances are flagged that no live worker can run."""
        ...

    @property
    def kinds(self) -> Mapping[Kind, int | None]:
        """The kinds that it can run, each with the concurrency limit of its name, or None."""
        ...

    @property
    def fingerprints(self) -> Mapping[Kind, str]:
        """A hash of what each kind is here, so that a process with other code for it is told of.

        A kind without one isn't compared.
        """
        ...

    @property
    def active(self) -> Collection[UUID]:
        """The instances in memory."""
        ...

    @property
    def beginning(self) -> Collection[UUID]:
        """The instances whose start, under the desk's token, is being written just now.

        They may be owned already, and will be in memory without being taken in.
        """
        ...

    @property
    def hindrance(self) -> str:
        """Why it can't go on until the process is restarted, "" where it can.

        Any thread may ask.
        """
        ...

    def log_fields(self, instance: Instance, holder: str) -> dict[str, Any]:
        """What a log record carries that tells of an instance which isn't in memory.

        `holder` is this process's name.
        """
        ...

    def begin(self, desk: Desk) -> None:
        """Begin a new turn, with this desk's fencing token."""
        ...

    async def take_in(self, loaded: Loaded) -> None:
        """Resume a claimed instance; it takes one slot."""
        ...

    def deliver(self, mails: Sequence[Mail]) -> None:
        """Hand mail to instances in memory. The same mail may come more than once."""
        ...

    def drain(self) -> None:
        """Begin to drain: let attempts in flight end, then unload their instances."""
        ...

    async def cut_off(self) -> None:
        """Cancel all running instances and wait for them; write nothing.

        In bounded time: what doesn't heed its cancellation is told of, and left behind.
        """
        ...

    async def end(self) -> None:
        """Flush the accepted writes; nothing is written under the desk's token after this."""
        ...
