"""Deadlines of the tasks of one event loop, where each is equally far away: precise, and O(1).

A timer in the loop's heap costs more than many a call that it guards, and most are cancelled
unused. But deadlines of equal length fall due in the order in which they were set. So they stand
in a dict, in that order, and one timer of the loop is armed for the first. A scope that ends in
time takes itself out and leaves the timer armed; when that rings, what is due is cancelled, and it
is armed again for the next, if there is one. So a busy loop has one timer per `Timeout`, which
rings about once per length while calls are short, and never more often than there are scopes.

A `Timeout` that is used once would gain nothing by that: its scope has a timer of its own in the
heap, which is set in O(log n) and given up when the call ends.

Source: the ordered timer list, scheme 2 of Varghese and Lauck, "Hashed and Hierarchical Timing
Wheels", 1987; with equal lengths its insertion costs O(1).
"""

from __future__ import annotations

import asyncio
import gc
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, ClassVar

from standfast.clock import SYSTEM_CLOCK
from standfast.resilience.deadline import Deadline

_monotonic = SYSTEM_CLOCK.monotonic


class Scope(Deadline):
    """A stretch of one task's work (`owner`) that ends at `at` (monotonic seconds).

    Its timer is its place in `queue`, or else one of its own, `timer`.
    """

    __slots__ = ("before", "cancels", "queue", "timer")

    def __init__(
        self,
        task: asyncio.Task[Any],
        at: float,
        outer: Deadline | None,
        queue: DeadlineQueue | None,
    ) -> None:
        self.owner = task
        self.at = at
        self.outer = outer  # to be put back
        self.queue = queue
        self.timer: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.cancels = task.cancelling()  # requests to cancel that aren't ours
        self.expired = False

    def expire(self) -> None:
        """Time is up: ask the task to cancel what it does."""
        if self.owner is not None:  # a block that was left in another thread stays in its queue
            self.expired = True
            self.before = self.owner.cancelling()
            if self.before == self.cancels or getattr(self.owner, "_must_cancel", False):
                self.owner.cancel()
            else:  # another request is under way, or is over and wasn't taken back
                self.owner.cancel(self._word)

    def asked_for(self, error: BaseException | None, task: asyncio.Task[Any]) -> bool:
        """Whether `error` is the cancellation of `task` that this scope asked for, and takes back.

        A request from elsewhere goes before it, unless that was over when this one was made:
        nobody took it back, but nothing that it raised led to `error` either.
        """
        requests = task.uncancel()
        if requests <= self.cancels or not isinstance(error, asyncio.CancelledError):
            return isinstance(error, asyncio.CancelledError)
        first, seen = error, set[int]()
        one: BaseException | None = error
        while one is not None and id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, asyncio.CancelledError):
                first = one
            one = one.__context__
        return requests <= self.before and first.args == (self._word,)

    @property
    def _word(self) -> str:
        """What tells its cancellation from others."""
        return f"a Timeout expired ({id(self):#x})"


class ShortScope(Scope):
    """A scope that a deadline around it made shorter than half of what it was meant to be."""

    __slots__ = ()

    telling: ClassVar[bool] = False


class GeneratorScope(Scope):
    """A stretch of the work of an async generator, which its consumer's task does step by step.

    When its time is up and the consumer is about something else, it looks again after `again`
    seconds: then the generator may be at work, or the block have been left.
    """

    __slots__ = ("again", "generator")

    def __init__(
        self,
        task: asyncio.Task[Any],
        at: float,
        outer: Deadline | None,
        generator: FrameType,
        again: float,
    ) -> None:
        super().__init__(task, at, outer, None)
        self.generator = generator
        self.again = again

    def expire(self) -> None:
        """Ask the task to cancel what it does, if that is the generator's work."""
        if self.owner is None or _works_for(self.owner, self.generator):
            super().expire()
        else:
            self.timer = self.owner.get_loop().call_later(self.again, self.expire)


def _works_for(task: asyncio.Task[Any], frame: FrameType) -> bool:
    """Whether `task` waits inside `frame`."""
    at: Any = task.get_coro()
    while at is not None:
        if isinstance(at, CoroutineType):
            inside, at = at.cr_frame, at.cr_await
        elif isinstance(at, GeneratorType):
            inside, at = at.gi_frame, at.gi_yieldfrom
        elif isinstance(at, AsyncGeneratorType):
            inside, at = at.ag_frame, at.ag_await
        else:  # a step of an async generator tells nobody but the garbage collector whose it is
            inside, at = None, next(filter(_has_frame, gc.get_referents(at)), None)
        if inside is frame:
            return True
    return False


def _has_frame(value: object) -> bool:
    return isinstance(value, (AsyncGeneratorType, CoroutineType, GeneratorType))


class DeadlineQueue:
    """Scopes of one length on one event loop, first to expire first."""

    __slots__ = ("armed", "scopes")

    def __init__(self) -> None:
        self.scopes: dict[Scope, None] = {}
        self.armed = False

    def arm(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Ring at `deadline`. The loop's clock may be another, so only the difference counts."""
        self.armed = True
        loop.call_later(max(0.0, deadline - _monotonic()), self._ring)

    def _ring(self) -> None:
        self.armed = False
        now = _monotonic()
        due: list[Scope] = []
        for scope in self.scopes:  # one pass: popping a dict's first again and again is quadratic
            if scope.at > now:
                self.arm(asyncio.get_running_loop(), scope.at)
                break
            due.append(scope)
        for scope in due:
            del self.scopes[scope]
            scope.expire()
