"""Answers kept for the day when there is no fresh one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError


class LastGood:
    """The last good answers, by the call's arguments, at most `size` of them (least used go first).

    One older than `max_age` (seconds or text; None: no limit) isn't used. `key` makes a hashable
    key of the arguments; without it, they must be hashable themselves, or `TypeError` is raised by
    the call. An answer is kept as it is, not copied: don't change it.
    """

    def __init__(
        self,
        max_age: Duration | None = None,
        *,
        size: int = 1000,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        if size < 1:
            raise ConfigurationError(f"size={size!r}: must be 1 or more")
        if key is not None and not callable(key):
            raise ConfigurationError(f"key={key!r}: give a function of the call's arguments")
        self.max_age: float | None = None if max_age is None else seconds(max_age, name="max_age")
        self.size: int = size
        self._key = key
        self._kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """The key of a call."""
        if self._key is not None:
            return self._key(*args, **kwargs)
        return (args, tuple(sorted(kwargs.items()))) if kwargs else args

    def keep(self, key: Hashable, answer: object, now: float) -> None:
        """Keep `answer`, given at `now` (monotonic seconds)."""
        with self._lock:
            self._kept[key] = (now, answer)
            self._kept.move_to_end(key)
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def find(self, key: Hashable, now: float) -> tuple[float, Any] | None:
        """The age in seconds and the answer, or None if there is none young enough."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            age = now - kept[0]
            if self.max_age is not None and age > self.max_age:
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return age, kept[1]
