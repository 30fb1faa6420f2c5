"""One open SQLite file: who writes to it and who reads, each in turn."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from standfast.affinity import Affinity, running_loop
from standfast.backends.sqlite.connection import (
    ConnectionThreads,
    Session,
    Work,
    snapshot,
    transact,
)
from standfast.backends.sqlite.hints import Hints
from standfast.backends.sqlite.writer import Writer
from standfast.errors import StoreError

T = TypeVar("T")


class SqliteFile:
    """The connections to one file, which the ports and transactions share.

    `now` tells the time, and `hints` of the commits of other processes. The options are those of
    `SqliteDatabase`, in seconds.
    """

    def __init__(
        self,
        path: str,
        *,
        busy_timeout: float,
        readers: int,
        inline_below: float,
        now: Callable[[], float],
    ) -> None:
        self.path = path
        self.now = now
        self._writer = Writer(path, busy_timeout=busy_timeout, inline_below=inline_below)
        self._readers = ConnectionThreads(
            path, count=readers, busy_timeout=busy_timeout, name="standfast-sqlite-reader"
        )
        self._affinity: Affinity | None = None
        self._sessions: dict[Session, asyncio.Task[Any] | None] = {}
        # Asked on the writer's connection, for which the commits of this process don't count.
        self.hints = Hints(lambda: self.write(_data_version, brief=True))

    async def open(self) -> None:
        """Connect. Raises `StoreError`."""
        self._affinity = Affinity(f"{self.path}")
        await self._writer.open()
        await self._readers.open()

    async def close(self) -> None:
        """Finish what was accepted, then disconnect."""
        await self.hints.close()
        await self._readers.close()
        await self._writer.close()

    def write(self, work: Work[T], *, brief: bool = False) -> asyncio.Future[T]:
        """Have `work` done on the writer's connection, in turn.

        `brief` work may be done at once, in the caller's thread; if the lock is taken then, it is
        begun anew on the writer's.
        """
        affinity = self._affinity
        if affinity is not None and running_loop() is not affinity.loop:
            affinity.refuse()
        if self._sessions:
            self.refuse_nesting()
        return self._writer.write(work) if brief else self._writer.submit(work)

    def transact(self, work: Work[T], *, brief: bool = False) -> asyncio.Future[T]:
        """As `write`, in a transaction: committed when `work` returns."""
        return self.write(lambda con: transact(con, work), brief=brief)

    def hurry(self, work: Work[T]) -> tuple[asyncio.Future[T], bool]:
        """As `transact`, before all that waits for the writer, or with the end of a transaction.

        The second answer: a transaction of this process is open, so nobody else can write before it
        has ended, when `work` is done as part of it.
        """
        return self._writer.hurry(work)

    def read(self, work: Work[T]) -> asyncio.Future[T]:
        """Have `work` done on a reader's connection, in a transaction: it sees one moment."""
        affinity = self._affinity
        if affinity is not None and running_loop() is not affinity.loop:
            affinity.refuse()
        return self._readers.submit(lambda con: snapshot(con, work))

    def begin(self, task: asyncio.Task[Any] | None) -> Session:
        """Take the writer for a transaction of that task, in turn."""
        affinity = self._affinity
        if affinity is not None and running_loop() is not affinity.loop:
            affinity.refuse()
        session = Session(asyncio.get_running_loop(), self.path, self._writer.urgent)
        self._writer.submit(session.run)
        self._sessions[session] = task
        return session

    def ended(self, session: Session) -> None:
        """The session is about to let go of the writer."""
        self._sessions.pop(session, None)

    def refuse_nesting(self) -> None:
        """A task that holds the writer and asks for it again would wait for itself for ever."""
        task = asyncio.current_task()
        if any(its_task is task for its_task in self._sessions.values()):
            raise StoreError(
                "this task has a transaction open, and SQLite has one writer: use that "
                "transaction (`tx.start(...)`, `tx.send(...)`), or end its block first"
            )


def _data_version(con: sqlite3.Connection) -> int:
    (version,) = con.execute("PRAGMA data_version").fetchone()
    return int(version)
