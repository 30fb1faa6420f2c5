"""Every breaker has a name, and a registry that finds it by that name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

from standfast.resilience.functions import plain


class Named(Protocol):
    """A breaker, as far as a registry needs it."""

    name: str

    def __hash__(self) -> int: ...


B = TypeVar("B", bound=Named)


class Registry(Generic[B]):
    """Breakers by name, for `CircuitRegistry`."""

    def __init__(self) -> None:
        self._breakers: WeakSet[B] = WeakSet()
        self._watchers: list[Callable[[B], None]] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, breaker: B, name: str = "") -> str:
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

    def named(self, name: str) -> list[B]:
        """All breakers of this name."""
        return [breaker for breaker in self if breaker.name == name]

    def on_add(self, watcher: Callable[[B], None]) -> Callable[[], None]:
        """Call `watcher` with every breaker to come. Returns a function that ends that."""
        plain(watcher, name="watcher", wanted="a function of the breaker")
        with self._lock:
            self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def __iter__(self) -> Iterator[B]:
        with self._lock:
            breakers = list(self._breakers)
        return iter(sorted(breakers, key=lambda breaker: breaker.name))
