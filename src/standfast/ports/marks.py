"""Marks: what tells a participant that it has seen a message before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from standfast.ports.database import StoreTransaction


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark already there: who set it (`reason`) and the `result` (JSON text) kept with it."""

    reason: str
    result: str | None


class MarkWriter(Protocol):
    """Marks inside one transaction."""

    async def set(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """Set the mark (key, operation); None if it is new, else the one already there.

        `at` is in seconds since the epoch. Serialised against other transactions that set the same
        mark: the second waits for the first to end.
        """
        ...

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """Keep a JSON text with a mark. Raises `StoreError` where the mark isn't set."""
        ...


class MarkStore(Protocol):
    """Keeps marks."""

    def within(self, tx: StoreTransaction) -> MarkWriter:
        """Marks that are set when `tx` commits."""
        ...

    async def count(self, *, before: float) -> int:
        """How many marks were set before that time (seconds since the epoch)."""
        ...

    async def purge(self, *, before: float, limit: int) -> int:
        """Delete up to `limit` marks set before that time; how many."""
        ...
