"""How many retries one dependency bears, shared by all who call it, and the mark "don't retry".

Retries help while few calls fail. When most fail, each retry is load on something that is already
down, and layers that retry around layers that retry multiply it. A `RetryBudget` bounds retries to
a share of the calls; the mark that an exhausted retry leaves on its exception stops the layers
around it. A saga's step is no such layer: its retries are durable and far apart, so what was
exhausted inside it counts as one attempt. Only a mark made by you ends those too.

Source of the budget: Finagle's ``RetryBudget`` (a share of the calls, and a few per second for the
quiet hours) and gRPC's retry throttling, gRFC A6 (a bucket with a top).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.errors import ConfigurationError
from standfast.groups import lineage
from standfast.resilience.forking import survives_fork, unlock

E = TypeVar("E", bound=BaseException)

_MARK = "__standfast_do_not_retry__"


class RetryBudget:
    """A bucket of retries for one dependency. Share one among everything that calls it.

    Each call adds `ratio` retries (0.2: one retry for five calls), time adds `per_second`, and the
    bucket holds `burst` at most, with which it starts. A retry takes 1.

    Threads may share it. A call counted by two threads at the same instant may be counted once,
    which errs towards fewer retries; a retry is never given twice.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        *,
        per_second: float = 1.0,
        burst: float = 10.0,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 <= ratio <= 1:
            raise ConfigurationError(
                f"ratio={ratio!r}: retries per call, from 0 to 1 (0.2: one for five calls)"
            )
        if not 0 <= per_second < float("inf"):
            raise ConfigurationError(f"per_second={per_second!r}: must be 0 or more")
        if not 1 <= burst < float("inf"):
            raise ConfigurationError(f"burst={burst!r}: must be 1 or more, or no retry is possible")
        self.ratio: float = ratio
        self.per_second: float = per_second
        self.burst: float = burst
        self.name: str = name
        self.clock: Clock = clock
        self.calls: int = 0
        """Calls so far. Policies add 1 for each, before the first attempt."""
        self.taken: int = 0
        self.denied: int = 0
        self._tokens = float(burst)
        self._seen = 0
        self._settled = clock.monotonic()
        self._lock = threading.Lock()
        survives_fork(self)

    def after_fork(self) -> None:
        """Go on as the parent's budget stood; a thread of the parent may have held the lock."""
        unlock(self._lock)

    def take(self) -> bool:
        """Take one retry, if there is one."""
        with self._lock:
            self._settle()
            if self._tokens < 1:
                self.denied += 1
                return False
            self._tokens -= 1
            self.taken += 1
            return True

    def left(self) -> float:
        """How many retries are in the bucket now."""
        with self._lock:
            self._settle()
            return self._tokens

    def _settle(self) -> None:
        """Put in what calls and time have added since the last look."""
        calls, now = self.calls, self.clock.monotonic()
        added = (calls - self._seen) * self.ratio + (now - self._settled) * self.per_second
        self._seen, self._settled = calls, now
        self._tokens = min(self.burst, self._tokens + added)

    def __repr__(self) -> str:
        return (
            f"RetryBudget({self.ratio!r}, per_second={self.per_second!r}, burst={self.burst!r}, "
            f"name={self.name!r})"
        )


def do_not_retry(error: E) -> E:
    """Mark `error` so that nothing around tries again: ``raise do_not_retry(error)``.

    No `Retry` does, and no retry of a saga's step or compensation: it fails at once, as if its
    attempts were used up. (Raise `Refused` instead if the step certainly had no effect.) Give it a
    new exception, or one that you have just caught: that is marked for those who called you, and
    for nobody else who holds the same object. The mark doesn't cross a process, a network, or an
    ``except`` that raises something else without ``from error``.
    """
    _mark(error, _Mark("for good", _holder(error), None))
    return error


def let_pass(error: E, *, number: int | None = None) -> E:
    """Mark `error` so that no `Retry` around tries again; a saga's step may.

    An exhausted `Retry` does this to the error that it lets through, with its `number`, and a
    transport to a failure after which it can't send the same request again. As with `do_not_retry`,
    an error that was caught is marked for those around only.
    """
    _mark(error, _Mark("here", _holder(error), number))
    return error


def is_marked(error: BaseException, since: int = 0) -> bool:
    """Whether `error`, one in its group, or one it was raised from, is to pass every `Retry`.

    Marks of retries that gave up before number `since` are those of other calls.
    """
    return any(True for _ in _marks(error, since))


def is_final(error: BaseException) -> bool:
    """Whether `error`, one in its group, or one it was raised from, was given to `do_not_retry`."""
    return any(mark.kind == "for good" for mark in _marks(error, 0))


class _Mark(NamedTuple):
    """One mark on an exception object, which several callers may hold.

    Where the object was caught, and so may have been raised elsewhere too, the mark is for those
    who get it through `frame` (an id): it is in their traceback then, and in nobody else's.
    """

    kind: Literal["for good", "here"]
    frame: int | None
    number: int | None


def _holder(error: BaseException) -> int | None:
    """The id of the frame that has caught `error`; None if nobody has raised it yet."""
    traceback = error.__traceback__
    return None if traceback is None else id(traceback.tb_frame)


def _mark(error: BaseException, mark: _Mark) -> None:
    # Not `setattr`, which frozen dataclasses and others refuse. A few marks are enough: an error
    # that is raised again and again collects them.
    attributes: dict[str, Any] = object.__getattribute__(error, "__dict__")
    attributes[_MARK] = (*attributes.get(_MARK, ())[-15:], mark)


def _marks(error: BaseException, since: int) -> Iterator[_Mark]:
    for one in lineage(error):
        marks: tuple[_Mark, ...] = object.__getattribute__(one, "__dict__").get(_MARK, ())
        passed = _frames(one) if marks else set()
        for mark in marks:
            old = mark.number is not None and mark.number <= since
            if not old and (mark.frame is None or mark.frame in passed):
                yield mark


def _frames(error: BaseException) -> set[int]:
    """The frames that `error` came through, by their ids."""
    frames, traceback = set(), error.__traceback__
    while traceback is not None:
        frames.add(id(traceback.tb_frame))
        traceback = traceback.tb_next
    return frames
