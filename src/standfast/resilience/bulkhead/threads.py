"""`ThreadPoolBulkhead`: blocking calls in threads of their own, as many as you say.

Calls go to `core` threads first, then into the queue, then to more threads up to `maximum`, and
then they are rejected: the order of Java's ``ThreadPoolExecutor`` and resilience4j's thread pool
bulkhead. Python's own executor has neither a bound on its queue nor threads that end.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
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
from standfast.resilience.bulkhead.semaphore import INSTRUMENTS
from standfast.resilience.forking import survives_fork
from standfast.resilience.functions import FINISHED, finished, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy

P = ParamSpec("P")
R = TypeVar("R")


class ThreadPoolBulkhead(Policy):
    """Runs plain functions in its own threads and rejects with `BulkheadFull` what is too much.

    `core` threads are kept, up to `maximum` run when the queue of `queue` calls is full, and those
    beyond `core` end after `keep_alive` without work. A call that hasn't begun after `max_wait` is
    rejected too (None: it waits as long as it takes).

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
        self._monotonic = clock.monotonic
        self._pool = _Pool(core, seconds(keep_alive, name="keep_alive"), name)
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

        `max_wait` isn't applied: whoever holds the future may cancel it until the call begins.
        """
        pool = self._pool
        context = contextvars.copy_context()
        job = _Job(partial(context.run, function, *args, **kwargs), self)
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
        job.future.add_done_callback(partial(_record, self.name, job))
        return job.future

    def around(self, call: Call) -> Call:
        """A function that runs `call` in the pool and waits for it."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            future = self.submit(call, *args, **kwargs)
            try:
                return future.result(self._max_wait)
            except TimeoutError:
                # Either the wait is over or the call itself raised it, or it has begun meanwhile.
                if future.cancel():
                    raise self._full() from None
                return future.result()
            except BaseException:
                future.cancel()  # a KeyboardInterrupt
                raise

        return wrapper

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """Refused: coroutines run in the event loop, not in threads."""
        raise ConfigurationError(
            f"{getattr(call, '__qualname__', call)!r} is async: a thread pool runs plain "
            "functions. Use Bulkhead for it, or `await pool.run(function)` for a blocking function"
        )

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a plain function in the pool and await it. Raises `BulkheadFull`."""
        future = self.submit(function, *args, **kwargs)
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = future.cancel()

        loop = asyncio.get_running_loop()
        timer = None if self._max_wait is None else loop.call_later(self._max_wait, expire)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if expired:
                raise self._full() from None
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

    def _full(self) -> BulkheadFull:
        pool = self._pool
        with pool.lock:
            self.rejected += 1
            waiting = len(pool.jobs)
            # Each thread frees itself once per mean call time.
            wait = pool.mean and pool.mean * (waiting + 1) / self._maximum
        telemetry.span_event("bulkhead.rejected", name=self.name)
        return BulkheadFull(
            f"thread pool {self.name!r} is full: {self._maximum} threads and {waiting} calls wait",
            retry_after=wait,
        )

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


class _Job:
    """One call on its way."""

    __slots__ = ("began", "future", "monotonic", "submitted", "took", "work")

    def __init__(self, work: partial[Any], bulkhead: ThreadPoolBulkhead) -> None:
        self.work = work
        self.future: Future[Any] = _PoolFuture(bulkhead, self)
        self.monotonic = bulkhead._monotonic  # noqa: SLF001 - its own
        self.submitted = self.monotonic()
        self.began: float | None = None
        self.took = 0.0

    def run(self) -> Callable[[], None] | None:
        """Make the call. Returns what tells its caller, or None if it was cancelled before."""
        if not self.future.set_running_or_notify_cancel():
            return None
        self.began = self.monotonic()
        try:
            result = self.work()
            if type(result) not in FINISHED:
                finished(self.work.args[0], result)
        except StopIteration as error:
            ended = RuntimeError("a call in a thread pool raised StopIteration")
            ended.__cause__ = error
            return partial(self.future.set_exception, ended)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            return partial(self.future.set_exception, error)
        finally:
            self.took = self.monotonic() - self.began
        return partial(self.future.set_result, result)


def _record(name: str, job: _Job, _: Future[Any]) -> None:
    if job.began is not None:
        telemetry.record(
            "standfast.bulkhead.wait",
            job.began - job.submitted,
            {"name": name},
            description="How long callers waited for a permit, of those who had to",
        )


class _PoolFuture(Future[Any]):
    """A future that can be waited for inside the pool too, unless that would be for ever."""

    def __init__(self, bulkhead: ThreadPoolBulkhead, job: _Job) -> None:
        super().__init__()
        self._job = job
        self._bulkhead = bulkhead

    def result(self, timeout: float | None = None) -> Any:
        """As of any future. Raises `BulkheadFull` where no thread is left to make the call."""
        pool = self._bulkhead._pool  # noqa: SLF001 - its own
        if self.done() or not pool.runs_here():
            return super().result(timeout)
        if not pool.wait_inside(self._job, self._bulkhead.limit):
            self.cancel()
            raise self._bulkhead._needs_itself()  # noqa: SLF001 - its own
        try:
            return super().result(timeout)
        finally:
            pool.waited_inside()


class _Pool:
    """The threads and their queue."""

    def __init__(self, core: int, keep_alive: float, name: str) -> None:
        self.core, self.keep_alive, self.name = core, keep_alive, name
        self.mean: float | None = None  # of the calls' seconds, exponentially smoothed
        self.closed = False
        self.after_fork()
        survives_fork(self)

    def after_fork(self) -> None:
        """Begin with no thread and no job."""
        self.jobs: deque[_Job] = deque()
        # Reentrant: a finalizer that runs while it is held may close a forgotten pool.
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.threads = self.idle = 0
        self.inside = 0  # threads that wait for another call of this pool
        self._running: set[threading.Thread] = set()

    def runs_here(self) -> bool:
        """Whether this thread is one of the pool."""
        return threading.current_thread() in self._running

    def wait_inside(self, job: _Job, maximum: int) -> bool:
        """One of the threads is about to wait for `job`. False if it would be for ever."""
        with self.lock:
            self.inside += 1
            if self.inside < self.threads or job not in self.jobs:
                return True
            if self.threads < maximum:
                self.jobs.remove(job)
                self.add(job, thread=True)
                return True
            self.inside -= 1
            return False

    def waited_inside(self) -> None:
        """One of the threads has ended its wait."""
        with self.lock:
            self.inside -= 1

    def add(self, job: _Job, *, thread: bool) -> None:
        """Take a job in, with a thread of its own or for whoever is free. Holds the lock."""
        if not thread:
            self.jobs.append(job)
            self.work.notify()
            return
        worker = threading.Thread(
            target=self._work, args=([job],), name=f"bulkhead {self.name}", daemon=True
        )
        worker.start()
        self.threads += 1
        self._running.add(worker)

    def drop_cancelled(self) -> None:
        """Forget jobs whose callers have gone, so that they take up no place."""
        if any(job.future.cancelled() for job in self.jobs):
            self.jobs = deque(job for job in self.jobs if not job.future.cancelled())

    def close(self) -> None:
        """Let every thread end when the queue is empty."""
        with self.lock:
            self.closed = True
            self.work.notify_all()

    def join(self) -> None:
        """Wait for all threads but this one."""
        with self.lock:
            running = self._running - {threading.current_thread()}
        for thread in running:
            thread.join()

    def _work(self, first: list[_Job]) -> None:
        # A thread keeps its arguments as long as it lives; the job mustn't be among them.
        job: _Job | None = first.pop()
        while job is not None:
            tell = job.run()
            if tell is not None:
                # This thread is free before its caller hears of it, who may come back at once.
                with self.lock:
                    self.mean = job.took if self.mean is None else self.mean * 0.9 + job.took * 0.1
                    self.idle += 1
                tell()
            with self.lock:
                self.idle -= tell is not None
                tell = job = None  # hold no result while idle
                job = self._next()

    def _next(self) -> _Job | None:
        """The next job, or None when this thread is to end. Holds the lock but while it waits."""
        while True:
            if self.jobs:
                return self.jobs.popleft()
            if self.closed:
                break
            spare = self.threads > self.core
            self.idle += 1
            notified = self.work.wait(self.keep_alive if spare else None)
            self.idle -= 1
            if spare and not notified and not self.jobs and self.threads > self.core:
                break
        self.threads -= 1
        self._running.discard(threading.current_thread())
        return None
