"""What the journal in memory holds, and changes to it that happen whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

from standfast.backends.memory.hints import Hints
from standfast.errors import ConstraintViolated, StaleWriter, StandfastError
from standfast.ports.journal import (
    Append,
    Instance,
    Loaded,
    Mail,
    Start,
    StartAnswer,
    due_at_once,
)


@dataclass(slots=True)
class Record:
    """One instance with its journal and mail."""

    instance: Instance
    facts: list[str]
    mails: list[Mail] = field(default_factory=list)
    mail_ids: set[str] = field(default_factory=set)
    recoveries: int = 0
    """How often in a row it was reclaimed with `stood_at` facts."""
    stood_at: int = 0

    def copy(self) -> Record:
        """A copy that can be changed alone."""
        return replace(
            self,
            instance=replace(self.instance),
            facts=list(self.facts),
            mails=list(self.mails),
            mail_ids=set(self.mail_ids),
        )

    def loaded(self) -> Loaded:
        """A copy for a caller to keep."""
        return Loaded(
            replace(self.instance),
            list(self.facts),
            [replace(mail) for mail in self.mails],
            self.recoveries if self.stood_at == len(self.facts) else 0,
        )


class View(Protocol):
    """What a `StagedJournal` lies over: the `JournalState`, or another `StagedJournal`."""

    def record(self, id: UUID) -> Record | None:
        """The instance, not to be changed."""
        ...

    def holder(self, key: tuple[str, str, str]) -> UUID | None:
        """Who holds (pattern, name, key)."""
        ...

    def next_number(self) -> int:
        """A mail number larger than any before."""
        ...

    def apply(self, staged: StagedJournal) -> None:
        """Take over what is staged."""
        ...


class JournalState:
    """Everything committed. Changed by `apply` alone, except for purging."""

    def __init__(self) -> None:
        self.records: dict[UUID, Record] = {}
        self.keys: dict[tuple[str, str, str], UUID] = {}
        self.waiting: dict[UUID, float] = {}
        """The passive instances that are due some time, and when."""
        self.owned: dict[int, set[UUID]] = {}
        """Those that are owned, by owner."""
        self.hints: Hints[[UUID | None]] = Hints()
        self._numbers = 0

    def record(self, id: UUID) -> Record | None:
        """See `View`."""
        return self.records.get(id)

    def holder(self, key: tuple[str, str, str]) -> UUID | None:
        """See `View`."""
        return self.keys.get(key)

    def next_number(self) -> int:
        """See `View`."""
        self._numbers += 1
        return self._numbers

    def apply(self, staged: StagedJournal) -> None:
        """See `View`."""
        for id, record in staged.records.items():
            self._forget(id)
            self.records[id] = record
            row = record.instance
            if row.owner is not None:
                self.owned.setdefault(row.owner, set()).add(id)
            elif row.wake_at is not None:
                self.waiting[id] = row.wake_at
        self.keys.update(staged.keys)
        for id in dict.fromkeys(staged.due):
            self.hints.tell(id)

    def delete(self, id: UUID) -> None:
        """Remove an instance with all that belongs to it."""
        self._forget(id)
        row = self.records.pop(id).instance
        del self.keys[row.pattern, row.name, row.key]

    def _forget(self, id: UUID) -> None:
        self.waiting.pop(id, None)
        before = self.records.get(id)
        if before is not None and before.instance.owner is not None:
            owned = self.owned[before.instance.owner]
            owned.discard(id)
            if not owned:
                del self.owned[before.instance.owner]


class StagedJournal:
    """Changes on top of a view, seen through here only until `commit`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.records: dict[UUID, Record] = {}
        self.keys: dict[tuple[str, str, str], UUID] = {}
        self.due: list[UUID] = []
        """Those that were sent mail, or made due by a start or because they were freed."""

    def commit(self) -> None:
        """Give everything to the view below."""
        self._view.apply(self)

    def copy(self) -> StagedJournal:
        """See `Staged`."""
        other = StagedJournal(self._view)
        other.records.update({id: record.copy() for id, record in self.records.items()})
        other.keys.update(self.keys)
        other.due += self.due
        return other

    def record(self, id: UUID) -> Record | None:
        """See `View`."""
        return self.records.get(id) or self._view.record(id)

    def holder(self, key: tuple[str, str, str]) -> UUID | None:
        """See `View`."""
        return self.keys.get(key) or self._view.holder(key)

    def next_number(self) -> int:
        """See `View`."""
        return self._view.next_number()

    def apply(self, staged: StagedJournal) -> None:
        """See `View`."""
        self.records.update(staged.records)
        self.keys.update(staged.keys)
        self.due += staged.due

    def edit(self, id: UUID) -> Record | None:
        """The instance, to be changed here."""
        record = self.records.get(id)
        if record is None:
            below = self._view.record(id)
            if below is None:
                return None
            record = self.records[id] = below.copy()
        return record

    def start(self, starts: Iterable[Start], *, owner: int | None) -> list[StartAnswer]:
        """See `JournalStore.start`, of an owner that has its lease."""
        return [self._start(start, owner) for start in starts]

    def _start(self, start: Start, owner: int | None) -> StartAnswer:
        row = start.instance
        key = (row.pattern, row.name, row.key)
        holder = self.holder(key)
        if holder is not None:
            held = self.record(holder)
            assert held is not None  # a key is removed with its record
            return StartAnswer(holder, False, held.instance.input_hash)
        if self.record(row.id) is not None:
            raise ConstraintViolated(f"instance {row.id} exists, with another key than {row.key!r}")
        wake_at = row.wake_at if owner is None else None
        self.records[row.id] = Record(replace(row, owner=owner, wake_at=wake_at), [start.fact])
        self.keys[key] = row.id
        if wake_at is not None:
            self.due.append(row.id)
        return StartAnswer(row.id, True, row.input_hash)

    def append(self, owner: int, append: Append, *, now: float) -> StandfastError | None:
        """See `JournalStore.append`, of an owner that has its lease: an error changes nothing."""
        record = self.record(append.id)
        if record is None or record.instance.owner != owner:
            return not_owned(append.id, owner)
        if append.facts and append.after + 1 != len(record.facts):
            return StaleWriter(
                f"instance {append.id} has {len(record.facts)} facts, not {append.after + 1}: "
                "load it anew"
            )
        inner = StagedJournal(self)
        try:
            inner._write(append, now)
        except ConstraintViolated as error:
            return error
        inner.commit()
        return None

    def free(self, owner: int, ids: Iterable[UUID], *, now: float) -> list[Record]:
        """Make those that `owner` owns passive and due now."""
        freed: list[Record] = []
        for id in ids:
            record = self.edit(id)
            if record is not None and record.instance.owner == owner:
                record.instance.owner, record.instance.wake_at = None, now
                self.due.append(id)
                freed.append(record)
        return freed

    def _write(self, append: Append, now: float) -> None:
        record = self.edit(append.id)
        assert record is not None  # the caller has seen it
        record.facts += append.facts
        consumed = set(append.consumed)
        record.mails = [mail for mail in record.mails if mail.number not in consumed]
        row, change, finished = record.instance, append.change, False
        if change is not None:
            finished = change.finished_at is not None
            row.status, row.step, row.cause = change.status, change.step, change.cause
            row.version = row.version if change.version is None else change.version
            row.finished_at = change.finished_at
            row.updated_at = now
        if append.release or finished:
            row.owner = None
            row.wake_at = None if finished else append.wake_at
            for mail in record.mails[:1]:
                row.wake_at = earliest(row.wake_at, mail.at, now)
        self.start(map(due_at_once, append.starts), owner=None)
        self.send(append.mails, now=now)

    def send(self, mails: Sequence[Mail], *, now: float) -> list[bool]:
        """See `JournalStore.send`."""
        answers: list[bool] = []
        for mail in mails:
            record = self.edit(mail.to)
            answers.append(record is not None)
            if record is None or mail.id in record.mail_ids:
                continue
            record.mail_ids.add(mail.id)
            record.mails.append(replace(mail, number=self.next_number()))
            if record.instance.owner is None:
                record.instance.wake_at = earliest(record.instance.wake_at, mail.at, now)
            self.due.append(mail.to)
        return answers


def not_owned(id: UUID, owner: int) -> StaleWriter:
    """The error for a writer that doesn't own the instance."""
    return StaleWriter(f"instance {id} isn't owned by worker {owner}")


def earliest(*times: float | None) -> float:
    """The smallest of the times that aren't None."""
    return min(time for time in times if time is not None)
