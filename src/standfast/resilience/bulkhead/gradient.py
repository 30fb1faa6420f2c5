"""How many calls a dependency bears, learned from how long they take. Pure.

Source: Gradient2 of Netflix concurrency-limits (``Gradient2Limit``, with windows as in
``WindowedLimit``), 2018. The mean duration of a short window is compared with a slow average over
hundreds of windows. Where calls take longer than usual, they queue somewhere: the limit shrinks by
that ratio, at most by half. Where they don't, it grows by a few. Either is smoothed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GradientSettings:
    """The knobs of Gradient2; the defaults are those of Netflix but for `minimum` (20 there)."""

    minimum: int = 1
    maximum: int = 200
    growth: float = 4.0  # "queue size": calls by which the limit may grow
    smoothing: float = 0.2
    tolerance: float = 1.5  # how much longer than usual is still usual
    long_window: int = 600  # windows
    warmup: int = 10  # windows whose plain mean starts the slow average
    window: float = 1.0  # seconds
    samples: int = 10  # calls that a window needs at least


class Gradient2:
    """The limit, as calls come back."""

    __slots__ = ("_count", "_ends", "_long", "_most", "_settings", "_sum", "_windows", "limit")

    def __init__(self, initial: int, settings: GradientSettings) -> None:
        self.limit = float(initial)
        self._settings = settings
        self._long = 0.0
        self._windows = 0
        self._ends: float | None = None
        self._sum = 0.0
        self._count = self._most = 0

    def sample(self, now: float, took: float, active: int) -> int | None:
        """A call came back after `took` seconds, with `active` running. The limit if it's new."""
        settings = self._settings
        if self._ends is None:
            self._ends = now + settings.window
        self._sum += took
        self._count += 1
        self._most = max(self._most, active)
        if now < self._ends or self._count < settings.samples:
            return None
        before = int(self.limit)
        self._update(self._sum / self._count, self._most)
        self._ends, self._sum, self._count, self._most = now + settings.window, 0.0, 0, 0
        return int(self.limit) if int(self.limit) != before else None

    def _update(self, short: float, active: int) -> None:
        settings = self._settings
        short = max(short, 1e-9)
        self._windows += 1
        if self._windows <= settings.warmup:
            self._long += (short - self._long) / self._windows
        else:
            self._long += (short - self._long) * 2 / (settings.long_window + 1)
        if self._long > 2 * short:
            self._long *= 0.9  # after a long overload, find back faster than the average would
        if active < self.limit / 2:
            return  # too little traffic to learn from
        gradient = max(0.5, min(1.0, settings.tolerance * self._long / short))
        target = self.limit * gradient + settings.growth
        limit = self.limit * (1 - settings.smoothing) + target * settings.smoothing
        self.limit = max(settings.minimum, min(settings.maximum, limit))
