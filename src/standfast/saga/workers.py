"""Which workers are alive and what they have, as those see it who wait for results."""

from __future__ import annotations

from collections.abc import Mapping

from standfast.clock import Clock
from standfast.coordination.membership import MEMBER, Kind, kinds_of
from standfast.ports.leases import LeaseStore

FRESH = 5.0
"""Seconds for which what was seen is taken for true: all who wait share one look."""
TELL_EVERY = 60.0
"""Seconds between two warnings about the same kind."""


class Workers:
    """The live workers of a database, read from their leases."""

    def __init__(self, leases: LeaseStore, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock
        self._kinds: frozenset[Kind] | None = None
        self._looked_at = -FRESH
        self._told_at: dict[Kind, float] = {}

    async def holders(self) -> Mapping[int, str]:
        """The names of all processes, by token; of one whose lease ran out with a word on that."""
        return {
            lease.token: lease.holder if lease.expires_in > 0 else f"{lease.holder} (lease ran out)"
            for lease in await self._leases.leases(MEMBER)
        }

    async def lack(self, kind: Kind) -> bool:
        """Whether no live worker has a kind, as far as was seen in the last seconds."""
        now = self._clock.monotonic()
        if now - self._looked_at >= FRESH:
            self._looked_at = now
            leases = await self._leases.leases(MEMBER)
            live = (kinds_of(lease.note) for lease in leases if lease.expires_in > 0)
            self._kinds = frozenset(kind for kinds in live for kind in kinds)
        return self._kinds is not None and kind not in self._kinds

    def is_news(self, kind: Kind) -> bool:
        """Whether it is time to warn (again) that nobody has a kind: once a minute."""
        now = self._clock.monotonic()
        if now - self._told_at.get(kind, -TELL_EVERY) < TELL_EVERY:
            return False
        self._told_at[kind] = now
        return True
