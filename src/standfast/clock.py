"""Time, injected.

Patterns never call ``time.time()`` or ``asyncio.sleep()``: they take a `Clock`. Two kinds of time
are told apart. *Monotonic* time measures durations inside one process and never jumps; *wall* time
is what is stored and shared between machines, as seconds since the Unix epoch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

_log = logging.getLogger("standfast.clock")


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


class AdjustedClock:
    """A clock set right by a store's, so that all who share the store agree on the time.

    Less than a second of difference is left alone. A clock that a test moves (its ``is_manual`` is
    true) is left alone too: no store knows its time.
    """

    def __init__(self, inner: Clock) -> None:
        self.inner: Clock = inner
        self._offset: float = 0.0
        self.monotonic: Callable[[], float] = inner.monotonic
        self.now: Callable[[], float] = inner.now
        """Seconds since the Unix epoch, by the store's clock."""
        self.timeout: Callable[[float], asyncio.Timeout] = getattr(
            inner, "timeout", asyncio.timeout
        )

    @property
    def is_manual(self) -> bool:
        """Whether time stands still until a test moves it."""
        return bool(getattr(self.inner, "is_manual", False))

    def _adjusted(self) -> float:
        return self.inner.now() + self._offset

    async def sleep(self, seconds: float) -> None:
        """As the inner clock's."""
        await self.inner.sleep(seconds)

    async def adjust(self, measure: Callable[[Clock], Awaitable[float | None]]) -> None:
        """Go by the store's clock from now on, which is ahead by what `measure` says.

        Where it says None, because it doesn't know, all stays as it is.
        """
        if self.is_manual:
            return
        offset = await measure(self.inner)
        if offset is None:
            _log.debug("the database's clock couldn't be read in time: this one isn't set by it")
            return
        if abs(offset) < 1.0:
            offset = 0.0
        if abs(offset - self._offset) >= 1.0:
            _log.warning(
                "this machine's clock is %.1f s %s the database's, which is used instead: check "
                "its time synchronisation (NTP)",
                abs(offset),
                "behind" if offset > 0 else "ahead of",
            )
        self._offset = offset
        self.now = self._adjusted if offset else self.inner.now


SYSTEM_CLOCK = SystemClock()


def pause(clock: Clock, seconds: float) -> None:
    """Block this thread for `seconds` by `clock`: its ``pause`` if it has one, else really."""
    getattr(clock, "pause", time.sleep)(max(0.0, seconds))


def timeout(clock: Clock, seconds: float) -> asyncio.Timeout:
    """As ``asyncio.timeout``, by `clock`: its ``timeout`` if it has one, else the event loop's."""
    limit: asyncio.Timeout = getattr(clock, "timeout", asyncio.timeout)(seconds)
    return limit
