"""Runs the ``def`` functions of sagas in threads, so that the event loop goes on meanwhile.

The threads are our own, for what those of `concurrent.futures` and anyio don't do: they are
daemons, so that one which hangs doesn't hold up the end of the process; a call that nobody waits
for any more keeps its thread, and is counted and named; and calls that have ended go back to the
loop many at once, which is what makes short ones cheap.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from standfast.coordination.stacks import where_thread
from standfast.resilience.forking import survives_fork
from standfast.saga.blocking import AsyncFunction, MakeBlocking, NotBegun
from standfast.saga.context import Context
from standfast.saga.thread_call import Home, ThreadCall

log = logging.getLogger("standfast.saga")

IDLE = 10.0
"""Seconds after which a thread that has nothing to do ends."""


class Threads:
    """The threads of one app: at most `limit` at once, begun when they are needed.

    `blocking` makes the transactions that ``def`` functions are given. A call that was given up
    keeps its thread until it ends, for nothing can stop it.
    """

    def __init__(self, blocking: MakeBlocking, limit: int) -> None:
        self.blocking: MakeBlocking = blocking
        self.limit: int = limit
        self.wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
        """What each ``def`` function is wrapped in, when its saga is added: what a framework does
        around a call, say."""
        self.given_up: Counter[tuple[str, str]] = Counter()
        """By saga and step, how many calls were given up so far that went on in their threads."""
        self._numbers = itertools.count(1)
        self._home: Home | None = None
        self.after_fork()
        survives_fork(self)

    def after_fork(self) -> None:
        """Begin anew: a child process has none of the threads."""
        # Re-entrant: in the middle, the garbage collector may close a coroutine that gives one up.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[ThreadCall] = queue.SimpleQueue()
        self._count = 0
        # Each item is put in and taken out in one go, by the loop and by any thread.
        self._open: dict[ThreadCall, None] = {}
        self._hung: dict[ThreadCall, None] = {}

    @property
    def hung(self) -> int:
        """How many threads are kept by calls that were given up."""
        return len(self._hung)

    @property
    def busy(self) -> int:
        """How many threads run calls that somebody waits for."""
        return max(0, min(len(self._open), self._count) - self.hung)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread of those that there may be."""
        return max(0, len(self._open) - self._count)

    @property
    def hindrance(self) -> str:
        """Why no ``def`` function runs here before the process is restarted; "" where they do."""
        if self.hung < self.limit:
            return ""
        return (
            f"all {self.limit} threads are kept by functions of steps that were given up, and "
            "still run: the log says where. Restart the process"
        )

    def share(self, saga: str, limit: int | None) -> Share:
        """See `Blocking.share`."""
        return Share(self, saga, limit)

    # -- in the loop -------------------------------------------------------------------------

    def home(self) -> Home:
        """That of the event loop that runs here."""
        loop, home = asyncio.get_running_loop(), self._home
        if home is None or home.loop is not loop:
            home = self._home = Home(loop)
        return home

    def submit(self, call: ThreadCall) -> None:
        """Have the next thread that is free make a call.

        It fails with `RuntimeError` where the system gives not a single thread.
        """
        with self._lock:  # or the last thread may leave just now
            self._open[call] = None
            self._queue.put(call)
            if len(self._open) <= self._count or self._count >= self.limit:
                return
            self._count += 1
        name = f"standfast-step-{next(self._numbers)}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError as error:  # those that there are must do
            with self._lock:
                self._count -= 1
                is_none = not self._count
            if is_none and call.withdraw():
                self.forget(call)
                call.fail(error)
                self._hand_back(call)

    def forget(self, call: ThreadCall) -> None:
        """A call was withdrawn: no thread will make it."""
        self._open.pop(call, None)

    def hang(self, call: ThreadCall) -> bool:
        """Note that a call was given up; whether it goes on."""
        self._hung[call] = None
        if call.ended:  # its thread may have looked before
            self._hung.pop(call, None)
        return self.is_hung(call)

    def is_hung(self, call: ThreadCall) -> bool:
        """Whether a call goes on though it was given up."""
        return call in self._hung

    # -- in the threads ----------------------------------------------------------------------

    def _work(self) -> None:
        calls = self._queue
        while True:
            try:
                call = calls.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if calls.empty():
                        self._count -= 1
                        return
                continue
            if call.run():
                self._open.pop(call, None)
                self._hung.pop(call, None)
                self._hand_back(call)
            del call  # or it would be kept until the next one comes

    def _hand_back(self, call: ThreadCall) -> None:
        for home in (call.home, self._home):  # the newer one, where that loop is closed
            try:
                if home is not None:
                    home.tell(call)
                return
            except RuntimeError:
                continue


class Share:
    """What one saga has of an app's threads: `limit` at once, so that it leaves some to others."""

    def __init__(self, threads: Threads, saga: str, limit: int | None) -> None:
        self._threads = threads
        self._saga = saga
        self._limit = limit
        self._taken: dict[ThreadCall, None] = {}
        self._waiting: deque[ThreadCall] = deque()

    def awaited(self, function: Callable[..., Any], *, transactional: bool) -> AsyncFunction:
        """See `Awaitables.awaited`: it is called in a thread, in a copy of the context."""
        threads = self._threads
        function = threads.wrap(function)

        async def in_thread(*args: Any) -> Any:
            call = ThreadCall(self, function, args, threads.home())
            self._begin(call)
            try:
                await call.waiter
            except BaseException as error:
                self._give_up(call, error)
                raise
            return call.outcome()

        async def in_transaction(*args: Any) -> Any:
            call = ThreadCall(self, function, args, threads.home())
            call.args = (*args[:-1], threads.blocking(args[-1], call.complete))
            self._begin(call)
            try:
                await call.attend()
            except BaseException as error:
                self._give_up(call, error)
                raise
            call.close()
            return call.outcome()

        return in_transaction if transactional else in_thread

    def back(self, call: ThreadCall) -> None:
        """See `Owner.back`."""
        call.is_back()
        if call.ended and self._limit is not None:
            self._taken.pop(call, None)
            self._go_on()

    def _begin(self, call: ThreadCall) -> None:
        if self._limit is None:
            self._threads.submit(call)
            return
        self._waiting.append(call)
        self._go_on()

    def _go_on(self) -> None:
        assert self._limit is not None
        while self._waiting and len(self._taken) < self._limit:
            call = self._waiting.popleft()
            self._taken[call] = None
            self._threads.submit(call)

    def _give_up(self, call: ThreadCall, error: BaseException) -> None:
        """Nobody waits for a call any more, because of `error`, which ended its attempt.

        Raises `NotBegun` in its place where no thread had begun.
        """
        call.close()
        if call.withdraw():
            self._threads.forget(call)
            if call in self._taken:
                del self._taken[call]
                self._go_on()
            elif self._limit is not None:
                self._waiting.remove(call)
            if isinstance(error, asyncio.CancelledError):
                raise NotBegun(*error.args) from None
        elif self._threads.hang(call):
            self._tell(call)

    def _tell(self, call: ThreadCall) -> None:
        threads, ctx = self._threads, call.args[2]
        assert isinstance(ctx, Context)
        threads.given_up[self._saga, ctx.step] += 1
        log.error(
            "saga %s %s: attempt %d of %s was given up, but its function goes on in a thread, "
            "which nothing can stop: what it still does may come beside the next attempt. It keeps "
            "its place, one of %d, until it ends. It is here:\n%s",
            self._saga,
            ctx.saga_id,
            ctx.attempt,
            ctx.step,
            threads.limit,
            where_thread(call.thread),
            extra=dict(ctx.log.extra or {}),
        )
        if threads.hindrance:
            log.error("no `def` step runs here any more: %s", threads.hindrance)
        elif self._limit is not None and sum(map(threads.is_hung, self._taken)) >= self._limit:
            log.error(
                "no `def` step of saga %s runs here any more: all of its %d threads are kept by "
                "functions of steps that were given up, and still run. Restart the process",
                self._saga,
                self._limit,
            )
