"""Timeout: how long a call may take, and the deadline that everything inside sees."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from standfast.checks import text
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, human, seconds
from standfast.errors import TimedOut
from standfast.resilience.blocks import AsyncBlocks, OpenBlocks, iterated, statement
from standfast.resilience.deadline import (
    DEADLINE,
    Deadline,
    ShortThreadDeadline,
    ThreadDeadline,
    caller_is_gone,
    current,
)
from standfast.resilience.functions import FINISHED, as_made, finished, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure
from standfast.resilience.running import current_task, running_loop
from standfast.resilience.telemetry import Instrument, span_event, watch
from standfast.resilience.threads import Abandoned, start
from standfast.resilience.timers import DeadlineQueue, GeneratorScope, Scope, ShortScope

INSTRUMENTS = {
    "standfast.timeout.expired": Instrument("counter", "{call}", "Calls that took too long"),
    "standfast.timeout.abandoned": Instrument(
        "updown", "{thread}", "Threads still busy with a call that nobody waits for any more"
    ),
}


class Timeout(AsyncBlocks[None]):
    """A call takes `after` at most (seconds or text), or `TimedOut` is raised.

    Around ``async def`` and as ``async with timeout:`` it behaves like ``asyncio.timeout``: the
    task is cancelled where it waits, and a cancellation from elsewhere stays one. It can't
    interrupt code that doesn't await or that swallows cancellation.

    A block is bound to its ``async with`` statement: it ends where that ends, also in another task
    or context than it began in, and then leaves neither a timer nor a deadline behind. In an async
    generator that is iterated (one behind ``asynccontextmanager`` is not), only the generator's own
    work is interrupted, never its consumer's, and calls inside don't see the deadline, for Python
    would show it to the consumer as well.

    Around ``def`` the call runs in a thread of its own, with a copy of the context, and the caller
    **stops waiting**. Python can't end a thread: the call goes on, its outcome is only logged, and
    it shows in the gauge ``standfast.timeout.abandoned`` until it ends. Its thread is a daemon,
    which doesn't keep the process alive. Where a client library has a timeout, set that too. There
    is no plain ``with``, for nothing could interrupt it: see `standfast.resilience.within`.

    Inside, `standfast.resilience.remaining` tells how long is left. A timeout inside another ends
    with the outer one, if that is sooner; a `Retry` inside gives up in time. When the deadline has
    passed already, `TimedOut` is raised before the call is made. Tasks that are begun inside see
    the deadline as long as the block or call lasts: `standfast.resilience.without_deadline` takes
    it off those that are to outlive it.
    """

    label: ClassVar[str] = "timeout"

    _any_will_do = False  # each block has a deadline of its own

    def __init__(self, after: Duration, *, name: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        with_brackets(self, after)
        text(name)
        self.after: float = seconds(after, name="after")
        self.name: str = name
        self.clock: Clock = clock
        self.expired: int = 0
        """Calls that took too long, so far."""
        self.abandoned: Abandoned = Abandoned()
        # For every loop that it is used on for the second time; and the last one of them.
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, DeadlineQueue]
        self._queues = WeakKeyDictionary()
        self._last_queue: tuple[ref[asyncio.AbstractEventLoop], DeadlineQueue] | None = None
        self._lock = threading.Lock()
        self._blocks: OpenBlocks[TimeoutBlock] = OpenBlocks()
        self._watched = False

    def __repr__(self) -> str:
        return as_made("Timeout", human(self.after), name=self.name)

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
            now, outer = clock.monotonic(), current()
            at, short = self._ends(now, outer)
            deadline = ShortThreadDeadline(at, outer) if short else ThreadDeadline(at, outer)
            before = DEADLINE.set(deadline)  # the thread starts with a copy of the context
            try:
                running = start(call, args, kwargs, name=f"standfast-timeout-{self.name}")
            finally:
                DEADLINE.reset(before)
            try:
                try:
                    in_time = running.wait_until(at, clock)
                except BaseException:  # a KeyboardInterrupt: nothing more is to begin
                    deadline.at = min(at, clock.monotonic())
                    deadline.expired = True
                    raise
                if in_time:
                    deadline.owner = None
                    result = running.result()
                    if type(result) not in FINISHED:
                        finished(call, result)
                    return result
            finally:
                self.abandoned.note(running)
            deadline.expire()
            raise self._too_late(deadline)

        return timed

    # -- coroutines --------------------------------------------------------------------------

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call`, cancelled when its time is up."""
        self._watch()
        begin, end = self._begin, self._end
        monotonic, set_deadline, after = self.clock.monotonic, DEADLINE.set, self.after

        async def timed(*args: Any, **kwargs: Any) -> Any:
            task, last = current_task(), self._last_queue
            if (
                task is not None
                and last is not None
                and DEADLINE.get() is None
                and last[0]() is (loop := task.get_loop())
            ):
                # As `_begin`, without another frame.
                queue, at = last[1], monotonic() + after
                scope = Scope(task, at, None, queue)
                queue.scopes[scope] = None
                if not queue.armed:
                    queue.arm(loop, at)
                set_deadline(scope)
            else:
                scope = begin()
            try:
                result = await call(*args, **kwargs)
            except BaseException as error:
                if end(scope, error):
                    raise self._too_late(scope) from error
                raise
            if scope.queue is None or scope.expired:
                end(scope, None)
            else:  # as `_end`, without another frame
                set_deadline(scope.outer)
                scope.owner = None
                del scope.queue.scopes[scope]
            return result

        return timed

    def block(self) -> TimeoutBlock:
        """One ``async with`` block, which may end in any task."""
        self._watch()
        return TimeoutBlock(self)

    def _begin(self, generator: FrameType | None = None) -> Scope:
        """Begin a scope of the running task, or of the async generator that it iterates."""
        task = current_task()
        if task is None:
            raise RuntimeError("a Timeout works inside a task only: there is nothing to cancel")
        now, outer, loop = self.clock.monotonic(), current(), task.get_loop()
        at, short = self._ends(now, outer)
        # Only what is `after` seconds long by the loop's own clock can stand in the queue.
        clipped = outer is not None and at == outer.at
        own_timer = clipped or generator is not None or self.clock is not SYSTEM_CLOCK
        queue = None if own_timer else self._queue_on(loop)
        scope = (ShortScope if short else Scope)(task, at, outer, queue)
        if generator is not None:
            scope = GeneratorScope(task, at, outer, generator, self.after)
        if queue is not None:
            queue.scopes[scope] = None
            if not queue.armed:
                queue.arm(loop, at)
        elif self.clock is SYSTEM_CLOCK:
            scope.timer = loop.call_later(at - now, scope.expire)
        else:
            scope.timer = loop.create_task(self._expire_later(scope, at - now))
        if generator is None:
            DEADLINE.set(scope)
        return scope

    def _queue_on(self, loop: asyncio.AbstractEventLoop) -> DeadlineQueue | None:
        """The queue on `loop`; None the first time, for it may be the only one."""
        last = self._last_queue
        if last is not None and last[0]() is loop:
            return last[1]
        with self._lock:
            queue = self._queues.get(loop)
            first = queue is None
            if queue is None:
                queue = self._queues[loop] = DeadlineQueue()
        self._last_queue = (ref(loop), queue)
        return None if first else queue

    async def _expire_later(self, scope: Scope, delay: float) -> None:
        await self.clock.sleep(delay)
        scope.expire()

    def _end(self, scope: Scope, error: BaseException | None) -> bool:
        """Put everything back; True if `error` is the cancellation that this scope asked for."""
        here, task = DEADLINE.get() is scope, scope.owner
        if here:
            DEADLINE.set(scope.outer)
        # One that passed stays so for the tasks that saw it, unless it was left elsewhere: then
        # there is a context that it can't be taken from.
        scope.owner = True if scope.expired and here else None
        if scope.expired:
            return scope.asked_for(error, task)
        if running_loop() is not task.get_loop():
            return False  # only its own thread may touch a loop's timers: it will find nothing
        if scope.queue is not None:
            del scope.queue.scopes[scope]
        elif scope.timer is not None:
            scope.timer.cancel()
        return False

    # -- both --------------------------------------------------------------------------------

    def _ends(self, now: float, outer: Deadline | None) -> tuple[float, bool]:
        """When it ends, and whether `outer` leaves it less than half of its time.

        Raises `TimedOut` if `outer` has passed.
        """
        at = now + self.after
        if outer is None or (outer.at >= at and not caller_is_gone()):
            return at, False
        if outer.at <= now or caller_is_gone():
            self.expired += 1
            raise TimedOut(f"{self!r}: not called, for the deadline around it has passed")
        return outer.at, 2 * (outer.at - now) < self.after

    def _too_late(self, deadline: Deadline) -> TimedOut:
        self.expired += 1
        span_event("timeout", name=self.name, after=self.after)
        if deadline.outer is not None and deadline.outer.at == deadline.at:
            return TimedOut(f"{self!r}: the deadline around it came first")
        return TimedOut(f"{self!r}: not done after {human(self.after)}")

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, INSTRUMENTS)


class TimeoutBlock:
    """One block under a `Timeout`."""

    __slots__ = ("_scope", "_timeout")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._scope: Scope | None = None

    async def __aenter__(self) -> None:
        frame = statement()
        generator = frame if iterated(frame) else None
        self._scope = self._timeout._begin(generator)  # noqa: SLF001 - its own

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block; raises `TimedOut` if it was its deadline that cancelled it."""
        scope, self._scope = self._scope, None
        if scope is None:
            raise RuntimeError("a block is entered and left once: make another with block()")
        if self._timeout._end(scope, error):  # noqa: SLF001 - its own
            raise self._timeout._too_late(scope) from error  # noqa: SLF001 - its own
