"""The service that deletes what has expired, a little at a time."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from opentelemetry import metrics

from standfast._version import __version__
from standfast.clock import Clock
from standfast.coordination.service import Duty
from standfast.durations import human

log = logging.getLogger("standfast.retention")

REST = 4.0
"""Of the time that a batch took: how long the next one waits. So writers have the rest."""
SHORTEST_REST = 0.02
"""Seconds between two batches, at least."""


class Purging:
    """An exclusive service that deletes expired rows in small batches, `every` so many seconds.

    `batches()` begins a run: what it yields is how many rows each batch deleted, in a transaction
    of its own. After each batch it rests four times as long as that took, so that it never has more
    than a fifth of a database's only writer. It ends between two batches when it should stop. Each
    run is one line in the log, and counted by OpenTelemetry as ``standfast.retention.deleted``, by
    `what` is deleted.

    Deleting what has expired twice does no harm, so it isn't written under the duty's token.
    """

    exclusive: bool = True

    def __init__(
        self,
        name: str,
        batches: Callable[[], AsyncGenerator[int]],
        *,
        what: str,
        every: float,
        clock: Clock,
    ) -> None:
        self.name: str = name
        self._batches = batches
        self._what = what
        self._every = every
        self._clock = clock

    async def run(self, duty: Duty) -> None:
        """See `Service.run`."""
        meter = metrics.get_meter("standfast.retention", __version__)
        deleted = meter.create_counter(
            "standfast.retention.deleted",
            unit="{row}",
            description="Expired rows deleted",
        )
        deleted.add(0, {"what": self._what})
        duty.ready()
        while await self._purge(duty, deleted) and await duty.pause(self._every):
            pass

    async def _purge(self, duty: Duty, deleted: metrics.Counter) -> bool:
        """One run; whether to go on, or it was to stop in the middle."""
        begun, done, goes_on = self._clock.monotonic(), 0, True
        batch_began = begun
        async with aclosing(self._batches()) as batches:
            async for gone in batches:
                done += gone
                deleted.add(gone, {"what": self._what})
                took = self._clock.monotonic() - batch_began
                goes_on = await duty.pause(max(SHORTEST_REST, took * REST))
                if not goes_on:
                    break
                batch_began = self._clock.monotonic()
        log.info(
            "retention: %d %s deleted in %s%s",
            done,
            self._what,
            human(self._clock.monotonic() - begun),
            "" if goes_on else ", until it was to stop",
        )
        return goes_on
