"""Sliding windows over the outcomes of calls: the last n calls, or the last n seconds. Pure.

An outcome is a sum of bits: `FAILED`, `SLOW`, both or neither. A window keeps running totals, so
that recording costs the same however long it is. After the sliding windows of resilience4j.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

FAILED = 1
SLOW = 2


class Window(Protocol):
    """Running totals of what happened lately."""

    @property
    def calls(self) -> int:
        """How many calls are in it."""
        ...

    @property
    def failures(self) -> int:
        """How many of them failed."""
        ...

    @property
    def slow(self) -> int:
        """How many of them were slow, failed or not."""
        ...

    @property
    def ends(self) -> float:
        """Until then, in monotonic seconds, time alone changes nothing in it."""
        ...

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome; `now` is in monotonic seconds."""
        ...

    def add_successes(self, count: int) -> None:
        """Take in `count` successes from after the last `record` and before `ends`."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class CountWindow:
    """The last `size` calls, exactly. It numbers them all and remembers only the bad ones."""

    ends = float("inf")

    __slots__ = ("_failed", "_recorded", "_size", "_slow")

    def __init__(self, size: int) -> None:
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._recorded = 0
        self._failed: deque[int] = deque()  # their numbers
        self._slow: deque[int] = deque()

    @property
    def calls(self) -> int:
        """How many calls are in it."""
        return min(self._recorded, self._size)

    @property
    def failures(self) -> int:
        """How many of them failed."""
        return len(self._failed)

    @property
    def slow(self) -> int:
        """How many of them were slow, failed or not."""
        return len(self._slow)

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome."""
        self.add_successes(1)
        if outcome & FAILED:
            self._failed.append(self._recorded)
        if outcome & SLOW:
            self._slow.append(self._recorded)

    def add_successes(self, count: int) -> None:
        """Take in `count` successes."""
        self._recorded += count
        left = self._recorded - self._size
        for bad in (self._failed, self._slow):
            while bad and bad[0] <= left:
                bad.popleft()


class TimeWindow:
    """The calls of the last `span` seconds, in steps of a tenth of it.

    Time is cut into buckets of ``span / BUCKETS`` seconds. The window is the current bucket and the
    nine before it: it reaches back between nine tenths of `span` and all of it, and takes the same
    little memory whatever the traffic.
    """

    BUCKETS = 10

    __slots__ = ("_bucket", "_buckets", "_number", "_width", "calls", "ends", "failures", "slow")

    def __init__(self, span: float) -> None:
        self._width = span / self.BUCKETS
        self._number = 0  # of the current bucket, since the clock began
        self.ends = 0.0  # when the current bucket does
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets = [[0, 0, 0] for _ in range(self.BUCKETS)]  # calls, failures, slow
        self._bucket = self._buckets[self._number % self.BUCKETS]
        self.calls = self.failures = self.slow = 0

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome at `now`."""
        if now >= self.ends:
            self._advance(now)
        bucket = self._bucket
        bucket[0] += 1
        self.calls += 1
        if outcome:
            if outcome & FAILED:
                bucket[1] += 1
                self.failures += 1
            if outcome & SLOW:
                bucket[2] += 1
                self.slow += 1

    def add_successes(self, count: int) -> None:
        """Take in `count` successes of the current bucket."""
        self._bucket[0] += count
        self.calls += count

    def _advance(self, now: float) -> None:
        """Empty the buckets that time has passed."""
        # Two threads may read the clock in one order and come here in the other: never go back.
        number = max(self._number, int(now // self._width))
        for passed in range(max(self._number, number - self.BUCKETS) + 1, number + 1):
            bucket = self._buckets[passed % self.BUCKETS]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = 0, 0, 0
        self._number, self.ends = number, (number + 1) * self._width
        self._bucket = self._buckets[number % self.BUCKETS]
