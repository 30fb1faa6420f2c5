"""The memory backend's database, journal and leases.

The same contract as every other backend, without durability and without SQL. Several workers of one
process may share a `MemoryDatabase`; each object is a store of its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, NoReturn
from uuid import UUID

from standfast.backends.memory.state import Change, Lease, State, lost, not_owned
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.errors import ConfigurationError, StandfastError, StoreError, Unsupported
from standfast.ports.database import Capabilities, Mark, Migration, Row, StoreTransaction
from standfast.ports.journal import (
    Append,
    Filter,
    Instance,
    JournalStore,
    Loaded,
    Mail,
    Start,
    Started,
)
from standfast.ports.leases import Worker, WorkerLeases

Kinds = Sequence[tuple[str, str, int]]


class MemoryDatabase:
    """A `Database` in memory. `url` is ``memory://``; `clock` tells the time of leases.

    Raises `ConfigurationError` for another URL.
    """

    capabilities = Capabilities(
        durable=False, many_workers=True, many_processes=False, write_lanes=1
    )
    migrations: Sequence[Migration] = ()

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        if url != "memory://":
            raise ConfigurationError(f"url={url!r}: write memory://")
        self.url = url
        self.now = clock.now
        self.state = State()
        self._journal = MemoryJournal(self)
        self.journal: JournalStore = self._journal
        self.leases: WorkerLeases = MemoryLeases(self)
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """End all subscriptions. What was stored stays with this object."""
        self._journal.unsubscribe_all()

    async def schema_version(self) -> int:
        """Always 0: there are no tables."""
        return 0

    async def migrate(self) -> list[Migration]:
        """Nothing to do."""
        return []

    async def clock_offset(self, clock: Clock) -> float:
        """Always 0: there is no clock but the machine's own."""
        return 0.0

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. `execute` and the fetches are `Unsupported`."""
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[StoreTransaction]:
        async with self.exclusive() as change:
            transaction = MemoryTransaction(change, self.now)
            self._holder = asyncio.current_task()
            try:
                yield transaction
            finally:
                transaction.over = True
                self._holder = None

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[Change]:
        """The one writer's turn: committed at the end, dropped if the block raises."""
        if self._holder is not None and self._holder is asyncio.current_task():
            raise StoreError(
                "this task has a transaction open, and there is one writer: use that transaction "
                "(`tx.start(...)`, `tx.send(...)`), or end its block first"
            )
        async with self._lock:
            change = Change(self.state)
            yield change
            change.commit()
            self._journal.tell(change.due)

    async def count_marks(self, *, before: float) -> int:
        """How many marks were set before that time (seconds since the epoch)."""
        return sum(stored.at < before for stored in self.state.marks.values())

    async def purge_marks(self, *, before: float, limit: int) -> int:
        """Delete up to `limit` marks set before that time (seconds since the epoch)."""
        async with self.exclusive():
            marks = self.state.marks
            old = [key for key, stored in marks.items() if stored.at < before][:limit]
            for key in old:
                del marks[key]
            return len(old)


class MemoryTransaction:
    """`StoreTransaction` in memory: what it did is seen by others when it commits."""

    def __init__(self, change: Change, now: Callable[[], float]) -> None:
        self._its_change = change
        self._now = now
        self.over = False

    @property
    def _change(self) -> Change:
        if self.over:
            raise StoreError("this transaction is over: use it inside its `async with` block only")
        return self._its_change

    async def execute(self, sql: str, *args: Any) -> int:
        """`Unsupported`: there are no tables of yours in memory."""
        _no_sql(sql)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """See `StoreTransaction.start`."""
        return self._change.start(starts, owner=owner)

    async def append(self, owner: int, append: Append) -> StandfastError | None:
        """See `StoreTransaction.append`."""
        return self._change.append(owner, append, now=self._now())

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `StoreTransaction.send`."""
        return self._change.send(mails, now=self._now())

    async def instance(self, id: UUID) -> Instance | None:
        """See `StoreTransaction.instance`."""
        record = self._change.record(id)
        return None if record is None else replace(record.instance)

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """See `StoreTransaction.mark`."""
        return self._change.mark(key, operation, reason, at=at)

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """See `StoreTransaction.keep_result`. Raises `StoreError` if the mark isn't there."""
        self._change.keep_result(key, operation, result)


def _no_sql(sql: str) -> NoReturn:
    raise Unsupported(
        f"memory:// has no SQL, so this can't run: {sql}. Use sqlite:/// or postgresql:// for "
        "transactions with rows of your own"
    )


class MemoryJournal:
    """`JournalStore` in memory. Ask the `MemoryDatabase` for it."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._state = database.state
        self._callbacks: list[Callable[[UUID | None], None]] = []

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """See `JournalStore.start`."""
        async with self._database.exclusive() as change:
            return change.start(starts, owner=owner)

    async def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Sequence[StandfastError | None]:
        """See `JournalStore.append`."""
        async with self._database.exclusive() as change:
            now = self._database.now()
            return [change.append(owner, append, now=now) for append in appends]

    async def claim(self, owner: int, kinds: Kinds, *, now: float, limit: int) -> list[Loaded]:
        """See `JournalStore.claim`. With an owner whose lease is lost: `StaleWriter`."""
        async with self._database.exclusive() as change:
            if not change.has_lease(owner):
                raise lost(owner)
            due = [
                (wake_at, id)
                for id, wake_at in self._state.waiting.items()
                if wake_at <= now and _kind(self._state.records[id].instance) in kinds
            ]
            claimed: list[Loaded] = []
            for _, id in sorted(due)[:limit]:
                record = change.edit(id)
                assert record is not None  # it is waiting
                record.instance.owner, record.instance.wake_at = owner, None
                claimed.append(record.loaded())
            return claimed

    async def next_wake(self, kinds: Kinds) -> float | None:
        """See `JournalStore.next_wake`."""
        records = self._state.records
        times = (
            wake_at
            for id, wake_at in self._state.waiting.items()
            if _kind(records[id].instance) in kinds
        )
        return min(times, default=None)

    async def collect(self, owner: int, ids: Sequence[UUID]) -> list[Mail]:
        """See `JournalStore.collect`."""
        mails = [
            replace(mail)
            for id in dict.fromkeys(ids)
            if (record := self._state.record(id)) and record.instance.owner == owner
            for mail in record.mails
        ]
        return sorted(mails, key=lambda mail: mail.number)

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalStore.send`."""
        async with self._database.exclusive() as change:
            return change.send(mails, now=self._database.now())

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """See `JournalStore.set_aside`. Raises `StaleWriter` if `owner` doesn't own it."""
        async with self._database.exclusive() as change:
            record = change.edit(id)
            if record is None or record.instance.owner != owner:
                raise not_owned(id, owner)
            row = record.instance
            row.status, row.cause, row.owner, row.wake_at = status, cause, None, None
            row.updated_at = self._database.now()

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """See `JournalStore.reassign`."""
        answers: list[bool] = []
        async with self._database.exclusive() as change:
            for id in ids:
                record = change.edit(id)
                row = None if record is None else record.instance
                done = row is not None and row.owner is None and row.finished_at is None
                if row is not None and done:
                    row.version, row.updated_at = version, self._database.now()
                answers.append(done)
        return answers

    async def flag_unclaimable(
        self, pattern: str, *, due_before: float, status: str, cause: str
    ) -> list[Instance]:
        """See `JournalStore.flag_unclaimable`."""
        async with self._database.exclusive() as change:
            now = self._database.now()
            live = {
                kind
                for lease in self._state.leases.values()
                if lease.expires_at > now
                for kind in lease.kinds
            }
            flagged: list[Instance] = []
            for id, wake_at in list(self._state.waiting.items()):
                row = self._state.records[id].instance
                if row.pattern != pattern or wake_at >= due_before or row.status == status:
                    continue
                if _kind(row) in live or row.finished_at is not None:
                    continue
                record = change.edit(id)
                assert record is not None  # it is waiting
                text = cause.replace("{name}", row.name).replace("{version}", str(row.version))
                row = record.instance
                row.status, row.cause, row.updated_at = status, text, now
                flagged.append(replace(row))
            return flagged

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        """See `JournalStore.load`. In the order of `ids`."""
        records = (self._state.record(id) for id in dict.fromkeys(ids))
        return [record.loaded() for record in records if record is not None]

    async def find(
        self, filter: Filter, *, limit: int, after: UUID | None = None
    ) -> list[Instance]:
        """See `JournalStore.find`."""
        rows = (record.instance for record in self._state.records.values())
        found = [row for row in rows if _matches(row, filter) and (after is None or row.id < after)]
        found.sort(key=lambda row: row.id, reverse=True)
        return [replace(row) for row in found[:limit]]

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalStore.by_key`."""
        id = self._state.holder((pattern, name, key))
        return None if id is None else replace(self._state.records[id].instance)

    async def count(self, pattern: str) -> Mapping[tuple[str, str], int]:
        """See `JournalStore.count`."""
        rows = (record.instance for record in self._state.records.values())
        return Counter((row.name, row.status) for row in rows if row.pattern == pattern)

    async def purge(self, pattern: str, *, finished_before: float, limit: int) -> int:
        """See `JournalStore.purge`. Leaves those that a worker owns."""
        async with self._database.exclusive():
            old = [
                id
                for id, record in self._state.records.items()
                if record.instance.pattern == pattern
                and record.instance.owner is None
                and record.instance.finished_at is not None
                and record.instance.finished_at < finished_before
            ][:limit]
            for id in old:
                self._state.delete(id)
            return len(old)

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """See `JournalStore.on_due`. Told of what this very process does."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def unsubscribe_all(self) -> None:
        """End all subscriptions."""
        self._callbacks.clear()

    def tell(self, ids: Sequence[UUID]) -> None:
        """Call back for those, soon."""
        if ids and self._callbacks:
            loop = asyncio.get_running_loop()
            for id in dict.fromkeys(ids):
                loop.call_soon(self._call, id)

    def _call(self, id: UUID) -> None:
        for callback in tuple(self._callbacks):
            callback(id)


class MemoryLeases:
    """`WorkerLeases` in memory. Ask the `MemoryDatabase` for it."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._state = database.state

    async def register(self, name: str, kinds: Kinds, *, ttl: float) -> int | None:
        """See `WorkerLeases.register`."""
        async with self._database.exclusive() as change:
            self._expire(change)
            self._state.tokens += 1
            token = self._state.tokens
            expires_at = self._database.now() + ttl
            self._state.leases[token] = Lease(name, tuple(kinds), expires_at)
            return token

    async def renew(self, token: int, *, ttl: float) -> bool:
        """See `WorkerLeases.renew`."""
        async with self._database.exclusive():
            lease = self._state.leases.get(token)
            if lease is None:
                return False
            lease.expires_at = self._database.now() + ttl
            return True

    async def expire(self) -> list[int]:
        """See `WorkerLeases.expire`."""
        async with self._database.exclusive() as change:
            return self._expire(change)

    async def release(self, token: int) -> None:
        """See `WorkerLeases.release`."""
        async with self._database.exclusive() as change:
            self._end(change, token)

    async def workers(self) -> list[Worker]:
        """See `WorkerLeases.workers`."""
        now = self._database.now()
        return [
            lease.worker(token, now=now, owned=len(self._state.owned.get(token, ())))
            for token, lease in self._state.leases.items()
        ]

    def _expire(self, change: Change) -> list[int]:
        now = self._database.now()
        ended = [token for token, lease in self._state.leases.items() if lease.expires_at <= now]
        for token in ended:
            self._end(change, token)
        return ended

    def _end(self, change: Change, token: int) -> None:
        self._state.leases.pop(token, None)
        for id in self._state.owned.pop(token, ()):
            record = change.edit(id)
            assert record is not None  # it is owned
            record.instance.owner, record.instance.wake_at = None, self._database.now()
            change.due.append(id)


def _kind(row: Instance) -> tuple[str, str, int]:
    return (row.pattern, row.name, row.version)


def _matches(row: Instance, filter: Filter) -> bool:
    return (
        (not filter.pattern or row.pattern == filter.pattern)
        and (not filter.name or row.name == filter.name)
        and (not filter.statuses or row.status in filter.statuses)
        and (not filter.key or row.key == filter.key)
        and (not filter.step or row.step == filter.step)
        and (filter.version is None or row.version == filter.version)
        and (filter.created_before is None or row.created_at < filter.created_before)
        and (filter.created_after is None or row.created_at >= filter.created_after)
        and (not filter.ids or row.id in filter.ids)
    )
