"""Deadlines of the tasks of one event loop, where each is equally far away: precise, and O(1).

A timer in the loop's heap costs more than many a call that it guards, and most are cancelled
unused. But deadlines of equal length fall due in the order in which they were set. So they stand
in a dict, in that order, and one timer of the loop is armed for the first. A scope that ends in
time takes itself out and leaves the timer armed; when that rings, what is due is cancelled, and it
is armed again for the next, if there is one. So a busy loop has one timer per length, which rings
about once per length while calls are short, and never more often than there are scopes.

Source: the ordered timer list, scheme 2 of Varghese and Lauck, "Hashed and Hierarchical Timing
Wheels", 1987; with equal lengths its insertion costs O(1).
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from weakref import WeakKeyDictionary

from standfast.clock import SYSTEM_CLOCK

_monotonic = SYSTEM_CLOCK.monotonic


class Scope:
    """A stretch of one task's work that ends at `deadline` (monotonic seconds).

    Its timer is its place in `queue`, or else one of its own, `timer`.
    """

    __slots__ = ("cancels", "deadline", "expired", "outer", "queue", "task", "timer")

    def __init__(
        self,
        task: asyncio.Task[Any],
        deadline: float,
        outer: float | None,
        queue: DeadlineQueue | None,
    ) -> None:
        self.task = task
        self.deadline = deadline
        self.outer = outer  # the deadline around this one, to be put back
        self.queue = queue
        self.timer: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.cancels = task.cancelling()  # requests to cancel that aren't ours
        self.expired = False

    def expire(self) -> None:
        """Time is up: ask the task to cancel what it does."""
        self.expired = True
        self.task.cancel()


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
            if scope.deadline > now:
                self.arm(asyncio.get_running_loop(), scope.deadline)
                break
            due.append(scope)
        for scope in due:
            del self.scopes[scope]
            scope.expire()


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, DeadlineQueue]]
_queues = WeakKeyDictionary()
_lock = threading.Lock()


def queue_of(loop: asyncio.AbstractEventLoop, after: float) -> DeadlineQueue:
    """The queue for deadlines `after` seconds away on `loop`; the same for all who ask."""
    with _lock:
        queues = _queues.setdefault(loop, {})
        if after not in queues:
            # Lengths that nobody uses any more must not pile up.
            for idle in [length for length, queue in queues.items() if not queue.armed]:
                del queues[idle]
            queues[after] = DeadlineQueue()
        return queues[after]
