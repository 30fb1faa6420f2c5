"""The deadline of the work in progress: set by `Timeout`, seen by everything called inside.

It travels in a context variable, so tasks and threads that copy the context inherit it. It is an
instant of the monotonic clock, in seconds, and means nothing in another process: to pass it on,
send what is `remaining`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds

DEADLINE: ContextVar[float | None] = ContextVar("standfast_deadline", default=None)


def remaining(clock: Clock = SYSTEM_CLOCK) -> float | None:
    """Seconds until the deadline, below zero when it has passed, or None if there is none."""
    deadline = DEADLINE.get()
    return None if deadline is None else deadline - clock.monotonic()


@contextmanager
def within(duration: Duration, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[None]:
    """Give what is inside a deadline, `duration` from now, or keep an earlier one.

    Nothing is interrupted: timeouts inside are shortened, and retries inside give up in time. For
    a deadline that came with a request, and for plain functions.
    """
    outer = DEADLINE.get()
    deadline = clock.monotonic() + seconds(duration, name="duration")
    DEADLINE.set(deadline if outer is None else min(outer, deadline))
    try:
        yield
    finally:
        DEADLINE.set(outer)
