"""`Bulkhead`: at most so many calls at once, and a bounded queue for the rest.

One bulkhead serves tasks and threads together, in one queue, first come first served. The machine
(`machine.py`) holds the permits; here are the lock, held for a few steps of it and never across a
call, and the two ways to wait. The lock is an ``RLock`` so that a finalizer which gives a permit
back, in the middle of a step, can't deadlock.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, TypeAlias
from weakref import ref

from standfast.checks import text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, time_limit
from standfast.errors import BulkheadFull, ConfigurationError
from standfast.resilience import telemetry
from standfast.resilience.bulkhead.machine import Permits
from standfast.resilience.bulkhead.waiters import Handed, TaskWaiter, ThreadWaiter
from standfast.resilience.deadline import DEADLINE, SOON, may_wait, telling_of_expiry, unenforced
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.functions import FINISHED, finished, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.running import current_task

_Waiter: TypeAlias = TaskWaiter | ThreadWaiter

TOO_LATE = "; it wasn't its turn before the deadline, so the call was not made"

_LOOK_EVERY = 1.0
"""Seconds between two looks whether a permit lies in an event loop that stands still."""


class Bulkhead(Policy):
    """Lets at most `limit` calls run at once and rejects with `BulkheadFull` what is too much.

    With neither `max_wait` nor `queue`, a call that finds no free permit is rejected at once. With
    `max_wait` it waits up to that long (seconds or text). With `queue` at most so many wait at
    once, for as long as it takes if there is no `max_wait`. No wait goes beyond the deadline
    around: who has no permit by then is rejected, and no call that had to wait begins after it.

    Permits go out first come first served, to tasks and threads alike. Who is cancelled or gives up
    while waiting loses no capacity: a permit that was just handed over goes to the next in line.
    `BulkheadFull.retry_after` is an estimate: how fast permits came back while all were out, times
    the number of callers ahead; None before any came back. A plain function that waits blocks its
    thread, so don't wait that way inside an event loop. A call that makes another under the same
    bulkhead holds one permit and needs a second: with `queue` and no `max_wait` that may be for
    ever. After ``os.fork`` all permits are free in the child.
    """

    label = "bulkhead"

    def __init__(
        self,
        limit: int,
        *,
        max_wait: Duration | None = None,
        queue: int | None = None,
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, limit)
        text(name)
        whole(limit, name="limit")
        if queue is not None:
            whole(queue, name="queue", least=0)
        self._max_wait = time_limit(max_wait, name="max_wait", positive=False)
        if queue and self._max_wait == 0:
            raise ConfigurationError(
                f"queue={queue!r}, max_wait={max_wait!r}: nobody would ever be in the queue; "
                "give a longer max_wait or no queue"
            )
        if queue == 0 and self._max_wait:
            raise ConfigurationError(
                f"queue={queue!r}, max_wait={max_wait!r}: nobody could wait; give a longer queue "
                "or no max_wait"
            )
        no_waiting = self._max_wait == 0 or (queue is None and max_wait is None)
        self._permits: Permits[_Waiter] = Permits(limit, 0 if no_waiting else queue)
        self._handed = Handed()
        # The event loop that waited last, and whether another did before.
        self._home: ref[asyncio.AbstractEventLoop] | None = None
        self._mixed = False
        self._lock = threading.RLock()
        self._clock = clock
        self._monotonic = clock.monotonic
        self.name: str = name
        self.admitted: int = 0
        self.rejected: int = 0
        telemetry.watch(self, INSTRUMENTS)
        survives_fork(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.active} of {self.limit})"

    @property
    def limit(self) -> int:
        """How many calls may run at once."""
        return self._permits.limit

    @property
    def active(self) -> int:
        """How many calls run now."""
        return self._permits.active

    @property
    def queued(self) -> int:
        """How many callers wait now."""
        return len(self._permits.waiting)

    # -- around calls ----------------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """A function that makes `call` while it holds a permit."""
        take, wait, release = self._take, self._wait_in_thread, self._release

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not take():
                wait()
            try:
                result = call(*args, **kwargs)
            finally:
                release()
            if type(result) not in FINISHED:
                finished(call, result)
            return result

        return wrapper

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """A coroutine function that awaits `call` while it holds a permit."""
        take, wait, release = self._take, self._wait_in_task, self._release

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not take():
                await wait()
            try:
                return await call(*args, **kwargs)
            finally:
                release()

        return wrapper

    def __enter__(self) -> None:
        if not self._take():
            self._wait_in_thread()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    async def __aenter__(self) -> None:
        if not self._take():
            await self._wait_in_task()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    # -- permits ---------------------------------------------------------------------------------

    def _take(self) -> bool:
        permits = self._permits
        with self._lock:
            if not permits.take():
                return False
            self.admitted += 1
            if permits.active == permits.limit:
                permits.filled(self._monotonic())
        return True

    def _release(self) -> None:
        permits = self._permits
        with self._lock:
            if permits.active < permits.limit:
                # As `release`: nobody waits beside a free permit.
                permits.active -= permits.active > 0  # 0 in a child forked by who holds one
                return
            waiter = permits.release(self._monotonic())
            if waiter is None:
                return
            told = self._hand(waiter)
        self._tell(told)

    def _hand(self, waiter: _Waiter) -> Sequence[_Waiter]:
        """`waiter` is out of the line, and has a permit if it can take it up; else the next has it.

        Holds the lock. Returns those to be woken, when it is held no more.
        """
        if self._handed.give(waiter):
            return (waiter,)
        told: list[_Waiter] = [waiter]
        while (following := self._permits.release(self._monotonic())) is not None:
            told.append(following)
            if self._handed.give(following):
                break
        return told

    def _tell(self, told: Iterable[_Waiter]) -> None:
        for waiter in told:
            if not waiter.wake():  # its loop was closed just now: the next one has the turn
                self._take_back((waiter,))

    def _take_back(self, waiters: Iterable[_Waiter]) -> None:
        """Pass on the permits of those that can't take them up."""
        told: list[_Waiter] = []
        with self._lock:
            for waiter in waiters:
                if self._handed.take_back(waiter):
                    following = self._permits.release(self._monotonic())
                    told += () if following is None else self._hand(following)
        self._tell(told)

    def _look(self) -> None:
        """Pass on what lies in event loops that stand still."""
        with self._lock:
            stranded = self._handed.stranded()
        if stranded:
            self._take_back(stranded)

    def _queue(self, waiter: _Waiter, *, again: bool = False) -> bool:
        """Stand in line. True if a permit has come free meanwhile. Raises `BulkheadFull`.

        Whoever was in line before does so `again`, and finds a place in any case.
        """
        with self._lock:
            if self._take():
                return True
            stranded = self._handed.stranded()
            if not stranded and self._permits.wait(waiter, anyway=again):
                return False
        if not stranded:
            raise self._full()
        self._take_back(stranded)
        return self._queue(waiter, again=again)

    def _full(self, *, late: bool = False) -> BulkheadFull:
        with self._lock:
            self.rejected += 1
            estimate = self._permits.estimate(self._monotonic())
        telemetry.span_event("bulkhead.rejected", name=self.name)
        told = f"bulkhead {self.name!r} is full: {self.limit} calls run and {self.queued} wait"
        return BulkheadFull(told + (TOO_LATE if late else ""), retry_after=estimate)

    def _waited(self, since: float) -> None:
        with self._lock:
            self.admitted += 1
        waited = self._monotonic() - since
        telemetry.record(
            "standfast.bulkhead.wait",
            waited,
            {"name": self.name},
            description="How long callers waited for a permit, of those who had to",
        )

    def _abandon(self, waiter: _Waiter) -> None:
        """Nobody waits by `waiter` any more: leave the line, or pass its permit on."""
        with self._lock:
            withdrawn = self._permits.withdraw(waiter)
        if not withdrawn:
            self._take_back((waiter,))

    # -- waiting ---------------------------------------------------------------------------------

    async def _wait_in_task(self) -> None:
        waiter = TaskWaiter()
        if self._queue(waiter):
            return
        since, timer, task = self._monotonic(), None, current_task()
        if self._home is None or self._home() is not waiter.loop:
            self._mixed = self._home is not None and self._clock is SYSTEM_CLOCK
            self._home = ref(waiter.loop)
        if (
            self._max_wait is not None
            or self._mixed
            or (DEADLINE.get() is not None and unenforced(self._clock, task) is not None)
        ):
            timer = asyncio.create_task(self._watch(waiter, task))
        try:
            while True:
                await waiter.future
                with self._lock:
                    has_permit = self._handed.take_up(waiter)
                if has_permit or waiter.expired:
                    break
                # Its loop stood still when it was its turn.
                waiter.again()
                if self._queue(waiter, again=True):
                    return
        except BaseException:  # also a cancellation: its place in the line goes to the next
            self._abandon(waiter)
            raise
        finally:
            if timer is not None and not waiter.loop.is_closed():
                timer.cancel()
        late = timer is not None and unenforced(self._clock, task) == 0
        if late or waiter.expired:
            self._take_back((waiter,))
            raise self._full(late=late)
        self._waited(since)

    async def _watch(self, waiter: TaskWaiter, task: asyncio.Task[Any] | None) -> None:
        """Let `waiter` leave the line when the time of its `task` is up."""
        since = self._monotonic()
        while True:
            left = may_wait(self._clock, since, self._max_wait, task)
            if left is None and not self._mixed:
                return
            if left is not None and left <= 0:
                break
            if self._mixed:
                left = _LOOK_EVERY if left is None else min(left, _LOOK_EVERY)
            await self._clock.sleep(left or 0.0)
            self._look()
        with self._lock:
            waiter.expired = self._permits.withdraw(waiter)
        if waiter.expired:
            waiter.wake()

    def _wait_in_thread(self) -> None:
        waiter = ThreadWaiter()
        if self._queue(waiter):
            return
        since = self._monotonic()
        try:
            with telling_of_expiry(waiter.event.set):
                while not self._ends(waiter, since):
                    self._look()
        except BaseException:  # a KeyboardInterrupt
            self._abandon(waiter)
            raise
        late = unenforced(self._clock) == 0
        with self._lock:
            has_permit = waiter.has_permit or not self._permits.withdraw(waiter)
        if late or not has_permit:
            self._take_back((waiter,))
            raise self._full(late=late)
        self._waited(since)

    def _ends(self, waiter: ThreadWaiter, since: float) -> bool:
        """Wait for a while; whether there is nothing more to wait for."""
        deadline = unenforced(self._clock)
        if deadline == 0:
            return True
        if waiter.has_permit:
            if deadline == SOON:  # and the caller goes now: it would be too late for the call
                time.sleep(SOON)
            return deadline != SOON
        left = may_wait(self._clock, since, self._max_wait)
        if left is None or left > 0:
            waiter.event.wait(_LOOK_EVERY if left is None else min(left, _LOOK_EVERY))
            return False
        return True

    def after_fork(self) -> None:
        """Free all permits: the calls of other threads are in the parent only.

        One that this thread is in gives back a permit that is counted no more, and may.
        """
        unlock(self._lock)
        self._permits = Permits(self._permits.limit, self._permits.places)
        self._handed = Handed()

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome, and how full it is."""
        name = {"name": self.name}
        for outcome, count in (("admitted", self.admitted), ("rejected", self.rejected)):
            labels = {"policy": self.label, "outcome": outcome, **name}
            yield "standfast.resilience.calls", count, labels
        yield "standfast.bulkhead.active", self.active, name
        yield "standfast.bulkhead.queued", self.queued, name
        yield "standfast.bulkhead.rejected", self.rejected, name
        yield "standfast.bulkhead.limit", self.limit, name


INSTRUMENTS = {
    **telemetry.CALLS,
    "standfast.bulkhead.active": telemetry.Instrument("updown", "{call}", "Calls that run now"),
    "standfast.bulkhead.queued": telemetry.Instrument("updown", "{call}", "Callers that wait now"),
    "standfast.bulkhead.rejected": telemetry.Instrument(
        "counter", "{call}", "Calls that found no permit in time"
    ),
    "standfast.bulkhead.limit": telemetry.Instrument("gauge", "{call}", "Calls that may run"),
}
