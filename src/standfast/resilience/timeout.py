"""Timeout: how long a call may take, and the deadline that everything inside sees."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, ClassVar
from weakref import ref

from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, human, seconds
from standfast.errors import TimedOut
from standfast.resilience.deadline import DEADLINE
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.running import current_task
from standfast.resilience.telemetry import Instrument, span_event, watch
from standfast.resilience.threads import Abandoned, start
from standfast.resilience.timers import DeadlineQueue, Scope, queue_of

INSTRUMENTS = {
    "standfast.timeout.expired": Instrument("counter", "{call}", "Calls that took too long"),
    "standfast.timeout.abandoned": Instrument(
        "updown", "{thread}", "Threads still busy with a call that nobody waits for any more"
    ),
}


class Timeout(Policy):
    """A call takes `after` at most (seconds or text), or `TimedOut` is raised.

    Around ``async def`` and as ``async with timeout:`` it behaves like ``asyncio.timeout``: the
    task is cancelled where it waits, and a cancellation from elsewhere stays one. It can't
    interrupt code that doesn't await or that swallows cancellation.

    Around ``def`` the call runs in a thread of its own, with a copy of the context, and the caller
    **stops waiting**. Python can't end a thread: the call goes on, its outcome is only logged, and
    it shows in the gauge ``standfast.timeout.abandoned`` until it ends. Its thread is a daemon,
    which doesn't keep the process alive. Where a client library has a timeout, set that too. There
    is no plain ``with``, for nothing could interrupt it: see `standfast.resilience.within`.

    Inside, `standfast.resilience.remaining` tells how long is left. A timeout inside another ends
    with the outer one, if that is sooner; a `Retry` inside gives up in time. When the deadline has
    passed already, `TimedOut` is raised before the call is made.
    """

    label: ClassVar[str] = "timeout"

    def __init__(self, after: Duration, *, name: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self.after: float = seconds(after, name="after")
        self.name: str = name
        self.clock: Clock = clock
        self.expired: int = 0
        """Calls that took too long, so far."""
        self.abandoned: Abandoned = Abandoned()
        self._last_queue: tuple[ref[asyncio.AbstractEventLoop], DeadlineQueue] | None = None
        self._open: dict[asyncio.Task[Any], list[Scope]] = {}
        self._watched = False

    def __repr__(self) -> str:
        return f"Timeout({human(self.after)!r}, name={self.name!r})"

    def measures(self) -> Iterable[Measure]:
        """Calls that took too long, and threads that still run."""
        yield "standfast.timeout.expired", self.expired, {"name": self.name}
        yield "standfast.timeout.abandoned", self.abandoned.count, {"name": self.name}

    # -- plain functions ---------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """`call` in a thread of its own, waited for until its time is up."""
        self._watch()
        clock = self.clock

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = DEADLINE.get()
            deadline = clock.monotonic() + self.after
            if outer is not None and outer < deadline:
                deadline = outer
                self._check(deadline)
            DEADLINE.set(deadline)  # the thread starts with a copy of the context
            try:
                running = start(call, args, kwargs, name=f"standfast-timeout-{self.name}")
            finally:
                DEADLINE.set(outer)
            try:
                if running.wait_until(deadline, clock):
                    return running.result()
            finally:
                self.abandoned.note(running)
            raise self._too_late(clipped=deadline == outer)

        return timed

    # -- coroutines --------------------------------------------------------------------------

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call`, cancelled when its time is up."""
        self._watch()
        begin, end, queue_on = self._begin, self._end, self._queue_on
        monotonic, set_deadline = self.clock.monotonic, DEADLINE.set
        after, simple = self.after, self.clock is SYSTEM_CLOCK

        async def timed(*args: Any, **kwargs: Any) -> Any:
            task = current_task()
            if task is not None and simple and DEADLINE.get() is None:
                # As `_begin`, without another frame.
                loop, last = task.get_loop(), self._last_queue
                queue = last[1] if last is not None and last[0]() is loop else queue_on(loop)
                deadline = monotonic() + after
                scope = Scope(task, deadline, None, queue)
                queue.scopes[scope] = None
                if not queue.armed:
                    queue.arm(loop, deadline)
                set_deadline(deadline)
            else:
                scope = begin()
            try:
                result = await call(*args, **kwargs)
            except BaseException as error:
                if end(scope, error):
                    raise self._too_late(clipped=scope.deadline == scope.outer) from error
                raise
            if scope.queue is None or scope.expired:
                end(scope, None)
            else:  # as `_end`, without another frame
                set_deadline(scope.outer)
                del scope.queue.scopes[scope]
            return result

        return timed

    async def __aenter__(self) -> None:
        """Begin a block. Tasks may share the policy, and blocks may nest."""
        self._watch()
        scope = self._begin()
        self._open.setdefault(scope.task, []).append(scope)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block; raises `TimedOut` if it was its deadline that cancelled it."""
        task = current_task()
        scopes = None if task is None else self._open.get(task)
        if task is None or not scopes:
            raise RuntimeError("a Timeout block must be left by the task that entered it")
        scope = scopes.pop()
        if not scopes:
            del self._open[task]
        if self._end(scope, error):
            raise self._too_late(clipped=scope.deadline == scope.outer) from error

    def _begin(self) -> Scope:
        task = current_task()
        if task is None:
            raise RuntimeError("a Timeout works inside a task only: there is nothing to cancel")
        now = self.clock.monotonic()
        deadline = now + self.after
        outer = DEADLINE.get()
        if (outer is not None and outer < deadline) or self.clock is not SYSTEM_CLOCK:
            return self._begin_with_own_timer(task, now, deadline, outer)
        loop, last = task.get_loop(), self._last_queue
        queue = last[1] if last is not None and last[0]() is loop else self._queue_on(loop)
        scope = Scope(task, deadline, outer, queue)
        queue.scopes[scope] = None
        if not queue.armed:
            queue.arm(loop, deadline)
        DEADLINE.set(deadline)
        return scope

    def _queue_on(self, loop: asyncio.AbstractEventLoop) -> DeadlineQueue:
        queue = queue_of(loop, self.after)
        self._last_queue = (ref(loop), queue)
        return queue

    def _begin_with_own_timer(
        self, task: asyncio.Task[Any], now: float, deadline: float, outer: float | None
    ) -> Scope:
        """For what is not `after` seconds long, or goes by another clock."""
        if outer is not None and outer < deadline:
            deadline = outer
            self._check(deadline)
        scope = Scope(task, deadline, outer, None)
        loop = task.get_loop()
        if self.clock is SYSTEM_CLOCK:
            scope.timer = loop.call_later(deadline - now, scope.expire)
        else:
            scope.timer = loop.create_task(self._expire_later(scope, deadline - now))
        DEADLINE.set(deadline)
        return scope

    async def _expire_later(self, scope: Scope, delay: float) -> None:
        await self.clock.sleep(delay)
        scope.expire()

    def _end(self, scope: Scope, error: BaseException | None) -> bool:
        """Put everything back; True if `error` is the cancellation that this scope asked for."""
        DEADLINE.set(scope.outer)
        if scope.expired:
            others = scope.task.uncancel() > scope.cancels
            return not others and isinstance(error, asyncio.CancelledError)
        if scope.queue is not None:
            del scope.queue.scopes[scope]
        elif scope.timer is not None:
            scope.timer.cancel()
        return False

    # -- both --------------------------------------------------------------------------------

    def _check(self, deadline: float) -> None:
        if deadline <= self.clock.monotonic():
            self.expired += 1
            raise TimedOut(f"{self!r}: not called, for the deadline around it has passed")

    def _too_late(self, *, clipped: bool) -> TimedOut:
        self.expired += 1
        span_event("timeout", name=self.name, after=self.after)
        if clipped:
            return TimedOut(f"{self!r}: the deadline around it came first")
        return TimedOut(f"{self!r}: not done after {human(self.after)}")

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, INSTRUMENTS)
