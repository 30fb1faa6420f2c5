"""Answers kept for the day when there is no fresh one."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from standfast.checks import whole
from standfast.durations import Duration, time_limit
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.functions import FINISHED, finished, plain
from standfast.resilience.in_progress import IN_PROGRESS


class LastGood:
    """The last good answers, by function and arguments, at most `size` (least used go first).

    One older than `max_age` (seconds or text; None: no limit) isn't used. The arguments must be
    hashable, or `key` makes a hashable key of them; ``TypeError`` is raised before the call where
    neither is so. In a transport the request stands for function and arguments, and a `key` gets
    the request. What else an answer depends on, such as a user in a context variable, must be in
    the key. An answer is found again by the same function object only: one that is made anew for
    each call, as a lambda is, never has one. An answer is kept and handed out as it is, not copied:
    whoever changes it changes what the others get.
    """

    def __init__(
        self,
        max_age: Duration | None = None,
        *,
        size: int = 1000,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        whole(size, name="size")
        if key is not None:
            plain(key, name="key", wanted="a function of the call's arguments")
        self.max_age: float | None = time_limit(max_age, name="max_age")
        self.size: int = size
        self._key = key
        self._kept: OrderedDict[Hashable, tuple[float, Any, float]] = OrderedDict()
        self._lock = threading.Lock()
        survives_fork(self)

    def after_fork(self) -> None:
        """Keep what the parent kept; a thread of the parent may have held the lock."""
        unlock(self._lock)

    def __len__(self) -> int:
        return len(self._kept)

    def key(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Hashable:
        """The key of a call of `function`. Raises ``TypeError`` if it can't be hashed."""
        transported = IN_PROGRESS.get()
        whose = _identity(function) if transported is None else transported.identity()
        made: Hashable = None
        if self._key is not None:
            made = self._key(*args, **kwargs)
            if type(made) not in FINISHED:
                finished(self._key, made)
            whose = whose if transported is None else None
        elif transported is None:
            # With their types: 1, 1.0 and True are equal, and yet not the same question.
            args, kwargs = _in_order(function, args, kwargs)
            named = sorted(kwargs.items()) if kwargs else ()
            made = (args, *map(type, args), *named, *(type(value) for _, value in named))
        key = (whose, made)
        try:
            hash(key)
        except TypeError as error:
            raise TypeError(
                f"LastGood can't tell calls apart, so this one was not made: {error}. Give "
                "LastGood(key=...), a function of the arguments that makes a hashable key"
            ) from error
        return key

    def keep(self, key: Hashable, answer: object, now: float, begun: float | None = None) -> None:
        """Keep `answer`, given at `now` to a call that was `begun` then (monotonic seconds).

        Unless one young enough is kept of a call that was begun later: that is the newer answer.
        """
        begun = now if begun is None else begun
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[2] > begun and not self._is_too_old(now - kept[0]):
                return
            self._kept[key] = (now, answer, begun)
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
            if self._is_too_old(age):
                del self._kept[key]
                return None
            self._kept.move_to_end(key)
            return age, kept[1]

    def _is_too_old(self, age: float) -> bool:
        return self.max_age is not None and age > self.max_age


def _identity(function: Callable[..., Any]) -> Hashable:
    """What is the same for the same function, also for one with some arguments filled in."""
    if isinstance(function, functools.partial):
        return _identity(function.func), function.args, tuple(sorted(function.keywords.items()))
    return function


def _in_order(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, by position as far as can be: ``f(1, b=2)`` asks what ``f(1, 2)`` does."""
    code = getattr(function, "__code__", None)
    if not kwargs or code is None:
        return args, kwargs
    bound = getattr(function, "__self__", None) is not None  # then its first one is given
    rest = dict(kwargs)
    for at in range(len(args) + bound, code.co_argcount):
        name = code.co_varnames[at]
        if at < code.co_posonlyargcount or name not in rest:
            break
        args = (*args, rest.pop(name))
    return args, rest
