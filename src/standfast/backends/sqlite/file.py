"""One open SQLite file: who writes to it and who reads, each in turn."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from standfast.affinity import Affinity, running_loop
from standfast.backends.sqlite.connection import (
    ConnectionThreads,
    Work,
    snapshot,
    transact,
)
from standfast.backends.sqlite.forking import check_forked
from standfast.backends.sqlite.hints import Hints
from standfast.backends.sqlite.session import Session
from standfast.backends.sqlite.writer import Writer
from standfast.errors import StoreError, StoreUnavailable
from standfast.shielding import shielded
from standfast.stepping import is_nested, nested

T = TypeVar("T")
log = logging.getLogger("standfast.sqlite")
LOOKS_EVERY = 1.0
"""Seconds between two looks whether the file still has its name."""


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
        self._place = path
        self._identity: tuple[int, int] | None = None
        self._is_lost = False
        self._look_at: asyncio.TimerHandle | None = None
        # Asked on the writer's connection, for which the commits of this process don't count.
        self.hints = Hints(lambda: self.write(_data_version, brief=True))

    async def open(self) -> None:
        """Connect. Raises `StoreError`, `ConfigurationError`."""
        check_forked(self.path)
        self._affinity = Affinity(f"{self.path}")
        try:
            await self._writer.open()
            await self._readers.open()
        except BaseException:  # also a cancellation: what isn't open has no threads
            await shielded(self.close())
            raise
        self._begin_to_look()

    async def close(self) -> None:
        """Finish what was accepted, then disconnect."""
        if self._look_at is not None:
            self._look_at.cancel()
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
        if self._is_lost:
            raise self._lost()
        if self._sessions or nested() is not None:
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
        if self._is_lost:
            raise self._lost()
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
        if self._is_lost:
            raise self._lost()
        session = Session(asyncio.get_running_loop(), self.path, self._writer.urgent)
        self._writer.submit(session.run)
        self._sessions[session] = task
        return session

    def _begin_to_look(self) -> None:
        self._place = os.path.abspath(self.path)  # the process may go to another folder
        self._identity = _identity(self._place)
        self._is_lost = False
        self._look()

    def _look(self) -> None:
        """Look, now and then, whether others would still find this file under its name.

        One that was deleted, or replaced by another, is there for whoever has it open: what is
        written to it is lost with this process.
        """
        was_lost, self._is_lost = self._is_lost, _identity(self._place) != self._identity
        if self._is_lost and not was_lost:
            log.error("%s", self._lost())
        elif was_lost and not self._is_lost:
            log.warning("%s is back where it was", self.path)
        self._look_at = asyncio.get_running_loop().call_later(LOOKS_EVERY, self._look)

    def _lost(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the file {self.path} was deleted or replaced while it was open here, so that what is "
            "written to it would be lost: put it back, or stop this process and start it anew"
        )

    def refuse_waiting(self, told: str) -> None:
        """Answer all that waits for the writer, while a transaction has it, with `told`."""
        self._writer.refuse_waiting(f"{self.path}: {told}")

    def ended(self, session: Session) -> None:
        """The session is about to let go of the writer."""
        self._sessions.pop(session, None)

    def refuse_nesting(self) -> None:
        """Whoever holds the writer and asks for it again would wait for itself for ever."""
        task = asyncio.current_task() if self._sessions else None
        if is_nested() or any(its_task is task for its_task in self._sessions.values()):
            raise StoreError(
                "there is a transaction open here, and SQLite has one writer: use that "
                "transaction (`tx.start(...)`, `tx.signal(...)`), or end its block first"
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _data_version(con: sqlite3.Connection) -> int:
    (version,) = con.execute("PRAGMA data_version").fetchone()
    return int(version)
