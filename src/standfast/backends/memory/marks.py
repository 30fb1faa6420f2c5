"""Marks in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from standfast.backends.memory.database import MemoryDatabase, MemoryTransaction
from standfast.errors import StoreError
from standfast.ports.database import StoreTransaction
from standfast.ports.marks import Mark, MarkStore, MarkWriter
from standfast.ports.providing import Provided


@dataclass(frozen=True, slots=True)
class StoredMark:
    """A mark with the time it was set."""

    mark: Mark
    at: float


class MarkState:
    """All marks that are committed, by (key, operation)."""

    def __init__(self) -> None:
        self.marks: dict[tuple[str, str], StoredMark] = {}


class StagedMarks:
    """Marks that one transaction has set."""

    def __init__(self, state: MarkState) -> None:
        self._state = state
        self._marks: dict[tuple[str, str], StoredMark] = {}

    def __getitem__(self, key: tuple[str, str]) -> StoredMark | None:
        return self._marks.get(key) or self._state.marks.get(key)

    def __setitem__(self, key: tuple[str, str], stored: StoredMark) -> None:
        self._marks[key] = stored

    def commit(self) -> None:
        """See `Staged`."""
        self._state.marks.update(self._marks)

    def copy(self) -> StagedMarks:
        """See `Staged`."""
        other = StagedMarks(self._state)
        other._marks.update(self._marks)
        return other


class MemoryMarks:
    """`MarkStore` in memory. Ask the `MemoryDatabase` for it."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._state = database.state(MarkState)

    def within(self, tx: StoreTransaction) -> MarkWriter:
        """See `MarkStore.within`. Raises `Unsupported` for another database's transaction."""
        return MemoryMarkWriter(self._state, self._database.mine(tx))

    async def count(self, *, before: float) -> int:
        """See `MarkStore.count`."""
        return sum(stored.at < before for stored in self._state.marks.values())

    async def purge(self, *, before: float, limit: int) -> int:
        """See `MarkStore.purge`."""
        async with self._database.exclusive():
            marks = self._state.marks
            old = [key for key, stored in marks.items() if stored.at < before][:limit]
            for key in old:
                del marks[key]
            return len(old)


class MemoryMarkWriter:
    """`MarkWriter` in memory. Ask `MemoryMarks.within` for it."""

    def __init__(self, state: MarkState, tx: MemoryTransaction) -> None:
        self._state = state
        self._tx = tx

    async def set(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `MarkWriter.set`."""
        staged = self._tx.staged(StagedMarks, self._state)
        there = staged[key, operation]
        if there is not None:
            return there.mark
        staged[key, operation] = StoredMark(Mark(reason, None), at)
        return None

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `MarkWriter.keep_result`."""
        staged = self._tx.staged(StagedMarks, self._state)
        there = staged[key, operation]
        if there is None:
            raise StoreError(f"no mark ({key!r}, {operation!r}) is set: call set() first")
        staged[key, operation] = StoredMark(replace(there.mark, result=result), there.at)


PROVIDES = {MarkStore: Provided(make=MemoryMarks)}
