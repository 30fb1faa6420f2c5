"""The last so many latencies, and a percentile of them."""

from __future__ import annotations

import math


class Latencies:
    """A window of the last `size` latencies in seconds, and their percentile `fraction`.

    It is worked out anew every `every` samples, from a sorted copy (nearest rank). Threads may
    share it: a sample that is lost between two of them does no harm.
    """

    def __init__(self, fraction: float, *, size: int = 256, every: int = 16) -> None:
        self._fraction = fraction
        self._size = size
        self._every = every
        self._window: list[float] = []
        self._at = 0
        self._value: float | None = None

    def add(self, latency: float) -> None:
        """Take in one latency."""
        if len(self._window) < self._size:
            self._window.append(latency)
        else:
            self._window[self._at % self._size] = latency
        self._at += 1
        if self._at % self._every == 0:
            ordered = sorted(self._window)
            self._value = ordered[max(0, math.ceil(self._fraction * len(ordered)) - 1)]

    def percentile(self) -> float | None:
        """The percentile in seconds, or None while there are too few samples."""
        return self._value
