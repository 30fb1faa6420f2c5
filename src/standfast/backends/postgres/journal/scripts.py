"""Writing to the journal, as data: scripts that any transaction can carry out.

The store runs those of one statement on its pool, where each statement is its own transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from standfast.backends.postgres.journal import literals
from standfast.backends.postgres.journal import statements as sql
from standfast.errors import ConstraintViolated, StaleWriter, StoreError
from standfast.ports.database import Script, Statement
from standfast.ports.journal import Append, Instance, Mail, Start, StartAnswer, due_at_once

_NONE: frozenset[UUID] = frozenset()

# The columns $2 … $16 of a start, and how lists of each are written.
_START_COLUMNS: dict[str, Callable[[Any], Any]] = {
    "id": list,
    "pattern": literals.texts,
    "name": literals.texts,
    "version": literals.numbers,
    "key": literals.texts,
    "correlation_id": literals.texts,
    "input_hash": literals.texts,
    "status": literals.texts,
    "step": literals.texts,
    "cause": literals.texts,
    "wake_at": literals.numbers,
    "deadline_at": literals.numbers,
    "created_at": literals.numbers,
    "updated_at": literals.numbers,
    "finished_at": literals.numbers,
}
_of_start: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_START_COLUMNS)
_of_one_start: Callable[[Instance], tuple[Any, ...]] = attrgetter(
    *(column for column in _START_COLUMNS if column != "finished_at")
)
_START_WRITES = tuple(_START_COLUMNS.values())

# How lists of the columns $6 … $15 of an append are written.
_CHANGE_WRITES: tuple[Callable[[Any], Any], ...] = (
    list,
    literals.numbers,
    *[literals.texts] * 3,
    *[literals.numbers] * 5,
)


def lost(owner: int) -> StaleWriter:
    """The error for a writer whose lease was ended."""
    return StaleWriter(f"lease {owner} was ended: acquire another for a new token")


def not_owned(owner: int, id: UUID) -> StaleWriter:
    """The error for a write to an instance that the writer doesn't own, or not any more."""
    return StaleWriter(
        f"the holder of lease {owner} doesn't own instance {id}, or the lease was ended: nothing "
        "was written"
    )


def overtaken(append: Append) -> StaleWriter:
    """The error for a fact whose number is taken."""
    return StaleWriter(
        f"instance {append.id} already has a fact {append.after + 1}: load it anew; nothing was "
        "written"
    )


def start(
    starts: Sequence[Start], owner: int | None, *, again: bool = True
) -> Script[list[StartAnswer]]:
    """`JournalStore.start`. `again`: whether one that found its key taken by nobody is retried."""
    if not starts:
        return []
    alive: bool = True
    created: Collection[Any] | None  # None: all of them
    if len(starts) == 1:
        one = starts[0]
        if owner is None:
            args: tuple[Any, ...] = (*_of_one_start(one.instance), one.fact)
            # Run as one of many, a statement is answered with the number of rows that it touched.
            answer = yield Statement(sql.START_ONE_PASSIVE, [args], True)
            created = None if answer[0][0] else ()
        else:
            args = (owner, *_of_start(one.instance), one.fact)
            answer = yield Statement(sql.OF_ONE[sql.START_OWNED], args)
            alive, created = answer[0][0], answer[0][1]
    else:
        statement = sql.START_PASSIVE if owner is None else sql.START_OWNED
        # The first of each id.
        unique = {start.instance.id: start for start in reversed(starts)}
        first = list(reversed(unique.values()))
        columns = zip(*[_of_start(start.instance) for start in first], strict=True)
        args = (
            owner,
            *[write(column) for write, column in zip(_START_WRITES, columns, strict=True)],
            literals.texts([start.fact for start in first]),
        )
        answer = yield Statement(statement, args)
        alive, created = answer[0][0], answer[0][1]
        if created is None and len(first) < len(starts):
            created = unique.keys()
    if not alive:
        assert owner is not None
        raise lost(owner)
    if created is None:
        return [StartAnswer(one.instance.id, True, one.instance.input_hash) for one in starts]
    return (yield from _among_holders(starts, owner, set(map(plain, created)), again))


def _among_holders(
    starts: Sequence[Start], owner: int | None, created: set[UUID], again: bool
) -> Script[list[StartAnswer]]:
    """The answers, when some starts found their key taken."""
    holders = yield Statement(
        sql.HOLDERS,
        (
            [start.instance.pattern for start in starts],
            [start.instance.name for start in starts],
            [start.instance.key for start in starts],
        ),
    )
    by_key = {(row[0], row[1], row[2]): row for row in holders}
    answers = []
    for start in starts:
        row = start.instance
        if row.id in created:
            created.remove(row.id)
            answers.append(StartAnswer(row.id, True, row.input_hash))
            continue
        holder = by_key.get((row.pattern, row.name, row.key))
        if holder is None:
            # Its holder was purged since, or another instance has its id.
            answers += yield from _again(start, owner, again)
        else:
            answers.append(StartAnswer(plain(holder[3]), False, holder[4]))
    return answers


def _again(new: Start, owner: int | None, again: bool) -> Script[list[StartAnswer]]:
    row = new.instance
    if (yield Statement(sql.BY_ID, (row.id,))):
        raise ConstraintViolated(
            f"instance {row.id} exists with another key than {row.key!r}: ids must be new"
        )
    if not again:
        raise StoreError(
            f"the key {row.key!r} is taken, and by nobody: roll back. Is this connection set up to "
            "answer later, or with values of other types?"
        )
    return (yield from start((new,), owner, again=False))


def plain(id: UUID | str) -> UUID:
    """The driver's kind of UUID, or the text of one, as an ordinary one."""
    return UUID(int=id.int) if isinstance(id, UUID) else UUID(id)


def is_plain(append: Append) -> bool:
    """Whether it neither reads nor sends mail nor starts anything: one statement will do."""
    return not (append.consumed or append.starts or append.mails)


def _changes(append: Append) -> bool:
    """Whether it locks, and writes to, its instance's row; one without a fact does it for that."""
    return bool(append.change is not None or append.release or append.consumed or not append.facts)


def append(
    owner: int, appends: Sequence[Append], folded: dict[UUID, int] | None = None
) -> Script[Collection[UUID]]:
    """Write the facts and changes of `appends` in one statement; the ids of those refused.

    `folded` counts the mail that was folded into each. Mails and starts are the caller's. When the
    number of any fact is taken nothing is written, and the unique violation comes through.
    """
    ids: list[UUID] = []
    numbers: list[int] = []
    facts: list[str] = []
    changes: list[bool] = []
    changed: list[Append] = []
    for one in appends:
        id, number = one.id, one.after
        change = _changes(one)
        if change:
            changed.append(one)
        for fact in one.facts:
            number += 1
            ids.append(id)
            numbers.append(number)
            facts.append(fact)
            changes.append(change)
    args: tuple[Any, ...]
    if not changed:
        statement = sql.APPEND
        if len(facts) == 1:
            statement = sql.OF_ONE[statement]
            args = (owner, ids[0], numbers[0], facts[0])
        else:
            args = (owner, ids, literals.numbers(numbers), literals.texts(facts))
    else:
        statement = sql.APPEND_AND_CHANGE
        rows = [_changed(one, folded.get(one.id, 0) if folded else 0) for one in changed]
        if len(facts) == len(rows) == 1:
            statement = sql.OF_ONE[statement]
            args = (owner, ids[0], numbers[0], facts[0], changes[0], *rows[0])
        else:
            columns = zip(*rows, strict=True)
            args = (
                owner,
                ids,
                literals.numbers(numbers),
                literals.texts(facts),
                literals.numbers(changes),
                *[write(column) for write, column in zip(_CHANGE_WRITES, columns, strict=True)],
            )
    answer = yield Statement(statement, args)
    written = answer[0][0]
    if written is None:
        return _NONE
    return {one.id for one in appends}.difference(written)


def _changed(append: Append, folded: int) -> tuple[Any, ...]:
    """The columns $6 … $15 of an append that changes the row of its instance."""
    change = append.change
    if change is None:
        return (append.id, False, "", "", "", None, None, append.release, append.wake_at, folded)
    ended = change.finished_at is not None
    return (
        append.id,
        True,
        change.status,
        change.step,
        change.cause,
        change.version,
        change.finished_at,
        append.release or ended,
        None if ended else append.wake_at,
        folded,
    )


def append_with_mail(owner: int, appends: Sequence[Append]) -> Script[Collection[UUID]]:
    """Write `appends` with all that goes with them, inside a transaction; the ids of those refused.

    Every row that will be touched is locked first, in the order of the ids.
    """
    touched = {one.id for one in appends if _changes(one)}
    touched.update(mail.to for one in appends for mail in one.mails)
    own = [one.id for one in appends]
    mine = {row[0] for row in (yield Statement(sql.LOCK, (owner, own, list(touched))))}
    folded: dict[UUID, int] = {}
    pairs = [(one.id, number) for one in appends if one.id in mine for number in one.consumed]
    if pairs:
        rows = yield Statement(sql.FOLD, ([id for id, _ in pairs], [number for _, number in pairs]))
        folded = {row[0]: row[1] for row in rows}
    refused = yield from append(owner, appends, folded)
    done = [one for one in appends if one.id not in refused]
    yield from start([due_at_once(new) for one in done for new in one.starts], None)
    yield from send([mail for one in done for mail in one.mails])
    return refused


def send(mails: Sequence[Mail]) -> Script[list[bool]]:
    """`JournalStore.send`."""
    if not mails:
        return []
    answer = yield Statement(
        sql.SEND,
        (
            [mail.to for mail in mails],
            [mail.id for mail in mails],
            [mail.subject for mail in mails],
            [mail.body for mail in mails],
            [mail.at for mail in mails],
        ),
    )
    known = set(map(plain, answer[0][0]))
    return [mail.to in known for mail in mails]
