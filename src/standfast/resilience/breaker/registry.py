"""Every breaker has a name, and a registry that finds it by that name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from standfast.resilience.breaker.breaker import CircuitBreaker


class CircuitRegistry:
    """The breakers that live, by name. It doesn't keep them alive.

    Several breakers may have one name, such as one per client object: whoever looks by name gets
    them all.
    """

    def __init__(self) -> None:
        self._breakers: WeakSet[CircuitBreaker] = WeakSet()
        self._watchers: list[Callable[[CircuitBreaker], None]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, breaker: CircuitBreaker, name: str = "") -> str:
        """Take `breaker` in and return its name: ``circuit-1`` and so on if it has none.

        Breakers add themselves when they are made.
        """
        with self._lock:
            self._breakers.add(breaker)
            watchers = list(self._watchers)
        breaker.name = name or f"circuit-{next(self._numbers)}"
        for watcher in watchers:
            watcher(breaker)
        return breaker.name

    def named(self, name: str) -> list[CircuitBreaker]:
        """All breakers of this name."""
        return [breaker for breaker in self if breaker.name == name]

    def on_add(self, watcher: Callable[[CircuitBreaker], None]) -> Callable[[], None]:
        """Call `watcher` with every breaker to come. Returns a function that ends that."""
        with self._lock:
            self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def __iter__(self) -> Iterator[CircuitBreaker]:
        with self._lock:
            breakers = list(self._breakers)
        return iter(sorted(breakers, key=lambda breaker: breaker.name))


circuits: CircuitRegistry = CircuitRegistry()
"""The registry of every breaker that isn't given another."""
