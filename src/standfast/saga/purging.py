"""Deleting finished sagas: in batches, and again while there was something to delete."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from standfast.ports.journal import JournalStore
from standfast.saga.registry import PATTERN


async def purged(store: JournalStore, *, finished_before: float, batch: int) -> AsyncGenerator[int]:
    """Delete what finished before then; after each batch, how many of it were deleted.

    Children are spared while their parents are there. So once all were looked at it begins again,
    until there was nothing to delete.
    """
    found = True
    while found:
        found, after, goes_on = False, None, True
        while goes_on:
            done = await store.purge(
                PATTERN, finished_before=finished_before, limit=batch, after=after
            )
            found, after = found or done.count > 0, done.after
            goes_on = after is not None
            yield done.count
