"""The database of a simulation: in memory, with crashes before and after each commit."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from standfast.backends.memory.database import MemoryDatabase, MemoryJournal
from standfast.errors import ConstraintViolated, StandfastError, StoreError, StoreUnavailable
from standfast.ports.database import Mark, Row, StoreTransaction
from standfast.ports.journal import Append, Instance, Mail, Start, Started

if TYPE_CHECKING:
    from standfast.testing.simulation.play import Play


class SimulatedDatabase(MemoryDatabase):
    """A database whose commits go wrong as the play's seed decides."""

    def __init__(self, play: Play, schema: str) -> None:
        super().__init__(clock=play.clock)
        self.play = play
        self.sql: sqlite3.Connection | None = None
        if schema:
            self.sql = sqlite3.connect(":memory:", isolation_level=None)
            self.sql.row_factory = sqlite3.Row
            self.sql.executescript(schema)
        self._journal = SimulatedJournal(self)
        self.journal = self._journal

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[StoreTransaction]:
        play, sql, place = self.play, self.sql, self.play.next_commit()
        dead = play.process_id
        async with super()._transaction() as inner:
            tx = SimulatedTransaction(inner, sql, play)
            if sql is not None:
                sql.execute("BEGIN")
            try:
                yield tx
                await play.before_commit(place, dead, tx.appends)
            except BaseException:
                if sql is not None:
                    sql.execute("ROLLBACK")
                raise
            if sql is not None:
                sql.execute("COMMIT")
        for append in tx.appends:
            play.committed(append)
        await play.after_commit(place, dead, tx.appends)


class SimulatedJournal(MemoryJournal):
    """The journal of a `SimulatedDatabase`."""

    def __init__(self, database: SimulatedDatabase) -> None:
        super().__init__(database)
        self._play = database.play

    async def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Sequence[StandfastError | None]:
        """See `JournalStore.append`: a process may die before it or after it."""
        play, place = self._play, self._play.next_commit()
        process = play.process_id
        await play.before_commit(place, process, appends)
        answers = await super().append(owner, appends)
        written = [a for a, problem in zip(appends, answers, strict=True) if problem is None]
        for append in written:
            play.committed(append)
        await play.after_commit(place, process, written)
        return answers

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """The engine gives an instance up only when something is wrong with it."""
        self._play.violated("set aside", f"the engine can't go on with the saga: {cause}")
        await super().set_aside(owner, id, status=status, cause=cause)


class SimulatedTransaction:
    """A transaction in memory, with the user's own rows in an SQLite database in memory."""

    def __init__(self, inner: StoreTransaction, sql: sqlite3.Connection | None, play: Play) -> None:
        self._inner = inner
        self._sql = sql
        self._play = play
        self.appends: list[Append] = []

    def _run(self, sql: str, args: tuple[Any, ...]) -> sqlite3.Cursor:
        if self._sql is None:
            self._play.loop.refuse(
                f"SQL was run ({sql!r}) without tables: give simulate(schema='CREATE TABLE …'), or "
                "your own transaction"
            )
        values = {str(number): value for number, value in enumerate(args, 1)}
        try:
            return self._sql.execute(sql, values)
        except sqlite3.IntegrityError as error:
            raise ConstraintViolated(f"{sql}: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(f"{sql}: {error}") from error

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        return max(0, self._run(sql, args).rowcount)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        return self._run(sql, args).fetchall()

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = self._run(sql, args).fetchone()
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = self._run(sql, args).fetchone()
        return None if row is None else row[0]

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """See `StoreTransaction.start`."""
        return await self._inner.start(starts, owner=owner)

    async def append(self, owner: int, append: Append) -> StandfastError | None:
        """See `StoreTransaction.append`."""
        problem = await self._inner.append(owner, append)
        if problem is None:
            self.appends.append(append)
        return problem

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `StoreTransaction.send`."""
        return await self._inner.send(mails)

    async def instance(self, id: UUID) -> Instance | None:
        """See `StoreTransaction.instance`."""
        return await self._inner.instance(id)

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `StoreTransaction.mark`."""
        return await self._inner.mark(key, operation, reason, at=at)

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `StoreTransaction.keep_result`."""
        await self._inner.keep_result(key, operation, result)


def answer_lost() -> StoreUnavailable:
    """The error of a commit that was written, and whose answer was lost."""
    return StoreUnavailable("simulated: the commit was written, but its answer was lost")
