"""Which workers are alive and what they have, as those see it who wait for results."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from standfast.clock import Clock
from standfast.coordination.membership import MEMBER
from standfast.coordination.room import Limits, Taken, limits, told
from standfast.ports.journal import Filter, Instance, JournalStore
from standfast.ports.leases import Kind, LeaseStore, kinds_of

FRESH = 5.0
"""Seconds for which what was seen is taken for true: all who wait share one look."""
SLOTS_FRESH = 1.0
"""Seconds for which what was counted of their slots is taken for true."""
ROWS = 500
"""Rows that are read at once to count slots."""
TELL_EVERY = 60.0
"""Seconds between two warnings about the same kind."""


class Workers:
    """The live workers of a database, read from their leases."""

    def __init__(self, leases: LeaseStore, journal: JournalStore, clock: Clock) -> None:
        self._leases = leases
        self._journal = journal
        self._clock = clock
        self._kinds: frozenset[Kind] | None = None
        self._looked_at = -FRESH
        self._told_at: dict[Kind, float] = {}
        self._full: dict[Kind, tuple[float, str]] = {}

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

    async def full(self, row: Instance) -> str:
        """Why nobody takes an instance that is due: all slots are taken in all live processes.

        "" where it isn't due or is owned, there is a slot, nobody has its saga, or isn't known.
        """
        if not is_due(row, self._clock.now()):
            return ""
        kind, now = (row.pattern, row.name, row.version), self._clock.monotonic()
        counted_at, why = self._full.get(kind, (-SLOTS_FRESH, ""))
        if now - counted_at >= SLOTS_FRESH:
            why = await self._count(kind)
            self._full[kind] = now, why
        return why

    async def _count(self, kind: Kind) -> str:
        every: dict[int, Limits] = {}
        for lease in await self._leases.leases(MEMBER):
            if lease.expires_in > 0 and kind in kinds_of(lease.note):
                limit = limits(lease.note, kind)
                if limit is None:
                    return ""
                every[lease.token] = limit
        owned = await self._journal.owned() if every else {}
        processes: list[Taken] = []
        for token, limit in every.items():
            taken = Taken(limit, owned.get(token, 0))
            if not taken.is_full and limit.own is not None:
                taken = Taken(limit, taken.total, await self._owned_of(token, kind))
            if not taken.is_full:
                return ""
            processes.append(taken)
        return told(kind[1], processes)

    async def _owned_of(self, token: int, kind: Kind) -> int:
        """How many instances of a name a process has, in whatever version."""
        pattern, name, _ = kind
        count, ids = 0, iter(await self._journal.owned_by(token))
        while some := tuple(itertools.islice(ids, ROWS)):
            rows = await self._journal.find(Filter(pattern, name, ids=some), limit=ROWS)
            count += sum(row.owner == token for row in rows)
        return count

    def is_news(self, kind: Kind) -> bool:
        """Whether it is time to warn (again) that nobody has a kind: once a minute."""
        now = self._clock.monotonic()
        if now - self._told_at.get(kind, -TELL_EVERY) < TELL_EVERY:
            return False
        self._told_at[kind] = now
        return True


def is_due(row: Instance, now: float) -> bool:
    """Whether a worker has to do something with it, and none has it."""
    return row.owner is None and row.wake_at is not None and row.wake_at <= now
