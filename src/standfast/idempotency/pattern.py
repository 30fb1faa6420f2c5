"""The barrier as a pattern: it brings the table of marks, and what operators do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from standfast.clock import Clock
from standfast.coordination.service import Service, ServiceOptions
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.pattern import Host
from standfast.ports.marks import MarkStore


class Barrier:
    """What an app needs for `barrier`: ``app.add(Barrier())``, and ``standfast migrate``.

    It is a `Pattern` without services.
    """

    ports: Sequence[type] = (MarkStore,)

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`."""
        self.marks: MarkStore = host.database.port(MarkStore)
        self._clock: Clock = host.clock

    def add(self, part: Any) -> None:
        """Nothing can be added to it."""
        raise ConfigurationError(f"add({part!r}): a Barrier takes no parts")

    async def open(self) -> None:
        """See `Pattern.open`."""

    async def close(self) -> None:
        """See `Pattern.close`."""

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """None."""
        return ()

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
