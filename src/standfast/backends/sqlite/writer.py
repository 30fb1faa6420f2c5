"""The connection that writes, and who makes a commit with it: its thread, or the event loop.

Handing a commit to a thread and back takes longer than a fast disk takes for the commit itself: two
processors are woken, and the interpreter's lock goes to and fro with every statement. A commit of
many rows is worth that, for the event loop goes on meanwhile. A small one that nothing else waits
beside is faster, and cheaper for the loop too, when the loop makes it itself. But only while
commits are fast: how long a slow one takes nobody knows beforehand.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial
from typing import Any, TypeVar

from standfast.backends.sqlite.connection import (
    CHECKPOINT_PAGES,
    ConnectionThreads,
    Work,
    outcome,
    post,
)
from standfast.backends.sqlite.session import Session
from standfast.errors import StoreError, StoreUnavailable

T = TypeVar("T")

_FADES = 0.8
_SLOW_AT_FIRST = 1.0  # seconds: some 30 fast commits must come before one is trusted to be fast
_IN_A_ROW = 100


class Writer(ConnectionThreads):
    """One connection on a thread of its own, that the event loop may borrow for a brief write.

    `inline_below`: seconds that commits must have stayed under lately for that. A slow one is
    forgotten by a fifth with each commit after it.
    """

    def __init__(self, path: str, *, busy_timeout: float, inline_below: float) -> None:
        super().__init__(path, count=1, busy_timeout=busy_timeout, name="standfast-sqlite-writer")
        self._inline_below = inline_below
        self._lately = _SLOW_AT_FIRST
        self._in_a_row = 0
        self._waits = True

    def hurry(self, work: Work[T]) -> tuple[asyncio.Future[T], bool]:
        """Have `work` done in a transaction, before all that waits.

        Also answers whether a transaction of this process is open, which it rides: then it is done
        only at the end of that, and nobody else can write before.
        """
        loop = self._loop
        if loop is None:
            raise StoreError(f"{self.path}: the database isn't open. Call `await open()` first")
        future: asyncio.Future[T] = loop.create_future()
        self._unsettled += 1
        rides = self.urgent.add(work, partial(post, loop, self._done, future))
        self.submit(_nothing)  # so that the thread looks
        return future, rides

    def refuse_waiting(self, told: str) -> None:
        """Answer all that waits for the thread with `StoreUnavailable`, but what is urgent.

        Only while a transaction has the thread, which else would take from the queue too.
        """
        kept: list[Any] = []
        while not self._queue.empty():
            job = self._queue.get()
            if not isinstance(job, tuple) or job[1] is _nothing:
                kept.append(job)
                continue
            future, work = job
            session = getattr(work, "__self__", None)
            if isinstance(session, Session):
                session.refuse(StoreUnavailable(told))
                future.cancel()  # nobody waits for it, but for what was submitted
            self._done(future, None, StoreUnavailable(told))
        for job in kept:
            self._queue.put(job)

    def write(self, work: Work[T]) -> asyncio.Future[T]:
        """As `submit`, for what is brief: at once, in the caller's thread, if that is faster."""
        # Another process's lock, and the tidying of the log (a checkpoint), take long: those are
        # for the thread, so it gets a write now and then.
        if (
            self._unsettled
            or self._lately >= self._inline_below
            or self._in_a_row >= _IN_A_ROW
            or self._loop is None
        ):
            return self.submit(work)
        result, error = self._do(work, self._con, waits=False)
        if error is not None and _is_busy(error.__cause__):
            self._lately = max(self._lately, self._inline_below)
            return self.submit(work)
        self._in_a_row += 1
        future: asyncio.Future[T] = self._loop.create_future()
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is one
        else:
            future.set_exception(error)
        return future

    def _connected(self, con: sqlite3.Connection) -> None:
        self._con, self._waits = con, True

    def _do(
        self, work: Work[T], con: sqlite3.Connection, *, waits: bool = True
    ) -> tuple[T | None, Exception | None]:
        """Do it, and note how long it took. `waits`: for the lock of another process, and for the
        tidying of the log.
        """
        if self._waits != waits:
            self._wait_for_others(con, waits)
        if waits:
            self._in_a_row = 0
        changes, begun = con.total_changes, time.perf_counter()
        done = outcome(work, con, self.path)
        if con.total_changes != changes:  # what flushed nothing says nothing about the disk
            self._lately = max(time.perf_counter() - begun, self._lately * _FADES)
        return done

    def _wait_for_others(self, con: sqlite3.Connection, waits: bool) -> None:
        self._waits = waits
        con.execute(f"PRAGMA busy_timeout = {round(1000 * self._busy_timeout) if waits else 0}")
        con.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES if waits else 0}")


def _nothing(con: sqlite3.Connection) -> None:
    pass


def _is_busy(error: BaseException | None) -> bool:
    return (
        isinstance(error, sqlite3.OperationalError)
        and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    )
