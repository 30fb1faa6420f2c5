"""Threads that own connections, and how the event loop talks to them.

A thread of its own with a plain queue answers faster than an executor, and keeps every statement of
a connection in one order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from standfast.affinity import running_loop
from standfast.backends.sqlite.errors import DRIVER_ERRORS, translate
from standfast.backends.sqlite.forking import Pause, connected, disconnected
from standfast.errors import StoreError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Tell = Callable[[Any, Exception | None], None]

log = logging.getLogger("standfast.sqlite")
CHECKPOINT_PAGES = 8000
AGAIN_AFTER = 0.5
"""Seconds until a file that couldn't be opened again after a fork is tried once more."""


def connect(path: str, *, busy_timeout: float) -> sqlite3.Connection:
    """A connection set up for durable writes; `busy_timeout` in seconds."""
    con = sqlite3.connect(
        path,
        timeout=busy_timeout,
        isolation_level=None,
        cached_statements=256,
        check_same_thread=False,  # one thread at a time, but not always the same (`Writer`)
    )
    try:
        _use_wal(con, busy_timeout)
        con.execute("PRAGMA synchronous = FULL")
        con.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone doesn't reach the disk there
        con.execute("PRAGMA foreign_keys = ON")
        con.execute("PRAGMA temp_store = MEMORY")
        con.execute("PRAGMA cache_size = -16384")
        # Keys fall all over their index, so a checkpoint writes a page for each: fewer, larger
        # ones (32 MB of log) write a page once for many changes.
        con.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    except BaseException:  # also an interrupt: nobody else would close it
        con.close()
        raise
    return con


def _use_wal(con: sqlite3.Connection, patience: float) -> None:
    """Switch to WAL. Several who do so at once get BUSY without any wait, so wait here."""
    until = time.monotonic() + patience
    while True:
        try:
            if con.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                con.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.005)


def transact(con: sqlite3.Connection, work: Work[T]) -> T:
    """Run `work` in a write transaction: committed when it returns, rolled back when it raises."""
    con.execute("BEGIN IMMEDIATE")
    try:
        result = work(con)
        con.execute("COMMIT")
    except BaseException:  # also an interrupt: an open transaction would lock out all others
        rollback(con)
        raise
    return result


def snapshot(con: sqlite3.Connection, work: Work[T]) -> T:
    """Run `work` in a read transaction, so that all it reads is of one moment."""
    con.execute("BEGIN")
    try:
        return work(con)
    finally:
        rollback(con)


def rollback(con: sqlite3.Connection) -> None:
    """Undo the open transaction, if SQLite hasn't done so itself."""
    if con.in_transaction:
        con.execute("ROLLBACK")


def outcome(work: Work[T], con: sqlite3.Connection, path: str) -> tuple[T | None, Exception | None]:
    """Run `work`: its result, or its error in Standfast's terms."""
    try:
        return work(con), None
    except DRIVER_ERRORS as error:
        translated = translate(error, path)
        translated.__cause__ = error
        return None, translated
    except Exception as error:  # noqa: BLE001 - handed to the future's owner
        return None, error


def settle(future: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
    """On the event loop: give the future its outcome, unless its owner has gone."""
    if future.done():
        return
    if error is None:
        future.set_result(result)  # type: ignore[arg-type]  # without an error it is one
    else:
        future.set_exception(error)


class Urgent:
    """Work for the one writer that goes before all that waits, and rides an open transaction.

    While a transaction of this process is open nobody else can write, in any process. What it takes
    along is carried out at its end, as part of it; and after it, where it is rolled back.
    """

    def __init__(self) -> None:
        self.jobs: deque[tuple[Work[Any], Tell]] = deque()
        self._lock = threading.Lock()
        self._is_open = False

    def add(self, work: Work[Any], tell: Tell) -> bool:
        """Add work, and who is to be told; whether a transaction is open that takes it along."""
        with self._lock:
            self.jobs.append((work, tell))
            return self._is_open

    def opened(self) -> bool:
        """On the thread: a transaction has begun. False where work has come before: do that first.

        Whoever added it was told that it rides no transaction.
        """
        with self._lock:
            self._is_open = not self.jobs
            return self._is_open

    def take(self) -> list[tuple[Work[Any], Tell]]:
        """On the thread: what there is. An open transaction takes no more along."""
        with self._lock:
            self._is_open = False
            jobs = list(self.jobs)
            self.jobs.clear()
        return jobs


class ConnectionThreads:
    """`count` threads with a connection each, that serve one queue.

    With one thread, work is done strictly in the order of submission.
    """

    def __init__(self, path: str, *, count: int, busy_timeout: float, name: str) -> None:
        self.path = path
        self._count = count
        self._busy_timeout = busy_timeout
        self._name = name
        self._queue: SimpleQueue[tuple[asyncio.Future[Any], Work[Any]] | Pause | None]
        self._queue = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsettled = 0
        self.urgent = Urgent()

    async def open(self) -> None:
        """Start the threads and connect. Raises `StoreError`; then it is to be closed."""
        loop = self._loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        connected(self)
        opened: list[asyncio.Future[None]] = []
        for number in range(self._count):
            ready = loop.create_future()
            opened.append(ready)
            thread = threading.Thread(
                target=self._serve, args=(loop, ready), name=f"{self._name}-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        results = await asyncio.gather(*opened, return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have `work` done by a thread. Work whose future is cancelled before its turn is left."""
        if self._loop is None:
            raise StoreError(f"{self.path}: the database isn't open. Call `await open()` first")
        future: asyncio.Future[T] = self._loop.create_future()
        self._unsettled += 1
        self._queue.put((future, work))
        return future

    async def close(self) -> None:
        """Finish what was submitted, then disconnect."""
        self._loop = None
        for _ in self._threads:
            self._queue.put(None)
        threads, self._threads = self._threads, []
        for thread in threads:
            await asyncio.to_thread(thread.join)
        disconnected(self)

    def pause(self) -> list[Pause]:
        """See `Pausable.pause`."""
        loop, pauses = self._loop, [Pause() for _ in self._threads]
        if loop is None:
            return []

        def begin() -> None:
            self._unsettled += len(pauses)  # so that nobody borrows a connection meanwhile
            for pause in pauses:
                self._queue.put(pause)

        if running_loop() is loop:
            begin()
        else:
            post(loop, begin)
        return pauses

    def _serve(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None]) -> None:
        try:
            con = connect(self.path, busy_timeout=self._busy_timeout)
        except Exception as problem:  # noqa: BLE001 — who opens waits for it, and would for ever
            told: Exception = problem
            if isinstance(problem, DRIVER_ERRORS):
                told = translate(problem, self.path)
                told.__cause__ = problem
            post(loop, settle, ready, None, told)
            return
        self._connected(con)
        post(loop, settle, ready, None, None)
        try:
            while (job := self._queue.get()) is not None:
                if isinstance(job, Pause):
                    con = self._paused(job, con)
                    post(loop, self._resumed)
                    continue
                if self.urgent.jobs:
                    self._hurry(con)
                future, work = job
                result, error = None, None
                if not future.cancelled():
                    result, error = self._do(work, con)
                post(loop, self._done, future, result, error)
                del job, future, work, result, error
        finally:
            con.close()

    def _paused(self, pause: Pause, con: sqlite3.Connection) -> sqlite3.Connection:
        """On the thread: a connection for the one that was closed while the process forked."""
        if pause.over.is_set():
            return con
        con.close()
        pause.closed.set()
        pause.over.wait()
        while True:
            try:
                con = connect(self.path, busy_timeout=self._busy_timeout)
            except DRIVER_ERRORS as problem:
                log.error("%s can't be opened again after a fork: %s", self.path, problem)
                time.sleep(AGAIN_AFTER)
            else:
                self._connected(con)
                return con

    def _resumed(self) -> None:
        self._unsettled -= 1

    def _connected(self, con: sqlite3.Connection) -> None:
        """On the thread: its connection is there."""

    def _hurry(self, con: sqlite3.Connection) -> None:
        """On the thread: do what is urgent."""
        for work, tell in self.urgent.take():
            tell(*self._do(partial(transact, work=work), con))

    def _do(self, work: Work[T], con: sqlite3.Connection) -> tuple[T | None, Exception | None]:
        """On the thread: do one piece of work."""
        return outcome(work, con, self.path)

    def _done(self, future: asyncio.Future[T], result: T | None, error: Exception | None) -> None:
        self._unsettled -= 1
        settle(future, result, error)


def post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> None:
    """Call on the event loop, from another thread."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        # The loop was closed with work in flight: nobody is left to hear of its outcome.
        if not loop.is_closed():
            raise
