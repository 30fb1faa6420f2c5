"""One transaction that is driven from the event loop, on the thread of a connection."""

from __future__ import annotations

import asyncio
import sqlite3
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from standfast.backends.sqlite.connection import (
    Urgent,
    Work,
    outcome,
    post,
    rollback,
    settle,
    transact,
)
from standfast.errors import StoreError

T = TypeVar("T")


class Session:
    """Exclusive use of a connection for one transaction, driven from the event loop.

    `run` is given to a thread as work; it holds the thread until `commit` or `rollback`. What is
    `urgent` rides along.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, path: str, urgent: Urgent) -> None:
        self._loop = loop
        self._path = path
        self._urgent = urgent
        self._queue: SimpleQueue[tuple[asyncio.Future[Any], Work[Any] | None, bool]] = SimpleQueue()
        self._refused: Exception | None = None

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have `work` done in the transaction."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._put(future, work, False)
        return future

    def refuse(self, error: Exception) -> None:
        """It gets no thread any more: what was submitted is answered with `error`, and will be."""
        self._refused = error
        while not self._queue.empty():
            self._put(*self._queue.get())

    def _put(self, future: asyncio.Future[Any], work: Work[Any] | None, last: bool = False) -> None:
        if self._refused is None:
            self._queue.put((future, work, last))
        else:
            settle(future, None, None if work is None else self._refused)

    def commit(self) -> asyncio.Future[bool]:
        """Commit, unless the future is cancelled before its turn: then roll back."""
        future: asyncio.Future[bool] = self._loop.create_future()

        def work(con: sqlite3.Connection) -> bool:
            commits = not future.cancelled()
            con.execute("COMMIT" if commits else "ROLLBACK")
            return commits

        self._put(future, work, True)
        return future

    def rollback(self) -> asyncio.Future[None]:
        """Undo everything, if SQLite hasn't done so itself after an error."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._put(future, None, True)
        return future

    def _begin(self, con: sqlite3.Connection) -> Exception | None:
        while True:
            _, failed = outcome(lambda con: con.execute("BEGIN IMMEDIATE"), con, self._path)
            if failed is not None or self._urgent.opened():
                return failed
            rollback(con)
            for work, tell in self._urgent.take():
                tell(*outcome(partial(transact, work=work), con, self._path))

    def run(self, con: sqlite3.Connection) -> None:
        """Serve the session, on the connection's thread."""
        failed = self._begin(con)
        before: Exception | None = None  # what the last statement failed with
        last = False
        while not last:
            future, work, last = self._queue.get()
            riders = self._urgent.take() if last else []
            rode: list[tuple[Any, Exception | None]] = []
            result: Any = None
            error: Exception | None = None
            if work is not None:
                if failed is None and not con.in_transaction:
                    why = "" if before is None else f" ({before})"
                    failed = StoreError(
                        f"{self._path}: SQLite rolled the transaction back, because a statement in "
                        f"it had failed{why}. Let the error of a statement end the block"
                    )
                    failed.__cause__ = before
                error = failed
                if error is None:
                    rode = [outcome(rider, con, self._path) for rider, _ in riders]
                    result, error = outcome(work, con, self._path)
                    before = error
            if last:
                _, undone = outcome(rollback, con, self._path)
                error = error or undone
                if riders and result is not True:  # what rode along was rolled back
                    anew = [partial(transact, work=rider) for rider, _ in riders]
                    rode = [outcome(rider, con, self._path) for rider in anew]
            post(self._loop, settle, future, result, error)
            for (_, tell), (answer, problem) in zip(riders, rode, strict=True):
                tell(answer, problem)
            del future, work
