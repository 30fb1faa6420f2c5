"""The barrier as a pattern: it brings the table of marks, and what operators do with it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from standfast.clock import Clock
from standfast.coordination.purging import Purging
from standfast.coordination.service import Service, ServiceOptions
from standfast.durations import Age, age
from standfast.pattern import Host, Pattern
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore

EVERY = 3600.0
"""Seconds between two looks for old marks."""
BATCH = 1000
"""Marks that are deleted in one transaction."""


class Barrier(Pattern):
    """What an app needs for `barrier`: ``app.add(Barrier())``, and ``standfast migrate``.

    With `kept_for` (text such as ``"90d"``, or a timedelta) a service named ``retention-marks``,
    run by one process at a time, deletes marks that were set longer ago, every hour and in small
    batches. It goes by their age alone: keep them for longer than the longest saga of any caller
    takes, with the time that it may be parked. After that a repeated action would act again, and an
    undo would find nothing to undo. By default they are kept until somebody purges them. Raises
    `ConfigurationError`.
    """

    ports: Sequence[type] = (MarkStore,)

    def __init__(self, *, kept_for: Age | None = None) -> None:
        self._kept_for: float | None = None
        if kept_for is not None:
            self._kept_for = age(
                kept_for, name="kept_for", positive=True, without="to keep for ever"
            )
            self.ports = (MarkStore, LeaseStore)

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`."""
        super().attach(host)
        self.marks: MarkStore = host.database.port(MarkStore)
        self._clock: Clock = host.clock

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """See `Pattern.services`."""
        if self._kept_for is None:
            return ()
        clock = self._clock
        return [Purging("retention-marks", self._old, what="marks", every=EVERY, clock=clock)]

    async def _old(self) -> AsyncGenerator[int]:
        assert self._kept_for is not None
        before = self._clock.now() - self._kept_for
        while gone := await self.marks.purge(before=before, limit=BATCH):
            yield gone

    async def count(self, *, older_than: Age) -> int:
        """How many marks `purge` would delete. Raises `ConfigurationError` as that does."""
        return await self.marks.count(before=self._before(older_than))

    async def purge(self, *, older_than: Age, batch: int = BATCH) -> AsyncIterator[int]:
        """Delete marks older than that, in batches; after each, how many so far.

        Raises `ConfigurationError` for a number without a unit, which may be meant in days.
        """
        before, done = self._before(older_than), 0
        while gone := await self.marks.purge(before=before, limit=batch):
            done += gone
            yield done

    def _before(self, older_than: Age) -> float:
        self.host.check_open()
        return self._clock.now() - age(older_than, name="older_than")
