"""Sliding windows over the outcomes of calls: the last n calls, or the last n seconds. Pure.

An outcome is a sum of bits: `FAILED`, `SLOW`, both or neither. A window keeps running totals, so
that recording costs the same however long it is. After the sliding windows of resilience4j.
"""

from __future__ import annotations

from typing import Protocol

FAILED = 1
SLOW = 2


class Window(Protocol):
    """Running totals of what happened lately."""

    calls: int
    failures: int
    slow: int

    @property
    def settled(self) -> bool:
        """Whether one more fast success would leave everything as it is, at any time."""
        ...

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome; `now` is in monotonic seconds."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...


class CountWindow:
    """The last `size` calls, exactly."""

    __slots__ = ("_next", "_outcomes", "_size", "calls", "failures", "slow")

    def __init__(self, size: int) -> None:
        self._size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._outcomes = bytearray(self._size)
        self._next = self.calls = self.failures = self.slow = 0

    @property
    def settled(self) -> bool:
        """Whether it is full of successes."""
        return self.calls == self._size and not (self.failures or self.slow)

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome in place of the oldest."""
        if not (outcome or self.failures or self.slow):
            # Among successes only it doesn't matter which is the oldest.
            if self.calls < self._size:
                self.calls += 1
            return
        place = self._next
        before = self._outcomes[place]
        if before != outcome:
            # A place that was never used reads as a success, and so does no harm.
            self._outcomes[place] = outcome
            self.failures += (outcome & FAILED) - (before & FAILED)
            self.slow += ((outcome & SLOW) - (before & SLOW)) // SLOW
        place += 1
        self._next = place if place < self._size else 0
        if self.calls < self._size:
            self.calls += 1


class TimeWindow:
    """The calls of the last `span` seconds, in steps of a tenth of it.

    Time is cut into buckets of ``span / BUCKETS`` seconds. The window is the current bucket and the
    nine before it: it reaches back between nine tenths of `span` and all of it, and takes the same
    little memory whatever the traffic.
    """

    BUCKETS = 10
    settled = False  # never: time passes

    __slots__ = ("_bucket", "_buckets", "_ends", "_number", "_width", "calls", "failures", "slow")

    def __init__(self, span: float) -> None:
        self._width = span / self.BUCKETS
        self._number = 0  # of the current bucket, since the clock began
        self._ends = 0.0  # when the current bucket does
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets = [[0, 0, 0] for _ in range(self.BUCKETS)]  # calls, failures, slow
        self._bucket = self._buckets[self._number % self.BUCKETS]
        self.calls = self.failures = self.slow = 0

    def record(self, outcome: int, now: float) -> None:
        """Take in one outcome at `now`."""
        if now >= self._ends:
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
        self._number, self._ends = number, (number + 1) * self._width
        self._bucket = self._buckets[number % self.BUCKETS]
