"""A function that fails as the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from standfast.clock import SYSTEM_CLOCK, Clock, pause


class FaultyFunction:
    """A function whose calls fail or answer by script, and are counted.

    Each item of `script` is one call: an exception (class or instance) is raised, anything else is
    returned. After the script every call returns `then`, or raises it. An instance is raised
    afresh, as a copy of its type and arguments, for real failures share no traceback. A call lasts
    `takes` seconds by `clock`.

    ``faulty(...)`` is a plain function and ``faulty.awaited(...)`` a coroutine function. `calls`
    lists the arguments of every call, and `most_at_once` tells how many ran together.
    """

    def __init__(
        self,
        script: Iterable[Any] = (),
        *,
        then: Any = "fine",
        takes: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.cancelled: int = 0
        self.most_at_once: int = 0
        self._script: Iterator[Any] = iter(script)
        self._then = then
        self._takes = takes
        self._clock = clock
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Fail or answer, as the script says."""
        outcome = self._begin(args, kwargs)
        try:
            if self._takes:
                pause(self._clock, self._takes)
            return _give(outcome)
        finally:
            self._end()

    async def awaited(self, *args: Any, **kwargs: Any) -> Any:
        """Fail or answer, as the script says."""
        outcome = self._begin(args, kwargs)
        try:
            if self._takes:
                await self._clock.sleep(self._takes)
            return _give(outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._end()

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._lock:
            self.calls.append((args, kwargs))
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
            return next(self._script, self._then)

    def _end(self) -> None:
        with self._lock:
            self._running -= 1


def _give(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        fresh = outcome.__reduce__()
        copy = fresh[0](*fresh[1])  # type: ignore[operator]
        copy.__dict__.update(outcome.__dict__)
        raise copy
    if isinstance(outcome, type) and issubclass(outcome, BaseException):
        raise outcome
    return outcome
