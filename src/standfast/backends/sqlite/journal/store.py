"""The journal's store on SQLite, and its part in a transaction."""

# ruff: noqa: S608 - only column names and placeholders are put into the SQL text

from __future__ import annotations

import sqlite3
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import UUID

from standfast.backends.sqlite.connection import transact
from standfast.backends.sqlite.driver import commit, run, touched_by
from standfast.backends.sqlite.errors import REFUSED, translate
from standfast.backends.sqlite.file import SqliteFile
from standfast.backends.sqlite.journal import reading, writing
from standfast.backends.sqlite.leases import holding
from standfast.errors import StaleWriter, StandfastError
from standfast.ports.database import StoreTransaction, carry_out, of_dialect
from standfast.ports.journal import (
    Append,
    Filter,
    Instance,
    Loaded,
    Mail,
    Purged,
    Start,
    StartAnswer,
    Stuck,
    recovery_pause,
)

Kinds = Sequence[tuple[str, str, int]]
_BRIEF = 16_384
"""Characters that are written in about the time of a commit's flush."""
_FEW = 4
_FREE = "UPDATE standfast_instances SET owner = NULL, wake_at = ? WHERE owner = ?"
# What an owner has, how often each was reclaimed in a row with this time, and its last fact.
_RECOVERIES = (
    "SELECT id, CASE WHEN stood_at = last THEN recoveries + 1 ELSE 1 END, last FROM ("
    " SELECT i.id, i.recoveries, i.stood_at,"
    " (SELECT max(j.seq) FROM standfast_journal AS j WHERE j.id = i.id) AS last"
    " FROM standfast_instances AS i WHERE i.owner = ?)"
)
_RECLAIM = (
    "UPDATE standfast_instances SET owner = NULL, wake_at = ?, recoveries = ?, stood_at = ?"
    " WHERE id = ?"
)


class SqliteJournalWriter:
    """`JournalWriter` on SQLite. Ask `SqliteJournal` for it."""

    def __init__(self, tx: StoreTransaction, now: Callable[[], float]) -> None:
        self._tx = of_dialect(tx, "sqlite")
        self._now = now

    async def start(self, starts: Sequence[Start]) -> list[StartAnswer]:
        """See `JournalWriter.start`."""
        return await carry_out(self._tx, writing.start(starts, owner=None, riding=True))

    async def append(self, owner: int, append: Append) -> None:
        """See `JournalWriter.append`."""
        await carry_out(self._tx, writing.append(owner, (append,), now=self._now()))

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalWriter.send`."""
        return await carry_out(self._tx, writing.send(mails, now=self._now()))

    async def instance(self, id: UUID) -> Instance | None:
        """See `JournalWriter.instance`."""
        return await carry_out(self._tx, writing.look_up(writing.BY_ID, id.bytes))

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalWriter.by_key`."""
        return await carry_out(self._tx, writing.look_up(writing.BY_KEY, pattern, name, key))


class SqliteJournal:
    """`JournalStore` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def start(self, starts: Sequence[Start], *, owner: int | None) -> Future[list[StartAnswer]]:
        """See `JournalStore.start`."""
        return self._file.write(
            partial(commit, script=partial(writing.start, starts, owner=owner)),
            brief=len(starts) == 1 and len(starts[0].fact) < _BRIEF,
        )

    def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Future[Sequence[StandfastError | None]]:
        """See `JournalStore.append`."""
        one = appends[0] if len(appends) == 1 else None
        if one is not None and writing.is_one_fact(one):
            return self._append_fact(owner, one)
        now, path = self._file.now(), self._file.path

        def all_of_them(con: sqlite3.Connection) -> None:
            run(con, writing.append(owner, appends, now=now))

        def one_by_one(con: sqlite3.Connection) -> list[StandfastError | None]:
            return [_append_alone(con, owner, append, now=now, path=path) for append in appends]

        def work(con: sqlite3.Connection) -> Sequence[StandfastError | None]:
            try:
                transact(con, all_of_them)
            except REFUSED as error:
                return transact(con, one_by_one) if one is None else [_answer(error, path)]
            return [None] * len(appends)

        return self._file.write(work, brief=one is not None and _is_brief(one))

    def _append_fact(self, owner: int, one: Append) -> Future[Sequence[StandfastError | None]]:
        def work(con: sqlite3.Connection) -> Sequence[StandfastError | None]:
            try:
                if touched_by(con, writing.append_fact(owner, one)) != 1:
                    run(con, writing.refuse(owner, (one,)))
            except REFUSED as error:
                return [_answer(error, self._file.path)]
            return [None]

        return self._file.write(work, brief=len(one.facts[0]) < _BRIEF)

    async def claim(self, owner: int, kinds: Kinds, *, now: float, limit: int) -> list[Loaded]:
        """See `JournalStore.claim`."""

        def work(con: sqlite3.Connection) -> list[Loaded]:
            ids = reading.due(con, kinds, now=now, limit=limit)
            run(con, holding(owner))
            con.executemany(
                "UPDATE standfast_instances SET owner = ?, wake_at = NULL WHERE id = ?",
                [(owner, id.bytes) for id in ids],
            )
            return reading.load(con, ids)

        return await self._file.transact(work)

    async def take(self, owner: int, id: UUID) -> Loaded | None:
        """See `JournalStore.take`."""

        def work(con: sqlite3.Connection) -> Loaded | None:
            run(con, holding(owner))
            taken = con.execute(
                "UPDATE standfast_instances SET owner = ?, wake_at = NULL"
                " WHERE id = ? AND owner IS NULL",
                (owner, id.bytes),
            )
            return reading.load(con, [id])[0] if taken.rowcount else None

        return await self._file.transact(work)

    async def next_wake(self, kinds: Kinds) -> float | None:
        """See `JournalStore.next_wake`."""
        return await self._file.read(lambda con: reading.next_wake(con, kinds))

    async def collect(self, owner: int, ids: Sequence[UUID]) -> list[Mail]:
        """See `JournalStore.collect`."""
        return await self._file.read(lambda con: reading.collect(con, owner, ids))

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalStore.send`."""
        now = self._file.now()
        script = partial(writing.send, mails, now=now)
        return await self._file.write(partial(commit, script=script))

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """See `JournalStore.set_aside`. Raises `StaleWriter` if `owner` doesn't own it."""
        script = partial(writing.set_aside, owner, id, status, cause, now=self._file.now())
        await self._file.write(partial(commit, script=script))

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """See `JournalStore.reassign`."""
        now = self._file.now()

        def work(con: sqlite3.Connection) -> list[bool]:
            return [
                con.execute(
                    "UPDATE standfast_instances SET version = ?, updated_at = ?"
                    " WHERE id = ? AND owner IS NULL AND finished_at IS NULL",
                    (version, now, id.bytes),
                ).rowcount
                > 0
                for id in ids
            ]

        return await self._file.transact(work)

    async def flag_unclaimable(
        self, pattern: str, *, due_before: float, status: str, cause: str
    ) -> list[Instance]:
        """See `JournalStore.flag_unclaimable`."""
        now = self._file.now()

        def look(con: sqlite3.Connection) -> list[tuple[str, int]]:
            return reading.unclaimable(con, pattern, due_before=due_before, status=status, now=now)

        def work(con: sqlite3.Connection) -> list[Instance]:
            flagged: list[Instance] = []
            for name, version in look(con):
                text = cause.replace("{name}", name).replace("{version}", str(version))
                rows = con.execute(
                    "UPDATE standfast_instances SET status = ?, cause = ?, updated_at = ?"
                    " WHERE owner IS NULL AND pattern = ? AND name = ? AND version = ?"
                    " AND finished_at IS NULL"
                    f" AND wake_at < ? AND status <> ? RETURNING {reading.COLUMNS}",
                    (status, text, now, pattern, name, version, due_before, status),
                ).fetchall()
                flagged += map(reading.instance, rows)
            return flagged

        # Nearly always there is nothing to do, and the reader knows without the write lock.
        if not await self._file.read(look):
            return []
        return await self._file.transact(work)

    async def release(self, owner: int) -> None:
        """See `JournalStore.release`."""
        now = self._file.now()
        await self._file.transact(lambda con: con.execute(_FREE, (now, owner)).rowcount)

    async def reclaim(self, *, pause: float = 0.0, longest: float = 0.0) -> int:
        """See `JournalStore.reclaim`."""
        now = self._file.now()

        def work(con: sqlite3.Connection) -> int:
            freed = [
                (now + recovery_pause(times, pause, longest), times, last, id)
                for owner in reading.orphaned(con)
                for id, times, last in con.execute(_RECOVERIES, (owner,)).fetchall()
            ]
            con.executemany(_RECLAIM, freed)
            return len(freed)

        # As above.
        if not await self._file.read(reading.orphaned):
            return 0
        return await self._file.transact(work)

    async def owned_by(self, owner: int) -> Sequence[UUID]:
        """See `JournalStore.owned_by`."""
        return await self._file.read(lambda con: reading.owned_by(con, owner))

    async def owned(self) -> Mapping[int, int]:
        """See `JournalStore.owned`."""
        return await self._file.read(reading.owned)

    def within(self, tx: StoreTransaction) -> SqliteJournalWriter:
        """See `JournalStore.within`."""
        return SqliteJournalWriter(tx, self._file.now)

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        """See `JournalStore.load`. In the order of `ids`."""
        return await self._file.read(lambda con: reading.load(con, ids))

    async def find(
        self, filter: Filter, *, limit: int, after: UUID | None = None
    ) -> list[Instance]:
        """See `JournalStore.find`."""
        return await self._file.read(
            lambda con: reading.find(con, filter, limit=limit, after=after)
        )

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalStore.by_key`."""
        return await self._file.read(lambda con: reading.by_key(con, pattern, name, key))

    async def count(self, pattern: str) -> Mapping[tuple[str, str], int]:
        """See `JournalStore.count`. Reads the whole table."""
        return await self._file.read(lambda con: reading.count(con, pattern))

    async def stuck(self, pattern: str) -> list[Stuck]:
        """See `JournalStore.stuck`."""
        return await self._file.read(lambda con: reading.stuck(con, pattern))

    async def purge(
        self,
        pattern: str,
        *,
        finished_before: float,
        limit: int,
        ids: Sequence[UUID] = (),
        after: object | None = None,
    ) -> Purged:
        """See `JournalStore.purge`. Leaves those that a worker owns."""
        before = after if isinstance(after, tuple) else (finished_before, b"")

        def work(con: sqlite3.Connection) -> Purged:
            keys, rest = reading.doomed(con, pattern, before=before, limit=limit, ids=ids)
            for table, column in (("journal", "id"), ("mail", "recipient"), ("instances", "id")):
                con.executemany(f"DELETE FROM standfast_{table} WHERE {column} = ?", keys)
            return Purged(len(keys), rest)

        return await self._file.transact(work)

    async def count_finished(self, pattern: str, *, finished_before: float) -> int:
        """See `JournalStore.count_finished`."""
        return await self._file.read(
            lambda con: reading.count_finished(con, pattern, finished_before=finished_before)
        )

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """See `JournalStore.on_due`. Any commit of another process is a hint, without an id."""
        return self._file.hints.subscribe("due", partial(callback, None))


def _append_alone(
    con: sqlite3.Connection, owner: int, append: Append, *, now: float, path: str
) -> StandfastError | None:
    """Within a transaction, write it whole or not at all."""
    answer = None
    con.execute("SAVEPOINT standfast_append")
    try:
        run(con, writing.append(owner, (append,), now=now))
    except REFUSED as error:
        con.execute("ROLLBACK TO standfast_append")
        answer = _answer(error, path)
    con.execute("RELEASE standfast_append")
    return answer


def _answer(error: Exception, path: str) -> StandfastError:
    """The answer for one append that can't be written."""
    if isinstance(error, StaleWriter):
        return error
    why = translate(error, path)
    why.__cause__ = error
    return why


def _is_brief(append: Append) -> bool:
    return sum(map(len, append.facts)) < _BRIEF and len(append.starts) + len(append.mails) <= _FEW
