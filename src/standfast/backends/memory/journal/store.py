"""The memory backend's `JournalStore`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

from standfast.backends.memory.database import MemoryDatabase, MemoryTransaction
from standfast.backends.memory.journal.state import JournalState, StagedJournal, not_owned
from standfast.backends.memory.leases import LeaseState
from standfast.errors import StaleWriter, StandfastError
from standfast.ports.database import StoreTransaction
from standfast.ports.journal import (
    STUCK,
    Append,
    Filter,
    Instance,
    JournalWriter,
    Loaded,
    Mail,
    Purged,
    Start,
    StartAnswer,
    Stuck,
    parent_of,
    recovery_pause,
)
from standfast.ports.leases import Kind, kinds_of

Kinds = Sequence[Kind]


class MemoryJournal:
    """`JournalStore` in memory. Ask the `MemoryDatabase` for it."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._state = database.state(JournalState)
        self._leases = database.state(LeaseState)

    def within(self, tx: StoreTransaction) -> JournalWriter:
        """See `JournalStore.within`. Raises `Unsupported` for another database's transaction."""
        return MemoryJournalWriter(self, self._database.mine(tx))

    def staged(self, tx: MemoryTransaction) -> StagedJournal:
        """The journal as this transaction sees and changes it."""
        return tx.staged(StagedJournal, self._state)

    def append_within(
        self, tx: MemoryTransaction, owner: int, append: Append
    ) -> StandfastError | None:
        """One `Append` in a transaction, whole or not at all; what is wrong with it."""
        staged = self.staged(tx)
        try:
            self._leases.check(owner)
        except StaleWriter as error:
            return error
        return staged.append(owner, append, now=self._database.now())

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[StartAnswer]:
        """See `JournalStore.start`."""
        async with self._database.exclusive() as tx:
            if owner is not None:
                self._leases.check(owner)
            return self.staged(tx).start(starts, owner=owner)

    async def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Sequence[StandfastError | None]:
        """See `JournalStore.append`."""
        async with self._database.exclusive() as tx:
            return [self.append_within(tx, owner, append) for append in appends]

    async def claim(self, owner: int, kinds: Kinds, *, now: float, limit: int) -> list[Loaded]:
        """See `JournalStore.claim`."""
        async with self._database.exclusive() as tx:
            self._leases.check(owner)
            staged = self.staged(tx)
            due = [
                (wake_at, id)
                for id, wake_at in self._state.waiting.items()
                if wake_at <= now and _kind(self._state.records[id].instance) in kinds
            ]
            claimed: list[Loaded] = []
            for _, id in sorted(due)[:limit]:
                record = staged.edit(id)
                assert record is not None  # it is waiting
                record.instance.owner, record.instance.wake_at = owner, None
                claimed.append(record.loaded())
            return claimed

    async def take(self, owner: int, id: UUID) -> Loaded | None:
        """See `JournalStore.take`."""
        async with self._database.exclusive() as tx:
            self._leases.check(owner)
            record = self.staged(tx).edit(id)
            if record is None or record.instance.owner is not None:
                return None
            record.instance.owner, record.instance.wake_at = owner, None
            return record.loaded()

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
        async with self._database.exclusive() as tx:
            return self.staged(tx).send(mails, now=self._database.now())

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """See `JournalStore.set_aside`. Raises `StaleWriter`, as `append` answers it."""
        async with self._database.exclusive() as tx:
            self._leases.check(owner)
            record = self.staged(tx).edit(id)
            if record is None or record.instance.owner != owner:
                raise not_owned(id, owner)
            row = record.instance
            row.status, row.cause, row.owner, row.wake_at = status, cause, None, None
            row.updated_at = self._database.now()

    async def reassign(self, ids: Sequence[UUID], *, version: int) -> list[bool]:
        """See `JournalStore.reassign`."""
        answers: list[bool] = []
        async with self._database.exclusive() as tx:
            for id in ids:
                record = self.staged(tx).edit(id)
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
        async with self._database.exclusive() as tx:
            now = self._database.now()
            live = _live_kinds(self._leases, now=now)
            flagged: list[Instance] = []
            for id, wake_at in list(self._state.waiting.items()):
                row = self._state.records[id].instance
                if row.pattern != pattern or wake_at >= due_before or row.status == status:
                    continue
                if _kind(row) in live or row.finished_at is not None:
                    continue
                record = self.staged(tx).edit(id)
                assert record is not None  # it is waiting
                text = cause.replace("{name}", row.name).replace("{version}", str(row.version))
                row = record.instance
                row.status, row.cause, row.updated_at = status, text, now
                flagged.append(replace(row))
            return flagged

    async def release(self, owner: int) -> None:
        """See `JournalStore.release`."""
        async with self._database.exclusive() as tx:
            ids = self._state.owned.get(owner, ())
            self.staged(tx).free(owner, ids, now=self._database.now())

    async def reclaim(self, *, pause: float = 0.0, longest: float = 0.0) -> int:
        """See `JournalStore.reclaim`."""
        if all(owner in self._leases.held for owner in self._state.owned):
            return 0  # without waiting for the writer's turn
        async with self._database.exclusive() as tx:
            staged, now = self.staged(tx), self._database.now()
            freed = [
                record
                for owner, ids in self._state.owned.items()
                if owner not in self._leases.held
                for record in staged.free(owner, ids, now=now)
            ]
            for record in freed:
                again = record.stood_at == len(record.facts)
                record.recoveries = record.recoveries + 1 if again else 1
                record.stood_at = len(record.facts)
                record.instance.wake_at = now + recovery_pause(record.recoveries, pause, longest)
            return len(freed)

    async def owned_by(self, owner: int) -> Sequence[UUID]:
        """See `JournalStore.owned_by`."""
        return sorted(self._state.owned.get(owner, ()))  # as one seed of a simulation tells it

    async def owned(self) -> Mapping[int, int]:
        """See `JournalStore.owned`."""
        return {owner: len(ids) for owner, ids in self._state.owned.items()}

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

    async def stuck(self, pattern: str) -> list[Stuck]:
        """See `JournalStore.stuck`."""
        found: dict[tuple[str, str], list[float]] = {}
        for record in self._state.records.values():
            row = record.instance
            if row.pattern == pattern and row.status in STUCK:
                found.setdefault((row.name, row.status), []).append(row.updated_at)
        return [Stuck(*of, len(times), min(times)) for of, times in found.items()]

    async def purge(
        self,
        pattern: str,
        *,
        finished_before: float,
        limit: int,
        ids: Sequence[UUID] = (),
        after: object | None = None,
    ) -> Purged:
        """See `JournalStore.purge`. Leaves those that a worker owns. `after` is what was left."""
        async with self._database.exclusive():
            old = after if isinstance(after, list) else self._old(pattern, finished_before)
            some = [id for id in old if not ids or id in ids]
            some, left = some[:limit], some[limit:]
            doomed = [
                record.instance.id
                for record in map(self._state.records.get, some)
                if record is not None and parent_of(record.instance.key) not in self._state.records
            ]
            for id in doomed:
                self._state.delete(id)
            return Purged(len(doomed), left or None)

    async def count_finished(self, pattern: str, *, finished_before: float) -> int:
        """See `JournalStore.count_finished`."""
        records = self._state.records
        old = set(self._old(pattern, finished_before))

        def goes(id: UUID) -> bool:
            above: UUID | None = id
            while above is not None and above in old:
                above = parent_of(records[above].instance.key)
            return above not in records

        return sum(map(goes, old))

    def _old(self, pattern: str, finished_before: float) -> list[UUID]:
        return [
            id
            for id, record in self._state.records.items()
            if record.instance.pattern == pattern
            and record.instance.owner is None
            and record.instance.finished_at is not None
            and record.instance.finished_at < finished_before
        ]

    def on_due(self, callback: Callable[[UUID | None], None]) -> Callable[[], None]:
        """See `JournalStore.on_due`. Told of what this very process does."""
        return self._state.hints.subscribe(callback)

    async def close(self) -> None:
        """End all subscriptions."""
        self._state.hints.clear()


class MemoryJournalWriter:
    """`JournalWriter` in memory. Ask `MemoryJournal.within` for it."""

    def __init__(self, journal: MemoryJournal, tx: MemoryTransaction) -> None:
        self._journal = journal
        self._tx = tx

    async def start(self, starts: Sequence[Start]) -> list[StartAnswer]:
        """See `JournalWriter.start`."""
        return self._journal.staged(self._tx).start(starts, owner=None)

    async def append(self, owner: int, append: Append) -> None:
        """See `JournalWriter.append`."""
        problem = self._journal.append_within(self._tx, owner, append)
        if problem is not None:
            raise problem

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """See `JournalWriter.send`."""
        return self._journal.staged(self._tx).send(mails, now=self._tx.database.now())

    async def instance(self, id: UUID) -> Instance | None:
        """See `JournalWriter.instance`."""
        record = self._journal.staged(self._tx).record(id)
        return None if record is None else replace(record.instance)

    async def by_key(self, pattern: str, name: str, key: str) -> Instance | None:
        """See `JournalWriter.by_key`."""
        id = self._journal.staged(self._tx).holder((pattern, name, key))
        return None if id is None else await self.instance(id)


def _live_kinds(leases: LeaseState, *, now: float) -> set[Kind]:
    notes = (lease.note for lease in leases.held.values() if lease.expires_at > now)
    return {kind for note in notes for kind in kinds_of(note)}


def _kind(row: Instance) -> Kind:
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
        and row.id.hex.endswith(filter.id_end)
    )
