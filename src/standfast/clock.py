"""Time, injected.

Patterns never call ``time.time()`` or ``asyncio.sleep()``: they take a `Clock`. Two kinds of time
are told apart. *Monotonic* time measures durations inside one process and never jumps; *wall* time
is what is stored and shared between machines, as seconds since the Unix epoch.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time. All values are seconds, as floats."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point: for durations inside this process."""
        ...

    def now(self) -> float:
        """Seconds since the Unix epoch: for what is stored or shared."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, at once when it isn't positive."""
        ...


class SystemClock:
    """The machine's own clocks."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)
    pause = staticmethod(time.sleep)

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`, at once when it isn't positive."""
        await asyncio.sleep(max(0.0, seconds))


SYSTEM_CLOCK = SystemClock()


def pause(clock: Clock, seconds: float) -> None:
    """Block this thread for `seconds` by `clock`: its ``pause`` if it has one, else really."""
    getattr(clock, "pause", time.sleep)(max(0.0, seconds))
