"""`ThreadPoolBulkhead`: blocking calls in threads of their own, as many as you say.

Calls go to `core` threads first, then into the queue, then to more threads up to `maximum`, and
then they are rejected: the order of Java's ``ThreadPoolExecutor`` and resilience4j's thread pool
bulkhead. Python's own executor has neither a bound on its queue nor threads that end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Future
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar
from weakref import finalize

from standfast.checks import text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds, time_limit
from standfast.errors import BulkheadFull, ConfigurationError
from standfast.resilience import telemetry
from standfast.resilience.bulkhead.machine import place_call
from standfast.resilience.bulkhead.pool import Job, Pool, record_wait
from standfast.resilience.bulkhead.semaphore import INSTRUMENTS, TOO_LATE
from standfast.resilience.deadline import (
    SOON,
    Deadline,
    current,
    may_wait,
    telling_of_expiry,
    unenforced,
)
from standfast.resilience.functions import with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.running import current_task

P = ParamSpec("P")
R = TypeVar("R")


class ThreadPoolBulkhead(Policy):
    """Runs plain functions in its own threads and rejects with `BulkheadFull` what is too much.

    `core` threads are kept, up to `maximum` run when the queue of `queue` calls is full, and those
    beyond `core` end after `keep_alive` without work. A call that hasn't begun after `max_wait` is
    rejected too (None: it waits as long as it takes), and so is one that hasn't by the deadline
    around.

    Decorated, a plain function runs in the pool while its caller waits; from async code use
    ``await pool.run(function, …)``; `submit` gives a future. Context variables are those of the
    caller. A caller that is cancelled takes its call out of the queue; a call that has begun can't
    be stopped and keeps its thread until it returns. The threads are daemons: leave a ``with``
    block or `close` the pool to wait for what runs.

    A call may wait for another in the same pool as long as a thread is left to run that; when all
    would wait for each other, the last is rejected with `BulkheadFull`. ``StopIteration`` comes out
    as ``RuntimeError``, as it does of coroutines, for no future can carry it to an event loop.
    After ``os.fork`` the pool is empty in the child, and makes new threads there.
    """

    label = "thread_pool_bulkhead"

    def __init__(
        self,
        core: int,
        maximum: int | None = None,
        *,
        queue: int = 0,
        max_wait: Duration | None = None,
        keep_alive: Duration = "60s",
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, core)
        text(name)
        maximum = core if maximum is None else maximum
        whole(core, name="core")
        if whole(maximum, name="maximum") < core:
            raise ConfigurationError(f"maximum={maximum!r}: must be core={core!r} or more")
        whole(queue, name="queue", least=0)
        self._core, self._maximum, self._capacity = core, maximum, queue
        self._max_wait = time_limit(max_wait, name="max_wait")
        self._clock = clock
        self._monotonic = clock.monotonic
        self._pool = Pool(core, seconds(keep_alive, name="keep_alive"), name)
        self.name: str = name
        self.admitted: int = 0
        self.rejected: int = 0
        telemetry.watch(self, INSTRUMENTS)
        # The threads know only the inner pool, so that one which is forgotten ends.
        finalize(self, self._pool.close)

    def __repr__(self) -> str:
        return f"ThreadPoolBulkhead({self.name!r}, {self.active} of {self._maximum})"

    @property
    def active(self) -> int:
        """How many calls run now."""
        return self._pool.threads - self._pool.idle

    @property
    def queued(self) -> int:
        """How many calls wait for a thread now."""
        return len(self._pool.jobs)

    @property
    def threads(self) -> int:
        """How many threads there are now."""
        return self._pool.threads

    @property
    def limit(self) -> int:
        """How many calls may run at once."""
        return self._maximum

    # -- calls -----------------------------------------------------------------------------------

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Hand over a call and return its future. Raises `BulkheadFull`.

        Neither `max_wait` nor a deadline is applied: whoever holds the future may cancel it until
        the call begins.
        """
        return self._take(None, function, args, kwargs).future

    def _take(
        self, deadline: Deadline | None, function: Call, args: Any, kwargs: Mapping[str, Any]
    ) -> Job:
        """Take a call, which isn't to begin after its `deadline`."""
        pool = self._pool
        job = Job(pool, self, self._clock, deadline, function, args, kwargs)
        with pool.lock:
            if pool.closed:
                raise BulkheadFull(f"thread pool {self.name!r} is closed: it takes no more calls")
            pool.drop_cancelled()
            place = place_call(
                threads=pool.threads,
                idle=pool.idle,
                queued=len(pool.jobs),
                core=self._core,
                maximum=self._maximum,
                capacity=self._capacity,
            )
            if place != "reject":
                self.admitted += 1
                pool.add(job, thread=place == "thread")
        if place == "reject":
            raise self._full()
        job.future.add_done_callback(partial(record_wait, self.name, job))
        return job

    def around(self, call: Call) -> Call:
        """A function that runs `call` in the pool and waits for it."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            future = self._take(current(), call, args, kwargs).future
            try:
                with telling_of_expiry(future.cancel):
                    return self._result(future)
            except BaseException:
                future.cancel()  # a KeyboardInterrupt
                raise

        return wrapper

    def _result(self, future: Future[Any]) -> Any:
        """What came of a call, which isn't waited for longer than it may until it begins."""
        since = self._monotonic()
        while True:
            deadline = unenforced(self._clock)
            if deadline == 0 and future.cancel():
                raise self._full(late=True)
            if future.cancelled():  # it was too late to begin it, and the caller goes now
                time.sleep(SOON)
                continue
            left = may_wait(self._clock, since, self._max_wait)
            if left is not None and left <= 0:
                if future.cancel():
                    raise self._full()
                left = None  # it has begun
            try:
                return future.result(left)
            except TimeoutError:
                if future.done() and not future.cancelled():
                    raise  # the call's own
            except CancelledError:
                if not future.cancelled():
                    raise

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """Refused: coroutines run in the event loop, not in threads."""
        raise ConfigurationError(
            f"{getattr(call, '__qualname__', call)!r} is async: a thread pool runs plain "
            "functions. Use Bulkhead for it, or `await pool.run(function)` for a blocking function"
        )

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a plain function in the pool and await it. Raises `BulkheadFull`."""
        since, task = self._monotonic(), current_task()
        deadline = None if unenforced(self._clock, task) is None else current()
        job = self._take(deadline, function, args, kwargs)
        expired, timer = False, None
        loop = asyncio.get_running_loop()

        def look() -> None:
            nonlocal expired, timer
            left = may_wait(self._clock, since, self._max_wait, task)
            if left is not None and left > 0:
                timer = loop.call_later(left, look)
            elif left is not None:
                expired = job.future.cancel()

        look()
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            if expired or job.late:
                raise self._full(late=unenforced(self._clock, task) == 0) from None
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _needs_itself(self) -> BulkheadFull:
        with self._pool.lock:
            self.rejected += 1
        telemetry.span_event("bulkhead.rejected", name=self.name)
        return BulkheadFull(
            f"thread pool {self.name!r} is called from inside itself, and all of its "
            f"{self._pool.threads} threads wait for such calls, so that none is left to make them: "
            "give the inner calls a pool of their own"
        )

    def _full(self, *, late: bool = False) -> BulkheadFull:
        pool = self._pool
        with pool.lock:
            pool.drop_cancelled()
            self.rejected += 1
            waiting = len(pool.jobs)
            # Each thread frees itself once per mean call time.
            wait = pool.mean and pool.mean * (waiting + 1) / self._maximum
        telemetry.span_event("bulkhead.rejected", name=self.name)
        told = (
            f"thread pool {self.name!r} is full: {self._maximum} threads and {waiting} calls wait"
        )
        return BulkheadFull(told + (TOO_LATE if late else ""), retry_after=wait)

    # -- its end ---------------------------------------------------------------------------------

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls, finish those taken and, with `wait`, return when they are done."""
        self._pool.close()
        if wait:
            self._pool.join()

    def __enter__(self) -> ThreadPoolBulkhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome, and how full it is."""
        name = {"name": self.name}
        for outcome, count in (("admitted", self.admitted), ("rejected", self.rejected)):
            labels = {"policy": self.label, "outcome": outcome, **name}
            yield "standfast.resilience.calls", count, labels
        yield "standfast.bulkhead.active", self.active, name
        yield "standfast.bulkhead.queued", self.queued, name
        yield "standfast.bulkhead.rejected", self.rejected, name
        yield "standfast.bulkhead.limit", self._maximum, name
