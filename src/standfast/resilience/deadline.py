"""The deadline of the work in progress: set by `Timeout`, seen by everything called inside.

It travels in a context variable, so tasks and threads that copy the context inherit it. It is an
instant of the monotonic clock, in seconds, and means nothing in another process: to pass it on,
send what is `remaining`. It holds as long as the block or call that set it lasts: when that ends in
time, those who inherited it are free of it. When it passed, it stays passed for them, so that they
give up.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ClassVar

from standfast.clock import SYSTEM_CLOCK, Clock, pause
from standfast.durations import Duration, time_left

NEVER = math.inf
"""The instant of a deadline that only ends early, if at all."""
SOON = 0.001
"""Seconds until a deadline is looked at again which has come, and which others see to."""


class Deadline:
    """An instant by which work must be done, and the deadline `outer` around it."""

    __slots__ = ("at", "expired", "outer", "owner")

    telling: ClassVar[bool] = True
    """Whether it tells something about a call that it ends: it had half the time it was to have."""

    def __init__(self, at: float, outer: Deadline | None, owner: Any = True) -> None:
        self.at: float = at
        self.outer: Deadline | None = outer
        self.expired: bool = False
        self.owner: Any = owner
        """The task it guards, if it guards one; None once it's over."""

    def leave(self) -> None:
        """End it in time: it holds for nobody any more."""
        if DEADLINE.get() is self:
            DEADLINE.set(self.outer)
        self.owner = None


class ThreadDeadline(Deadline):
    """The deadline of a plain call in a thread of its own, for which its caller may stop waiting.

    That may come before its instant, which is `NEVER` where only the caller's own end bounds it.
    What is inside and must know of that puts a function into `on_expiry`, under a key of its own,
    and takes it out when it is done. Whoever takes it out may act on it, the other may not.
    """

    __slots__ = ("on_expiry",)

    def __init__(self, at: float, outer: Deadline | None) -> None:
        super().__init__(at, outer)
        self.on_expiry: dict[object, Callable[[], object]] = {}

    def call_on_expiry(self, key: object, tell: Callable[[], object]) -> None:
        """Put `tell` into `on_expiry`; it is called at once if nobody waits any more."""
        self.on_expiry[key] = tell
        if self.expired and self.on_expiry.pop(key, None) is not None:
            tell()

    def expire(self) -> None:
        """Nobody waits any more."""
        self.expired = True
        while self.on_expiry:
            try:
                _, tell = self.on_expiry.popitem()
            except KeyError:  # the thread took the last one out just now
                break
            tell()


class ShortThreadDeadline(ThreadDeadline):
    """One that a deadline around it made shorter than half of what it was meant to be."""

    __slots__ = ()

    telling: ClassVar[bool] = False


DEADLINE: ContextVar[Deadline | None] = ContextVar("standfast_deadline", default=None)


def current() -> Deadline | None:
    """The deadline that holds here, if there is one."""
    deadline = DEADLINE.get()
    while deadline is not None and deadline.owner is None:
        deadline = deadline.outer
    return deadline


def remaining(clock: Clock = SYSTEM_CLOCK) -> float | None:
    """Seconds until the deadline, 0 when it has passed, or None if there is none."""
    deadline = current()
    if deadline is None:
        return None
    if caller_is_gone():
        return 0.0
    return None if deadline.at == NEVER else max(0.0, deadline.at - clock.monotonic())


def at_most(wait: float, clock: Clock) -> float:
    """`wait`, or the seconds until the deadline, if those are less."""
    left = remaining(clock) if wait else None
    return wait if left is None else min(wait, left)


def caller_is_gone() -> bool:
    """Whether whoever made this plain call has stopped waiting for it, as a `Timeout` does.

    Or a saga for its step. Nothing new is to begin then: nobody would hear of it.
    """
    return any(deadline.expired for deadline in thread_deadlines())


def pause_unless_gone(clock: Clock, seconds: float) -> None:
    """Block this thread for `seconds` by `clock`, or until its caller stops waiting for it."""
    if clock is not SYSTEM_CLOCK or next(thread_deadlines(), None) is None:
        pause(clock, seconds)
        return
    gone = threading.Event()
    with telling_of_expiry(gone.set):
        gone.wait(seconds)


@contextmanager
def telling_of_expiry(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` when a caller of what is inside stops waiting for it, or has."""
    deadlines, key = list(thread_deadlines()), object()
    for deadline in deadlines:
        deadline.call_on_expiry(key, tell)
    try:
        yield
    finally:
        for deadline in deadlines:
            deadline.on_expiry.pop(key, None)


def thread_deadlines() -> Iterator[ThreadDeadline]:
    """Those of the callers around that may stop waiting, the innermost first."""
    deadline = DEADLINE.get()
    while deadline is not None:
        if isinstance(deadline, ThreadDeadline) and deadline.owner is not None:
            yield deadline
        deadline = deadline.outer


def unenforced(clock: Clock, task: Any = None) -> float | None:
    """Seconds until a deadline passes here and nothing ends what waits: `task`, or a thread.

    None if there is none, or if `task` is cancelled by then. Where somebody else sees to the
    deadline, and stops waiting for this thread or cancels this task's maker, it is `SOON` until
    they have: what they raise goes before what is raised here.
    """
    first = here = current()
    if first is None or here is None:
        return None
    if caller_is_gone():
        return 0.0
    while here is not None and (type(here) is Deadline or here.owner is None):
        here = here.outer
    left = first.at - clock.monotonic()
    if here is None or here.at > first.at:
        return max(0.0, left)
    if here.owner is task or first.at == NEVER:
        return None
    return 0.0 if here.expired else max(SOON, left)


def may_wait(clock: Clock, since: float, longest: float | None, task: Any = None) -> float | None:
    """Seconds that may still be waited: up to `longest` `since` then, and by `unenforced`.

    None if nothing bounds it.
    """
    passes = unenforced(clock, task)
    if longest is None:
        return passes
    left = since + longest - clock.monotonic()
    return left if passes is None else min(left, passes)


@contextmanager
def within(duration: Duration, *, clock: Clock = SYSTEM_CLOCK) -> Iterator[None]:
    """Give what is inside a deadline, `duration` from now, or keep an earlier one.

    Nothing is interrupted: timeouts inside are shortened, and retries inside give up in time. For
    a deadline that came with a request, and for plain functions. A `duration` of zero or less is
    no mistake but a deadline that has passed: a `Timeout` inside raises `TimedOut` at once.
    """
    outer = current()
    at = clock.monotonic() + time_left(duration, name="duration")
    deadline = Deadline(at if outer is None else min(outer.at, at), outer)
    DEADLINE.set(deadline)
    try:
        yield
    finally:
        deadline.leave()


@contextmanager
def without_deadline() -> Iterator[None]:
    """Take the deadline off what is inside: for a task that is begun here and goes on afterwards.

    ::

        with without_deadline():
            sending = asyncio.create_task(send_mail())

    A cancellation isn't held back: it goes to the task, whatever deadline it sees.
    """
    before = DEADLINE.set(None)
    try:
        yield
    finally:
        with suppress(ValueError):  # left in another context, where nothing is to be put back
            DEADLINE.reset(before)
