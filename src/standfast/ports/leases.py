"""Worker leases: who is alive, and who may write.

A worker registers, gets a token that is larger than any given before (a fencing token), and renews
it. Once another has expired the lease, no write with that token succeeds any more. Lease times are
judged by the store's own clock, never by a worker's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Worker:
    """A registered worker. `expires_in`: seconds, negative when overdue. `owned`: instances."""

    token: int
    name: str
    kinds: tuple[tuple[str, str, int], ...]
    expires_in: float
    owned: int


class WorkerLeases(Protocol):
    """Leases of the workers of one store."""

    async def register(
        self, name: str, kinds: Sequence[tuple[str, str, int]], *, ttl: float
    ) -> int | None:
        """A new token, valid for `ttl` seconds; expired leases are ended first, as by `expire`.

        None when the store takes one worker only and another one's lease is running.
        """
        ...

    async def renew(self, token: int, *, ttl: float) -> bool:
        """Extend the lease to `ttl` seconds from now. False when it is lost, for good."""
        ...

    async def expire(self) -> list[int]:
        """End every lease that has run out: its instances become passive and due now.

        Answers the tokens ended. Atomic against `append`: each write of such a worker either came
        before, or is refused.
        """
        ...

    async def release(self, token: int) -> None:
        """Give the lease up: its instances become passive and due now."""
        ...

    async def workers(self) -> list[Worker]:
        """All registered workers, oldest first."""
        ...
