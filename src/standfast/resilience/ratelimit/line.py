"""Who waits for a rate limit: one line for each key, first come, first served.

Event loops in several threads may share the lines. A loop that isn't running any more would hold up
the others for ever: whoever waited in it has left.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from standfast.clock import Clock
from standfast.resilience.forking import survives_fork, unlock

_LOOK_EVERY = 1.0
"""Seconds between two looks whether the event loop of another thread, whose turn it is, runs."""


class Turn:
    """One place in a line. `come` is done when it is the first, or has been left behind."""

    __slots__ = ("_loop", "come")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.come: asyncio.Future[None] = self._loop.create_future()

    def is_alive(self) -> bool:
        """Whether its event loop runs."""
        return self._loop.is_running()

    def in_loop_of(self, other: Turn) -> bool:
        """Whether both wait in the same event loop."""
        return self._loop is other._loop

    def wake(self) -> None:
        """Let it know, from whatever thread."""
        if _running_loop() is self._loop:
            self._arrive()
            return
        try:
            self._loop.call_soon_threadsafe(self._arrive)
        except RuntimeError:
            pass  # The loop was closed just now; whoever looks next takes the turn out.

    def _arrive(self) -> None:
        if not self.come.done():
            self.come.set_result(None)


class Lines:
    """The lines of one limiter, for any number of threads and event loops.

    `by_key` is for looking only.
    """

    __slots__ = ("__weakref__", "_lock", "by_key", "waiting")

    def __init__(self) -> None:
        self.by_key: dict[str, deque[Turn]] = {}
        self.waiting: int = 0
        """How many wait in all lines."""
        # A coroutine that is collected leaves its line, in the midst of whatever this thread does.
        self._lock = threading.RLock()
        survives_fork(self)

    def after_fork(self) -> None:
        """Nobody waits in the child."""
        unlock(self._lock)
        self.by_key.clear()
        self.waiting = 0

    def join(self, key: str, *, most: int) -> Turn | None:
        """The last place in the line of `key`; None if `most` wait already."""
        with self._lock:
            if self.waiting >= most:
                return None
            self.waiting += 1
            turn = Turn()
            line = self.by_key.setdefault(key, deque())
            line.append(turn)
            self._advance(key, line)
            return turn

    def leave(self, key: str, turn: Turn) -> None:
        """Give a place up; the next one's turn has come if it was the first."""
        with self._lock:
            line = self.by_key.get(key)
            if line is not None and turn in line:
                line.remove(turn)
                self.waiting -= 1
                self._advance(key, line)

    def held(self, key: str) -> bool:
        """Whether anybody waits in the line of `key`."""
        with self._lock:
            line = self.by_key.get(key)
            if line is not None:
                self._advance(key, line)
            return key in self.by_key

    async def comes(self, key: str, turn: Turn, *, within: float, clock: Clock) -> bool:
        """Wait for a turn; whether it came `within` so many seconds of `clock`."""
        while not turn.come.done() and within > 0:
            pause = min(within, _LOOK_EVERY) if self._mixed(key, turn) else within
            sleep = asyncio.ensure_future(clock.sleep(pause))
            try:
                await asyncio.wait((turn.come, sleep), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleep.cancel()
            within -= pause
            if not turn.come.done():
                self.held(key)  # Takes out the dead, and wakes the next.
                await asyncio.sleep(0)
        return turn.come.done()

    def _mixed(self, key: str, turn: Turn) -> bool:
        """Whether the first of the line waits in another event loop than `turn`, and may die."""
        with self._lock:
            line = self.by_key.get(key)
            return bool(line) and not line[0].in_loop_of(turn)  # type: ignore[index]

    def _advance(self, key: str, line: deque[Turn]) -> None:
        """Take out the dead at the front, and wake the first of the living."""
        while line and not line[0].is_alive():
            line.popleft().wake()
            self.waiting -= 1
        if not line:
            self.by_key.pop(key, None)
        else:
            line[0].wake()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
