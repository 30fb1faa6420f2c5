"""The journal on SQLite."""

# ruff: noqa: S608 - only column names and placeholders are put into the SQL text

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from asyncio import Future
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from standfast.backends.sqlite import reading, writing
from standfast.backends.sqlite.connection import Work, snapshot, transact
from standfast.backends.sqlite.leases import kinds_from
from standfast.errors import StaleWriter, StandfastError, StoreError
from standfast.ports.journal import Append, Filter, Instance, Loaded, Mail, Start, Started

if TYPE_CHECKING:
    from standfast.backends.sqlite.database import SqliteDatabase

T = TypeVar("T")
Kinds = Sequence[tuple[str, str, int]]
_POLL = 0.05
"""Seconds between looks for commits of other processes, while somebody has subscribed."""
_BRIEF = 16_384
"""Characters that are written in about the time of a commit's flush."""
_FEW = 4


class SqliteJournal:
    """`JournalStore` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._callbacks: list[Callable[[UUID | None], None]] = []
        self._poll: asyncio.Task[None] | None = None

    def start(self, starts: Sequence[Start], *, owner: int | None) -> Future[list[Started]]:
        """See `JournalStore.start`."""
        return self._database.write(
            lambda con: transact(con, lambda con: writing.start(con, starts, owner=owner)),
            brief=len(starts) == 1 and len(starts[0].fact) < _BRIEF,
        )

    def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Future[Sequence[StandfastError | None]]:
        """See `JournalStore.append`."""
        one = appends[0] if len(appends) == 1 else None
        if one is not None and writing.is_one_fact(one):
            return self._append_fact(owner, one)
        now, path = self._database.now(), self._database.path

        def all_of_them(con: sqlite3.Connection) -> None:
            writing.append(con, owner, appends, now=now)

        def one_by_one(con: sqlite3.Connection) -> list[StandfastError | None]:
            return writing.append_each(con, owner, appends, now=now, path=path)

        def work(con: sqlite3.Connection) -> Sequence[StandfastError | None]:
            try:
                transact(con, all_of_them)
            except writing.REFUSED:
                return transact(con, one_by_one)
            return [None] * len(appends)

        return self._database.write(work, brief=one is not None and _is_brief(one))

    def _append_fact(self, owner: int, one: Append) -> Future[Sequence[StandfastError | None]]:
        def by_itself(con: sqlite3.Connection) -> list[StandfastError | None]:
            now, path = self._database.now(), self._database.path
            return writing.append_each(con, owner, [one], now=now, path=path)

        def work(con: sqlite3.Connection) -> Sequence[StandfastError | None]:
            try:
                writing.append_fact(con, owner, one)
            except writing.REFUSED:
                return transact(con, by_itself)
            return [None]

        return self._database.write(work, brief=len(one.facts[0]) < _BRIEF)

    async def claim(self, owner: int, kinds: Kinds, *, now: float, limit: int) -> list[Loaded]:
        """See `JournalStore.claim`. With an owner whose lease is lost: `StaleWriter`."""

        def work(con: sqlite3.Connection) -> list[Loaded]:
            if not writing.has_lease(con, owner):
                raise writing.lost(owner)
            ids = reading.due(con, kinds, now=now, limit=limit)
            con.executemany(
                "UPDATE standfast_instances SET owner = ?, wake_at = NULL WHERE id = ?",
                [(owner, id.bytes) for id in ids],
            )
            return reading.load(con, ids)

        return await self._write(work)

    async def next_wake(self, kinds: Kinds) -> float | None:
        """See `JournalStore.next_wake`."""
        return await self._read(lambda con: reading.next_wake(con, kinds))

    async def collect(self, owner: int, ids: Sequence[UUID]) -> list[Mail]:
        """See `JournalStore.collect`."""
        return await self._read(lambda con: reading.collect(con, owner, ids))

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalStore.send`."""
        now = self._database.now()
        return await self._write(lambda con: writing.send(con, mails, now=now))

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """See `JournalStore.set_aside`. Raises `StaleWriter` if `owner` doesn't own it."""
        now = self._database.now()

        def work(con: sqlite3.Connection) -> None:
            touched = con.execute(
                "UPDATE standfast_instances SET status = ?, cause = ?, owner = NULL,"
                " wake_at = NULL, updated_at = ? WHERE id = ? AND owner = ?",
                (status, cause, now, id.bytes, owner),
            ).rowcount
            if not touched:
                raise StaleWriter(f"instance {id} isn't owned by worker {owner}")

        await self._write(work)

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """See `JournalStore.reassign`."""
        now = self._database.now()

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

        return await self._write(work)

    async def flag_unclaimable(
        self, pattern: str, *, due_before: float, status: str, cause: str
    ) -> list[Instance]:
        """See `JournalStore.flag_unclaimable`."""
        now = self._database.now()

        def look(con: sqlite3.Connection) -> list[tuple[str, int]]:
            return _unclaimable(con, pattern, due_before=due_before, status=status, now=now)

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
        if not await self._read(look):
            return []
        return await self._write(work)

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        """See `JournalStore.load`. In the order of `ids`."""
        return await self._read(lambda con: reading.load(con, ids))

    async def find(
        self,
        filter: Filter,
        *,
        limit: int,
        after: UUID | None = None,
    ) -> list[Instance]:
        """See `JournalStore.find`."""
        return await self._read(lambda con: reading.find(con, filter, limit=limit, after=after))

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalStore.by_key`."""
        return await self._read(lambda con: reading.by_key(con, pattern, name, key))

    async def count(self, pattern: str) -> Mapping[tuple[str, str], int]:
        """See `JournalStore.count`. Reads the whole table."""
        return await self._read(lambda con: reading.count(con, pattern))

    async def purge(self, pattern: str, *, finished_before: float, limit: int) -> int:
        """See `JournalStore.purge`. Leaves those that a worker owns."""

        def work(con: sqlite3.Connection) -> int:
            keys = con.execute(
                "SELECT id FROM standfast_instances WHERE pattern = ? AND finished_at < ?"
                " AND +owner IS NULL ORDER BY finished_at LIMIT ?",
                (pattern, finished_before, limit),
            ).fetchall()
            for table, column in (("journal", "id"), ("mail", "recipient"), ("instances", "id")):
                con.executemany(f"DELETE FROM standfast_{table} WHERE {column} = ?", keys)
            return len(keys)

        return await self._write(work)

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """See `JournalStore.on_due`. Any commit of another process is a hint, without an id."""
        self._callbacks.append(callback)
        if self._poll is None:
            self._poll = asyncio.get_running_loop().create_task(self._watch())

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
            if not self._callbacks and self._poll is not None:
                self._poll.cancel()
                self._poll = None

        return unsubscribe

    async def close(self) -> None:
        """End all subscriptions."""
        self._callbacks.clear()
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll
            self._poll = None

    async def _watch(self) -> None:
        # On the writer's connection the number changes by the commits of others only.
        version = None
        while True:
            try:
                seen = await self._database.write(_data_version, brief=True)
            except StoreError:
                seen = None  # Whoever writes next gets this error; here it only means no hint.
            if seen is not None and seen != version:
                if version is not None:
                    for callback in tuple(self._callbacks):
                        callback(None)
                version = seen
            await asyncio.sleep(_POLL)

    async def _write(self, work: Work[T]) -> T:
        return await self._database.write(lambda con: transact(con, work))

    async def _read(self, work: Work[T]) -> T:
        return await self._database.read(lambda con: snapshot(con, work))


def _is_brief(append: Append) -> bool:
    return sum(map(len, append.facts)) < _BRIEF and len(append.starts) + len(append.mails) <= _FEW


def _data_version(con: sqlite3.Connection) -> int:
    (version,) = con.execute("PRAGMA data_version").fetchone()
    return int(version)


def _unclaimable(
    con: sqlite3.Connection, pattern: str, *, due_before: float, status: str, now: float
) -> list[tuple[str, int]]:
    """The (name, version) without a live worker that have instances to flag."""
    live = {
        (name, version)
        for (kinds,) in con.execute(
            "SELECT kinds FROM standfast_workers WHERE expires_at > ?", (now,)
        ).fetchall()
        for its_pattern, name, version in kinds_from(kinds)
        if its_pattern == pattern
    }
    return [
        (name, version)
        for name, version in reading.waiting_kinds(con, pattern)
        if (name, version) not in live
        and con.execute(
            "SELECT 1 FROM standfast_instances WHERE owner IS NULL AND pattern = ? AND name = ?"
            " AND version = ? AND wake_at < ? AND status <> ? AND finished_at IS NULL LIMIT 1",
            (pattern, name, version, due_before, status),
        ).fetchone()
    ]
