"""`Bulkhead`: at most so many calls at once, and a bounded queue for the rest.

One bulkhead serves tasks and threads together, in one queue, first come first served. The machine
(`machine.py`) holds the permits; here are the lock, held for a few steps of it and never across a
call, and the two ways to wait. The lock is an ``RLock`` so that a finalizer which gives a permit
back, in the middle of a step, can't deadlock.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol

from standfast.checks import text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, time_limit
from standfast.errors import BulkheadFull, ConfigurationError
from standfast.resilience import telemetry
from standfast.resilience.bulkhead.machine import Permits
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.functions import FINISHED, finished, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy


class _Waiter(Protocol):
    def wake(self) -> bool:
        """Tell that the permit is there. False if nobody is there any more."""
        ...


class Bulkhead(Policy):
    """Lets at most `limit` calls run at once and rejects with `BulkheadFull` what is too much.

    With neither `max_wait` nor `queue`, a call that finds no free permit is rejected at once. With
    `max_wait` it waits up to that long (seconds or text). With `queue` at most so many wait at
    once, for as long as it takes if there is no `max_wait`.

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
        # The loop of a waiting task may have been closed under it; then the next one has the turn.
        while waiter is not None and not waiter.wake():
            with self._lock:
                waiter = permits.release(self._monotonic())

    def _queue(self, waiter: _Waiter) -> bool:
        """Stand in line. True if a permit has come free meanwhile. Raises `BulkheadFull`."""
        with self._lock:
            if self._take():
                return True
            if self._permits.wait(waiter):
                return False
        raise self._full()

    def _full(self) -> BulkheadFull:
        with self._lock:
            self.rejected += 1
            estimate = self._permits.estimate(self._monotonic())
        telemetry.span_event("bulkhead.rejected", name=self.name)
        return BulkheadFull(
            f"bulkhead {self.name!r} is full: {self.limit} calls run and {self.queued} wait",
            retry_after=estimate,
        )

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
            self._release()

    # -- waiting ---------------------------------------------------------------------------------

    async def _wait_in_task(self) -> None:
        waiter = _TaskWaiter()
        if self._queue(waiter):
            return
        since = self._monotonic()
        timer = None
        if self._max_wait is not None:
            timer = asyncio.create_task(self._expire(waiter, self._max_wait))
        try:
            await waiter.future
        except BaseException:  # also a cancellation: its place in the line goes to the next
            if not waiter.expired:
                self._abandon(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if waiter.expired:
            raise self._full()
        self._waited(since)

    async def _expire(self, waiter: _TaskWaiter, after: float) -> None:
        await self._clock.sleep(after)
        with self._lock:
            waiter.expired = self._permits.withdraw(waiter)
        if waiter.expired:
            waiter.wake()

    def _wait_in_thread(self) -> None:
        waiter = _ThreadWaiter()
        if self._queue(waiter):
            return
        since = self._monotonic()
        try:
            in_time = waiter.event.wait(self._max_wait)
        except BaseException:  # a KeyboardInterrupt
            self._abandon(waiter)
            raise
        if not in_time:
            with self._lock:
                withdrawn = self._permits.withdraw(waiter)
            if withdrawn:
                raise self._full()
        self._waited(since)

    def after_fork(self) -> None:
        """Free all permits: the calls of other threads are in the parent only.

        One that this thread is in gives back a permit that is counted no more, and may.
        """
        unlock(self._lock)
        self._permits = Permits(self._permits.limit, self._permits.places)

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


class _TaskWaiter:
    """A task that waits in its own event loop, woken from any thread."""

    __slots__ = ("expired", "future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.expired = False

    def wake(self) -> bool:
        try:
            self.loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:  # its loop is closed
            return False
        return True

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _ThreadWaiter:
    """A thread that waits."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = threading.Event()

    def wake(self) -> bool:
        self.event.set()
        return True


INSTRUMENTS = {
    **telemetry.CALLS,
    "standfast.bulkhead.active": telemetry.Instrument("updown", "{call}", "Calls that run now"),
    "standfast.bulkhead.queued": telemetry.Instrument("updown", "{call}", "Callers that wait now"),
    "standfast.bulkhead.rejected": telemetry.Instrument(
        "counter", "{call}", "Calls that found no permit in time"
    ),
    "standfast.bulkhead.limit": telemetry.Instrument("gauge", "{call}", "Calls that may run"),
}
