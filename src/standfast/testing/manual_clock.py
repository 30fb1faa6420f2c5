"""A clock that moves when the test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from contextlib import suppress

from standfast.durations import Duration, seconds

EARLY = 1e-6
"""Seconds by which a move may fall short of a sleeper's time: so coarse is wall time as a float."""


class ManualClock:
    """A `Clock` for tests: time stands still until `advance`.

    A task that sleeps by it waits until the clock has come to its time. With ``auto=True`` a sleep
    moves the clock itself and returns after one turn of the event loop, so that retries run
    through at once; don't combine that with `Timeout`, whose timer sleeps by the clock too.
    `pause`, by which plain functions wait, always moves the clock. `slept` lists every sleep and
    pause asked for, in seconds.

    Give the same clock to all policies of a test: deadlines of one mean nothing to another.

    Wall time starts at `wall` (Unix time); `set_wall` moves it alone, as an operator would.
    For one thread.
    """

    is_manual: bool = True
    """No app that has it sets it by a database's clock."""

    def __init__(self, *, auto: bool = False, wall: float = 1_700_000_000.0) -> None:
        self.auto: bool = auto
        self.slept: list[float] = []
        self._monotonic = 0.0
        self._wall = wall
        self._sleepers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def waits_for(self) -> float:
        """Seconds to the next sleep or timeout that ends, infinite if there is none."""
        return self._sleepers[0][0] - self._monotonic if self._sleepers else math.inf

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._monotonic

    def now(self) -> float:
        """Unix time in seconds."""
        return self._wall

    def set_wall(self, now: float) -> None:
        """Set the system clock forward or back; durations notice nothing."""
        self._wall = now

    def advance(self, duration: Duration) -> None:
        """Move both times forward and wake whoever is due, in the order of their times.

        Woken tasks run when the event loop does: see `run`.
        """
        self._move_to(self._monotonic + seconds(duration, positive=False))

    async def run(self, duration: Duration) -> None:
        """Move forward sleeper by sleeper and let each act before the next is woken."""
        end = self._monotonic + seconds(duration, positive=False)
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end + EARLY:
            self._move_to(self._sleepers[0][0])
            await self.settle()
        self._move_to(end)
        await self.settle()

    async def settle(self, turns: int = 20) -> None:
        """Give the event loop `turns` turns, so that whoever was woken acts."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has moved by `seconds`, at once when it isn't positive."""
        self.slept.append(seconds)
        if self.auto or seconds <= 0:
            self._move_to(self._monotonic + max(0.0, seconds))
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        self._call(seconds, lambda: None if woken.done() else woken.set_result(None))
        await woken

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """As ``asyncio.timeout``: the block ends when the clock has moved by `seconds`."""
        limit, loop = asyncio.timeout(None), asyncio.get_running_loop()

        def expire() -> None:
            with suppress(RuntimeError):  # the block is over
                limit.reschedule(loop.time())

        self._call(seconds, expire)
        return limit

    def pause(self, seconds: float) -> None:
        """Move the clock by `seconds`: who blocks the only thread can't wait for another's move."""
        self.slept.append(seconds)
        self._move_to(self._monotonic + max(0.0, seconds))

    def _move_to(self, moment: float) -> None:
        self._wall += moment - self._monotonic
        self._monotonic = moment
        while self._sleepers and self._sleepers[0][0] <= moment + EARLY:
            heapq.heappop(self._sleepers)[2]()

    def _call(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), act))
