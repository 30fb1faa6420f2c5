"""The threads of a `ThreadPoolBulkhead`, and their queue."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from standfast.clock import Clock
from standfast.errors import BulkheadFull
from standfast.resilience import telemetry
from standfast.resilience.deadline import Deadline
from standfast.resilience.forking import survives_fork
from standfast.resilience.functions import FINISHED, finished
from standfast.resilience.policy import Call


class Owner(Protocol):
    """The bulkhead of a pool, as far as its calls need it."""

    name: str

    @property
    def limit(self) -> int:
        """How many threads there may be."""
        ...

    def _needs_itself(self) -> BulkheadFull: ...


class Job:
    """One call on its way."""

    __slots__ = ("began", "deadline", "future", "late", "monotonic", "submitted", "took", "work")

    def __init__(
        self,
        pool: Pool,
        owner: Owner,
        clock: Clock,
        deadline: Deadline | None,
        function: Call,
        args: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        self.work = partial(contextvars.copy_context().run, function, *args, **kwargs)
        self.deadline = deadline
        self.late = False
        self.future: Future[Any] = _PoolFuture(pool, owner, self)
        self.monotonic = clock.monotonic
        self.submitted = self.monotonic()
        self.began: float | None = None
        self.took = 0.0

    def run(self) -> Callable[[], None] | None:
        """Make the call. Returns what tells its caller, or None if it was cancelled before."""
        deadline = self.deadline
        if deadline is not None and deadline.owner is not None and self.monotonic() >= deadline.at:
            self.late = True
            self.future.cancel()
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


def record_wait(name: str, job: Job, _: Future[Any]) -> None:
    """Tell how long a call of the bulkhead `name` has waited, if it has begun."""
    if job.began is not None:
        telemetry.record(
            "standfast.bulkhead.wait",
            job.began - job.submitted,
            {"name": name},
            description="How long callers waited for a permit, of those who had to",
        )


class _PoolFuture(Future[Any]):
    """A future that can be waited for inside the pool too, unless that would be for ever."""

    def __init__(self, pool: Pool, owner: Owner, job: Job) -> None:
        super().__init__()
        self._pool = pool
        self._owner = owner
        self._job = job

    def result(self, timeout: float | None = None) -> Any:
        """As of any future. Raises `BulkheadFull` where no thread is left to make the call."""
        pool = self._pool
        if self.done() or not pool.runs_here():
            return super().result(timeout)
        if not pool.wait_inside(self._job, self._owner.limit):
            self.cancel()
            raise self._owner._needs_itself()  # noqa: SLF001 - its own
        try:
            return super().result(timeout)
        finally:
            pool.waited_inside()


class Pool:
    """The threads and their queue."""

    def __init__(self, core: int, keep_alive: float, name: str) -> None:
        self.core, self.keep_alive, self.name = core, keep_alive, name
        self.mean: float | None = None  # of the calls' seconds, exponentially smoothed
        self.closed = False
        self.after_fork()
        survives_fork(self)

    def after_fork(self) -> None:
        """Begin with no thread and no job."""
        self.jobs: deque[Job] = deque()
        # Reentrant: a finalizer that runs while it is held may close a forgotten pool.
        self.lock = threading.RLock()
        self.work = threading.Condition(self.lock)
        self.threads = self.idle = 0
        self.inside = 0  # threads that wait for another call of this pool
        self._running: set[threading.Thread] = set()

    def runs_here(self) -> bool:
        """Whether this thread is one of the pool."""
        return threading.current_thread() in self._running

    def wait_inside(self, job: Job, maximum: int) -> bool:
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

    def add(self, job: Job, *, thread: bool) -> None:
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

    def _work(self, first: list[Job]) -> None:
        # A thread keeps its arguments as long as it lives; the job mustn't be among them.
        job: Job | None = first.pop()
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

    def _next(self) -> Job | None:
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
