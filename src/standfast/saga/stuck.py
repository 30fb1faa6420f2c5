"""The service that counts what is stuck, for the gauges: in one process of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from opentelemetry import metrics

from standfast.clock import Clock
from standfast.coordination.service import Duty
from standfast.ports.journal import JournalStore
from standfast.saga.registry import PATTERN
from standfast.saga.telemetry import SagaTelemetry

EVERY = 15.0
"""Seconds between looks at the store."""

Standing: TypeAlias = Mapping[tuple[str, str], tuple[int, float]]
"""By saga and status: how many, and for how many seconds the first of them has been."""


def is_measured() -> bool:
    """Whether a meter provider has been set, so that what is measured goes somewhere."""
    # Those of the API itself, the proxy and the one that does nothing, go nowhere.
    return not type(metrics.get_meter_provider()).__module__.startswith("opentelemetry.metrics")


class StuckCount:
    """Looks in the store how many sagas wait for an operator, and since when.

    Exclusive, so that each is told once, however many processes there are. Each look reads what is
    stuck and nothing else. While no process runs it, nothing is told, rather than what was.
    """

    name: str = "sagas-stuck"
    exclusive: bool = True

    def __init__(self, store: JournalStore, telemetry: SagaTelemetry, clock: Clock) -> None:
        self._store = store
        self._telemetry = telemetry
        self._clock = clock
        self._found: dict[tuple[str, str], tuple[int, float]] = {}

    async def run(self, duty: Duty) -> None:
        """See `Service.run`."""
        try:
            while True:
                found = await self._store.stuck(PATTERN)
                self._found = {(one.name, one.status): (one.count, one.since) for one in found}
                self._telemetry.stuck = self._standing
                duty.ready()
                if not await duty.pause(EVERY):
                    return
        finally:
            self._telemetry.stuck = None

    def _standing(self) -> Standing:
        now = self._clock.now()
        return {of: (number, max(0.0, now - since)) for of, (number, since) in self._found.items()}
