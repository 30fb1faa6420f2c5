"""The barrier as a pattern: it brings the table of marks, and what operators do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from standfast.clock import Clock
from standfast.durations import Duration, seconds
from standfast.pattern import Host, Pattern
from standfast.ports.marks import MarkStore


class Barrier(Pattern):
    """What an app needs for `barrier`: ``app.add(Barrier())``, and ``standfast migrate``."""

    ports: Sequence[type] = (MarkStore,)

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`."""
        super().attach(host)
        self.marks: MarkStore = host.database.port(MarkStore)
        self._clock: Clock = host.clock

    async def count(self, *, older_than: Duration) -> int:
        """How many marks `purge` would delete."""
        return await self.marks.count(before=self._before(older_than))

    async def purge(self, *, older_than: Duration, batch: int = 1000) -> AsyncIterator[int]:
        """Delete marks older than that, in batches; after each, how many so far."""
        before, done = self._before(older_than), 0
        while gone := await self.marks.purge(before=before, limit=batch):
            done += gone
            yield done

    def _before(self, older_than: Duration) -> float:
        return self._clock.now() - seconds(older_than, name="older_than", positive=False)
