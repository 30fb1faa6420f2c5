"""Writing to the journal: functions over anything that runs a statement.

The journal runs them on the pool, where each statement is its own transaction, and a
`PostgresTransaction` on its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID

from standfast.backends.postgres import statements as sql
from standfast.errors import ConstraintViolated, StaleWriter
from standfast.ports.journal import Append, Mail, Start, Started

Fetch: TypeAlias = Callable[..., Awaitable[list[Any]]]
"""``fetch(sql, *args)``: run a statement, give its rows."""


def lost(owner: int) -> StaleWriter:
    """The error for a writer whose lease was ended."""
    return StaleWriter(f"the lease of worker {owner} was ended: register again for a new token")


def not_owned(owner: int, id: UUID) -> StaleWriter:
    """The error for a write to an instance that the writer doesn't own, or not any more."""
    return StaleWriter(
        f"worker {owner} doesn't own instance {id}, or its lease was ended: nothing was written"
    )


def overtaken(append: Append) -> StaleWriter:
    """The error for a fact whose number is taken."""
    return StaleWriter(
        f"instance {append.id} already has a fact {append.after + 1}: load it anew; nothing was "
        "written"
    )


async def start(fetch: Fetch, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
    """`JournalStore.start`."""
    if not starts:
        return []
    unique = {start.instance.id: start for start in reversed(starts)}
    rows = [start.instance for start in reversed(unique.values())]
    ids = [row.id for row in rows]
    statement = sql.START_PASSIVE if owner is None else sql.START_OWNED
    answer = await _write(
        fetch,
        statement,
        owner,
        ids,
        [row.pattern for row in rows],
        [row.name for row in rows],
        [row.version for row in rows],
        [row.key for row in rows],
        [row.correlation_id for row in rows],
        [row.input_hash for row in rows],
        [row.status for row in rows],
        [row.step for row in rows],
        [row.cause for row in rows],
        [row.wake_at for row in rows],
        [row.deadline_at for row in rows],
        [row.created_at for row in rows],
        [row.updated_at for row in rows],
        [row.finished_at for row in rows],
        [unique[id].fact for id in ids],
    )
    if not answer[0][0]:
        assert owner is not None
        raise lost(owner)
    rest = set(answer[0][1])
    if not rest and len(ids) == len(starts):
        return [Started(row.id, True, row.input_hash) for row in rows]
    return await _among_holders(fetch, starts, owner, rest)


def _write(
    fetch: Fetch, statement: str, owner: int | None, *lists: list[Any]
) -> Awaitable[list[Any]]:
    if all(len(values) == 1 for values in lists):
        return fetch(sql.OF_ONE[statement], owner, *(values[0] for values in lists))
    return fetch(statement, owner, *lists)


async def _among_holders(
    fetch: Fetch, starts: Sequence[Start], owner: int | None, rest: set[UUID]
) -> list[Started]:
    """The answers, when some starts found their key taken."""
    holders = await fetch(
        sql.HOLDERS,
        [start.instance.pattern for start in starts],
        [start.instance.name for start in starts],
        [start.instance.key for start in starts],
    )
    by_key = {(row[0], row[1], row[2]): row for row in holders}
    created: set[UUID] = set()
    answers = []
    for start in starts:
        row = start.instance
        if row.id not in rest and row.id not in created:
            created.add(row.id)
            answers.append(Started(row.id, True, row.input_hash))
            continue
        holder = by_key.get((row.pattern, row.name, row.key))
        if holder is None:
            # Its holder was purged since, or another instance has its id.
            answers += await _again(fetch, start, owner)
        else:
            answers.append(Started(plain(holder[3]), False, holder[4]))
    return answers


async def _again(fetch: Fetch, new: Start, owner: int | None) -> list[Started]:
    row = new.instance
    if await fetch("SELECT 1 FROM standfast.instances WHERE id = $1", row.id):
        raise ConstraintViolated(
            f"instance {row.id} exists with another key than {row.key!r}: ids must be new"
        )
    return await start(fetch, (new,), owner=owner)


def plain(id: UUID) -> UUID:
    """The driver's kind of UUID as an ordinary one."""
    return UUID(int=id.int)


def is_plain(append: Append) -> bool:
    """Whether it neither reads nor sends mail nor starts anything: one statement will do."""
    return not (append.consumed or append.starts or append.mails)


async def append(
    fetch: Fetch,
    owner: int,
    appends: Sequence[Append],
    folded: dict[UUID, int] | None = None,
) -> set[UUID]:
    """Write the facts and changes of `appends` in one statement; the ids of those refused.

    `folded` counts the mail that was folded into each. Mails and starts are the caller's. When the
    number of any fact is taken nothing is written, and the driver's unique violation comes through.
    """
    ids: list[UUID] = []
    fact_ids: list[UUID] = []
    numbers: list[int] = []
    facts: list[str] = []
    changed: list[Append] = []
    for one in appends:
        id, number = one.id, one.after
        ids.append(id)
        for fact in one.facts:
            number += 1
            fact_ids.append(id)
            numbers.append(number)
            facts.append(fact)
        if one.change is not None or one.release or one.consumed:
            changed.append(one)
    if not changed:
        answer = await _write(fetch, sql.APPEND, owner, ids, fact_ids, numbers, facts)
        return set(answer[0][0])
    changes = [one.change for one in changed]
    ended = [change is not None and change.finished_at is not None for change in changes]
    answer = await _write(
        fetch,
        sql.APPEND_AND_CHANGE,
        owner,
        ids,
        fact_ids,
        numbers,
        facts,
        [one.id for one in changed],
        [change and change.status for change in changes],
        [change and change.step for change in changes],
        [change and change.cause for change in changes],
        [change and change.version for change in changes],
        [change and change.finished_at for change in changes],
        [one.release or end for one, end in zip(changed, ended, strict=True)],
        [None if end else one.wake_at for one, end in zip(changed, ended, strict=True)],
        [folded.get(one.id, 0) for one in changed] if folded else [0] * len(changed),
    )
    return set(answer[0][0])


async def append_with_mail(fetch: Fetch, owner: int, appends: Sequence[Append]) -> set[UUID]:
    """Write `appends` with all that goes with them, inside a transaction; the ids of those refused.

    Every row that will be touched is locked first, in the order of the ids.
    """
    touched = {one.id for one in appends if one.change or one.release or one.consumed}
    touched.update(mail.to for one in appends for mail in one.mails)
    own = [one.id for one in appends]
    mine = {row[0] for row in await fetch(sql.LOCK, owner, own, list(touched))}
    folded: dict[UUID, int] = {}
    pairs = [(one.id, number) for one in appends if one.id in mine for number in one.consumed]
    if pairs:
        rows = await fetch(sql.FOLD, [id for id, _ in pairs], [number for _, number in pairs])
        folded = {row[0]: row[1] for row in rows}
    refused = await append(fetch, owner, appends, folded)
    done = [one for one in appends if one.id not in refused]
    starts = [due_at_once(start) for one in done for start in one.starts]
    await start(fetch, starts, owner=None)
    await send(fetch, [mail for one in done for mail in one.mails])
    return refused


def due_at_once(start: Start) -> Start:
    """A start that is part of an append, due when it was made unless it says when."""
    row = start.instance
    if row.wake_at is not None:
        return start
    return Start(replace(row, wake_at=row.created_at), start.fact)


async def send(fetch: Fetch, mails: Sequence[Mail]) -> list[bool]:
    """`JournalStore.send`."""
    if not mails:
        return []
    answer = await fetch(
        sql.SEND,
        [mail.to for mail in mails],
        [mail.id for mail in mails],
        [mail.kind for mail in mails],
        [mail.body for mail in mails],
        [mail.at for mail in mails],
    )
    known = set(answer[0][0])
    return [mail.to in known for mail in mails]
