"""Named leases with fencing tokens: who may do what, until when.

Whoever acquires a lease gets a token that is larger than any given before by this store, renews it,
and writes with it. Once the lease has been ended, by its holder or because it ran out, no write
with that token succeeds any more: stores check it in the same statement. Until somebody ends it, a
lease that ran out still holds. Times are judged by the store's own clock, never by a holder's.

Source of the fencing token: Martin Kleppmann, "How to do distributed locking" (2016); the lease
itself: Gray and Cheriton, "Leases" (SOSP 1989).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from standfast.ports.database import Script, StoreTransaction

Kind: TypeAlias = tuple[str, str, int]
"""What instances are of: (pattern, name, version)."""


def kinds_of(note: str) -> list[Kind]:
    """The kinds that a process can run, by the note of its lease; whoever wrote that."""
    try:
        found = json.loads(note)
    except ValueError:
        return []
    listed = found.get("kinds") if isinstance(found, dict) else None
    kinds: list[Kind] = []
    for one in listed if isinstance(listed, list) else ():
        match one:
            case [str(pattern), str(name), int(version), *_]:
                kinds.append((pattern, name, version))
    return kinds


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease that somebody holds.

    `holder` says who, for people; `note` is JSON text that the holder keeps with it. `expires_in`
    is in seconds, negative when it ran out and nobody has ended it yet.
    """

    name: str
    token: int
    holder: str
    note: str
    expires_in: float


class LeaseWriter(Protocol):
    """Leases inside one transaction."""

    async def hold(self, token: int) -> None:
        """See that a lease holds until the transaction has ended: nobody can end it before.

        Write under a token only together with this. Raises `StaleWriter` if the lease was ended.
        """
        ...


class LeaseStore(Protocol):
    """Keeps leases. Every method raises `StoreUnavailable` when the store is away."""

    @property
    def table(self) -> str:
        """The SQL name of the table with a row, and its `token`, for each lease; "" without SQL.

        A token that isn't in it was ended, and is never given again: what it owned is free.
        """
        ...

    def within(self, tx: StoreTransaction) -> LeaseWriter:
        """Leases as part of `tx`."""
        ...

    def holding(self, token: int) -> Script[None]:
        """`LeaseWriter.hold` as part of a script: ``yield from leases.holding(token)``.

        Raises `StaleWriter` if the lease was ended.
        """
        ...

    async def acquire(
        self, names: Sequence[str], holder: str, *, ttl: float, note: str = "{}"
    ) -> list[int | None]:
        """A new token for each name, valid for `ttl` seconds, or None while another's lease runs.

        Leases that ran out are ended first, as by `expire`. All or some may be given.
        """
        ...

    async def renew(self, tokens: Sequence[int], *, ttl: float) -> list[bool]:
        """Extend leases to `ttl` seconds from now, in one go. False for one lost for good."""
        ...

    async def annotate(self, token: int, note: str) -> None:
        """Replace the note of a lease; nothing happens where it was lost."""
        ...

    async def release(self, tokens: Sequence[int]) -> None:
        """Give leases up. Those that are lost already are left out."""
        ...

    async def expire(self) -> list[int]:
        """End every lease that has run out; the tokens that were ended.

        Atomic against writes with a token: each came before the end, or is refused.
        """
        ...

    async def leases(self, prefix: str = "") -> list[Lease]:
        """All leases whose name begins with `prefix`, oldest first."""
        ...

    def on_freed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back, on the event loop, soon after a lease was ended by anybody.

        Hints only: they may be late, repeated or lost. Returns a function that ends it.
        """
        ...
