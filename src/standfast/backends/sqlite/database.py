"""SQLite as the database: one file, one writer, readers beside it.

Guarantees: what is answered is on disk (WAL, ``synchronous=FULL``); every batch is one commit,
whole or not at all, also when the process is killed. Other processes may start, signal and read,
but one worker runs at a time. Keep the file on a local disk: SQLite's locks don't hold on network
shares.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

from standfast.backends.sqlite import schema
from standfast.backends.sqlite.connection import ConnectionThreads, Session, Work, transact
from standfast.backends.sqlite.journal import SqliteJournal
from standfast.backends.sqlite.leases import SqliteLeases
from standfast.backends.sqlite.transaction import SqliteTransaction
from standfast.backends.sqlite.writer import Writer
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreError, StoreUnavailable, Unsupported
from standfast.ports.database import Capabilities, Migration, StoreTransaction
from standfast.ports.journal import JournalStore
from standfast.ports.leases import WorkerLeases

T = TypeVar("T")
_PREFIX = "sqlite:///"
_OLDEST = (3, 37, 0)


class SqliteDatabase:
    """A `Database` in an SQLite file.

    `url` is ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``; the file is made when it
    isn't there, its folder isn't. `busy_timeout` is how long to wait for another process's write,
    then it is `StoreUnavailable`. `readers` is how many reads may run at once. As long as commits
    lately took less than `inline_below`, a small one that finds no other under way is made by the
    event loop's own thread, which it holds up for that long; 0 leaves every commit to the writer's
    thread. `clock` tells the time of leases: the machine's own, unless you test.

    Raises `ConfigurationError` for a wrong option.
    """

    capabilities = Capabilities(
        durable=True, many_workers=False, many_processes=True, write_lanes=1
    )
    migrations: Sequence[Migration] = schema.MIGRATIONS

    def __init__(
        self,
        url: str,
        *,
        busy_timeout: Duration = "5s",
        readers: int = 2,
        inline_below: Duration = "1ms",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if readers < 1:
            raise ConfigurationError(f"readers={readers!r}: must be at least 1")
        self.url = url
        self.path = _path(url)
        self.now = clock.now
        patience = seconds(busy_timeout, name="busy_timeout", positive=False)
        self._writer = Writer(
            self.path,
            busy_timeout=patience,
            inline_below=seconds(inline_below, name="inline_below", positive=False),
        )
        self._readers = ConnectionThreads(
            self.path, count=readers, busy_timeout=patience, name="standfast-sqlite-reader"
        )
        self._transactions: set[SqliteTransaction] = set()
        self._open = False
        self._journal = SqliteJournal(self)
        self.journal: JournalStore = self._journal
        self.leases: WorkerLeases = SqliteLeases(self)

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`, or `CorruptRecord` if it isn't an SQLite file."""
        if self._open:
            return
        if sqlite3.sqlite_version_info < _OLDEST:
            raise Unsupported(
                f"SQLite {sqlite3.sqlite_version} is too old: Python must be linked with "
                f"{'.'.join(map(str, _OLDEST))} or newer"
            )
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise StoreUnavailable(f"{self.path}: the folder {folder} doesn't exist: create it")
        await self._writer.open()
        await self._readers.open()
        self._open = True

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        if not self._open:
            return
        self._open = False
        await self._journal.close()
        await self._readers.close()
        await self._writer.close()

    async def schema_version(self) -> int:
        """The number of the last migration applied, 0 for none."""
        return await self.read(schema.schema_version)

    async def migrate(self) -> list[Migration]:
        """Apply what is missing, atomically and safely beside others who do the same."""
        return await self.write(
            lambda con: transact(con, lambda con: schema.migrate(con, self.migrations))
        )

    async def clock_offset(self, clock: Clock) -> float:
        """Always 0: there is no clock but the machine's own."""
        return 0.0

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. Nothing else writes meanwhile, in any process.

        Cancelled while the commit itself runs, it may be committed.
        """
        return SqliteTransaction(self)

    async def count_marks(self, *, before: float) -> int:
        """How many marks were set before that time (seconds since the epoch)."""

        def work(con: sqlite3.Connection) -> int:
            sql = "SELECT count(*) FROM standfast_marks WHERE at < ?"
            (number,) = con.execute(sql, (before,)).fetchone()
            return int(number)

        return await self.read(work)

    async def purge_marks(self, *, before: float, limit: int) -> int:
        """Delete up to `limit` marks set before that time (seconds since the epoch)."""

        def work(con: sqlite3.Connection) -> int:
            return con.execute(
                "DELETE FROM standfast_marks WHERE (key, operation) IN (SELECT key, operation"
                " FROM standfast_marks WHERE at < ? ORDER BY at LIMIT ?)",
                (before, limit),
            ).rowcount

        return await self.write(lambda con: transact(con, work))

    def write(self, work: Work[T], *, brief: bool = False) -> asyncio.Future[T]:
        """Have `work` done on the writer's connection, in turn. For this backend's own parts.

        `brief` work may be done at once, in the caller's thread.
        """
        if self._transactions:
            self.refuse_nesting()
        return self._writer.write(work) if brief else self._writer.submit(work)

    def read(self, work: Work[T]) -> asyncio.Future[T]:
        """Have `work` done on a reader's connection. For this backend's own parts."""
        return self._readers.submit(work)

    def begin(self, transaction: SqliteTransaction) -> Session:
        """Take the writer for a transaction, in turn."""
        session = Session(asyncio.get_running_loop(), self.path)
        self._writer.submit(session.run)
        self._transactions.add(transaction)
        return session

    def ended(self, transaction: SqliteTransaction) -> None:
        """The transaction doesn't hold the writer any longer."""
        self._transactions.discard(transaction)

    def refuse_nesting(self) -> None:
        """A task that holds the writer and asks for it again would wait for itself for ever."""
        task = asyncio.current_task()
        if any(transaction.task is task for transaction in self._transactions):
            raise StoreError(
                "this task has a transaction open, and SQLite has one writer: use that "
                "transaction (`tx.start(...)`, `tx.send(...)`), or end its block first"
            )


def _path(url: str) -> str:
    if not url.startswith(_PREFIX) or len(url) == len(_PREFIX):
        raise ConfigurationError(
            f"url={url!r}: write sqlite:///relative.db or sqlite:////absolute/path.db"
        )
    path = url[len(_PREFIX) :]
    if path == ":memory:" or path.startswith("file:"):
        raise ConfigurationError(
            f"url={url!r}: a file is needed, for several connections share it. "
            "For a store in memory use memory://"
        )
    return path
