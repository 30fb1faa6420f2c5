"""When a worker looks at its store: what it was told of, and what it isn't sure to know."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from uuid import UUID

from standfast.clock import Clock

DOUBTED_FOR = 60.0
"""Seconds for which an act without an answer may still come true."""


class Knowledge:
    """Whether all that the token owns is surely in memory, or will be without a look.

    A doubt is about acts whose outcome isn't known: they may come true for `DOUBTED_FOR` seconds
    more. So only a look that begins after that, and gets to its end, ends it; until then there is
    one at once, and another within every `poll` seconds.
    """

    def __init__(self, clock: Clock, poll: float) -> None:
        self._clock = clock
        self._poll = poll
        self._unsure_until = -math.inf
        self._sure_as_of = -math.inf
        self._looks_at = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether to look now."""
        if self._sure_as_of >= self._unsure_until:
            return False
        return self._clock.monotonic() >= self._looks_at

    def doubt(self, *, patience: float = 0.0) -> None:
        """Look after `patience` seconds, and then for a while."""
        now = self._clock.monotonic()
        self._unsure_until = now + DOUBTED_FOR
        self._looks_at = now + patience

    def looks(self) -> float:
        """A look begins; at which time."""
        now = self._clock.monotonic()
        self._looks_at = now + self._poll / 2
        return now

    def knows(self, as_of: float) -> None:
        """A look that began then got to its end."""
        self._sure_as_of = as_of


class Due:
    """Pending wake-up reasons of the polling loop: hints, takeovers, and time."""

    def __init__(self, clock: Clock) -> None:
        self.hints: set[UUID] = set()
        self.looks_at: float = math.inf
        """When it looks by itself; infinite while it is looking."""
        self._clock = clock
        self._event = asyncio.Event()
        self._everything = True
        self._takeover = True

    @property
    def is_set(self) -> bool:
        """Whether there was a reason since the look began."""
        return self._event.is_set()

    def now(self) -> None:
        """Look now."""
        self._event.set()

    def everything(self) -> None:
        """Look now, for mail of all instances and work that others left."""
        self._everything = self._takeover = True
        self._event.set()

    def forgot(self) -> None:
        """A look failed: the next one, whenever it comes, is for everything."""
        self._everything = self._takeover = True

    def takeover(self) -> None:
        """Leases were ended: look for what they left."""
        self._takeover = True
        self._event.set()

    def told(self, id: UUID | None) -> None:
        """The store hints at an instance, or at anything."""
        if id is None:
            self._everything = True
        else:
            self.hints.add(id)
        self._event.set()

    def begin_look(self) -> bool:
        """A look begins; whether there was a reason."""
        told = self._event.is_set()
        self._event.clear()
        self.looks_at = math.inf
        return told

    def take_takeover(self) -> bool:
        """Whether somebody's lease was ended since this was last asked."""
        takeover, self._takeover = self._takeover, False
        return takeover

    def take_hints(self, active: Collection[UUID]) -> Collection[UUID]:
        """The instances in memory to look for mail of."""
        ids = list(active) if self._everything else [id for id in self.hints if id in active]
        self._everything, self.hints = False, set()
        return ids

    async def wait(self, timeout: float) -> None:
        """Until there is a reason, for `timeout` seconds at most; then look at everything."""
        self.looks_at = self._clock.now() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            self._everything = True
