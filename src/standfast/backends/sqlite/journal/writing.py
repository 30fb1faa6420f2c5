"""Writing to the journal, as scripts: they ride the caller's transaction, whosever it is.

SQLite has one writer at a time, so what a statement finds still holds when its transaction commits:
a lease that it sees can't have been ended meanwhile.
"""

# ruff: noqa: S608 - only column names and placeholders are put into the SQL text

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from standfast.backends.sqlite.journal.reading import COLUMNS, WIDTH, instance
from standfast.backends.sqlite.leases import holding
from standfast.errors import StaleWriter
from standfast.ports.database import Script, Statement
from standfast.ports.journal import Append, Instance, Mail, Start, StartAnswer, due_at_once

# What is written with every fact is bound as a bytearray, and as NULL only where it must be: the
# driver takes numbers, text and bytearrays as they are. Of all else it looks first for an adapter,
# which takes longer than to bind the rest of the row.
# One statement for many rows: each step of a statement gives up the interpreter's lock and has to
# wait to get it back, which costs more than the row when the event loop is busy.
_SIZES = (64, 8, 1)
_LIVING_OWNER = "(SELECT token FROM standfast_leases WHERE token = {})"
_ROW = (
    "id, pattern, name, version, key, correlation_id, input_hash, status, step, cause,"
    " deadline_at, created_at, updated_at"
)
# A passive one with its first fact: for drivers of async code each statement is a thread's turns.
_START_ONE = (
    "INSERT INTO standfast_starts (id, pattern, name, version, key, correlation_id, input_hash,"
    " status, step, cause, wake_at, deadline_at, created_at, updated_at, fact)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
)
_OWNED_ROW, _PASSIVE, _FACT = 13, 14, 3
"""How many arguments there are for a row."""


def _values(width: int, size: int) -> str:
    """So many rows of so many arguments each."""
    starts = range(1, width * size + 1, width)
    rows = (", ".join(f"${n}" for n in range(start, start + width)) for start in starts)
    return f"VALUES ({'), ('.join(rows)})"


# By the number of arguments for the rows.
_INSERT_PASSIVE = {
    _PASSIVE * size: f"INSERT INTO standfast_instances ({_ROW}, wake_at)"
    f" {_values(_PASSIVE, size)} ON CONFLICT (pattern, name, key) DO NOTHING"
    for size in _SIZES
}
_INSERT_OWNED = {
    _OWNED_ROW * size: f"INSERT INTO standfast_instances ({_ROW}, owner) SELECT v.*, token"
    f" FROM ({_values(_OWNED_ROW, size)}) AS v CROSS JOIN standfast_leases"
    f" WHERE token = ${_OWNED_ROW * size + 1} ON CONFLICT (pattern, name, key) DO NOTHING"
    for size in _SIZES
}
_INSERT_FACTS = {
    _FACT * size: f"INSERT INTO standfast_journal (id, seq, fact) {_values(_FACT, size)}"
    for size in _SIZES
}
_INSERT_OWNED_FACTS = {
    _FACT * size: "INSERT INTO standfast_journal (id, seq, fact)"
    f" SELECT v.column1, v.column2, v.column3 FROM ({_values(_FACT, size)}) AS v"
    " CROSS JOIN standfast_instances AS i WHERE i.id = v.column1"
    f" AND i.owner = {_LIVING_OWNER.format(f'${_FACT * size + 1}')}"
    " ON CONFLICT (id, seq) DO NOTHING"
    for size in _SIZES
}
_INSERT_MISSING_FACT = (
    "INSERT INTO standfast_journal (id, seq, fact) SELECT id, $1, $2 FROM standfast_instances"
    " WHERE id = $3 ON CONFLICT (id, seq) DO NOTHING"
)


def _release(wake_at: str) -> str:
    # Waiting mail makes it due at once: at the time of the mail, so that turns are kept, but never
    # later than now, should the sender's clock be ahead.
    return (
        f"owner = NULL, wake_at = coalesce((SELECT min(min(m.at), $3, coalesce({wake_at}, $3))"
        " FROM standfast_mail AS m WHERE m.recipient = standfast_instances.id"
        f" AND m.body IS NOT NULL), {wake_at})"
    )


_CHANGE = (
    "status = $4, step = $5, cause = $6, version = coalesce($7, version), finished_at = $8,"
    " updated_at = $3"
)
_OWNED = f" WHERE id = $1 AND owner = {_LIVING_OWNER.format('$2')}"
_UPDATES = {
    "change": f"UPDATE standfast_instances SET {_CHANGE}{_OWNED}",
    "release": f"UPDATE standfast_instances SET {_release('$4')}{_OWNED}",
    "both": f"UPDATE standfast_instances SET {_CHANGE}, {_release('$9')}{_OWNED}",
    "finish": f"UPDATE standfast_instances SET {_CHANGE}, {_release('NULL')}{_OWNED}",
}
_WAKE = (
    "UPDATE standfast_instances SET wake_at = min(coalesce(wake_at, $2), $2, $3)"
    " WHERE id = $1 AND owner IS NULL"
)

_head: Callable[[Instance], tuple[Any, ...]] = attrgetter(
    *("pattern", "name", "version", "key", "correlation_id", "input_hash", "status", "step"),
    "cause",
)
"""The columns between the id and the times."""


def start(
    starts: Sequence[Start], *, owner: int | None, riding: bool = False
) -> Script[list[StartAnswer]]:
    """`JournalStore.start`; `riding` in a transaction where each statement may take a while."""
    if riding and len(starts) == 1:
        return [(yield from _start_one(starts[0]))]
    rows: list[Any] = []
    facts: list[Any] = []
    for one in starts:
        row, id = one.instance, bytearray(one.instance.id.bytes)
        rows += (id, *_head(row), row.deadline_at, row.created_at, row.updated_at)
        if owner is None:
            rows.append(row.wake_at)
        facts += (id, 0, one.fact)
    statements, last = (_INSERT_PASSIVE, ()) if owner is None else (_INSERT_OWNED, (owner,))
    new = 0
    if len(starts) == 1:  # as mostly, and then there is nothing to be divided
        new = (yield Statement(statements[len(rows)], [(*rows, *last)], True))[0][0]
    else:
        for insert in _inserts(statements, rows, *last):
            new += (yield insert)[0][0]
    if new == len(starts):
        if new == 1:
            yield Statement(_INSERT_FACTS[_FACT], [facts], True)
        else:
            yield from _inserts(_INSERT_FACTS, facts)
        return [StartAnswer(s.instance.id, True, s.instance.input_hash) for s in starts]
    if owner is not None:
        yield from holding(owner)
    # Some keys are taken. Those that were inserted just now are the ones without a first fact.
    answers: list[StartAnswer] = []
    for one in starts:
        row = one.instance
        rows = yield Statement(_INSERT_MISSING_FACT, [(0, one.fact, row.id.bytes)], True)
        answers.append(_started(one) if rows[0][0] else (yield from _holder(one)))
    return answers


def _start_one(start: Start) -> Script[StartAnswer]:
    row = start.instance
    times = (row.wake_at, row.deadline_at, row.created_at, row.updated_at)
    # Run as one of many, a statement is answered with the number of rows that it touched.
    rows = yield Statement(
        _START_ONE, [(bytearray(row.id.bytes), *_head(row), *times, start.fact)], True
    )
    return _started(start) if rows[0][0] else (yield from _holder(start))


def _started(start: Start) -> StartAnswer:
    return StartAnswer(start.instance.id, True, start.instance.input_hash)


def _holder(start: Start) -> Script[StartAnswer]:
    """The answer to a start that found its key taken."""
    row = start.instance
    rows = yield Statement(
        "SELECT id, input_hash FROM standfast_instances"
        " WHERE pattern = $1 AND name = $2 AND key = $3",
        (row.pattern, row.name, row.key),
    )
    return StartAnswer(UUID(bytes=rows[0][0]), False, rows[0][1])


def _inserts(
    statements: dict[int, str], arguments: list[Any], *last: object
) -> Iterator[Statement]:
    """Statements that insert rows, as many with each as can be, and answer with their number.

    `statements` are by their number of `arguments`, after which `last` comes.
    """
    begin = 0
    for length, sql in statements.items():
        while len(arguments) - begin >= length:
            # Run as one of many, a statement is answered with the number of rows that it touched.
            yield Statement(sql, [(*arguments[begin : begin + length], *last)], True)
            begin += length


def append_fact(owner: int, append: Append) -> Statement:
    """What writes one that `is_one_fact`; where it touches no row, `refuse` tells why.

    It needs no transaction around it.
    """
    row = (bytearray(append.id.bytes), append.after + 1, append.facts[0], owner)
    return Statement(_INSERT_OWNED_FACTS[_FACT], row)


def is_one_fact(append: Append) -> bool:
    """Whether it is written by one statement."""
    return (
        len(append.facts) == 1
        and append.change is None
        and not (append.release or append.consumed or append.starts or append.mails)
    )


def append(owner: int, appends: Sequence[Append], *, now: float) -> Script[None]:
    """Write all of `appends`. Raises `StaleWriter` if one of them can't be: then roll back."""
    facts: list[bytearray | int | str] = []
    consumed: list[tuple[int, bytearray]] = []
    starts: list[Start] = []
    mails: list[Mail] = []
    updates: dict[str, list[tuple[Any, ...]]] = {}
    for append in appends:
        id, number = bytearray(append.id.bytes), append.after
        for fact in append.facts:
            number += 1
            facts += (id, number, fact)
        if append.consumed:
            consumed += ((number, id) for number in append.consumed)
        if append.starts:
            starts += map(due_at_once, append.starts)
        if append.mails:
            mails += append.mails
        change = append.change
        if change is not None:
            row: tuple[Any, ...] = (
                id,
                owner,
                now,
                change.status,
                change.step,
                change.cause,
                change.version,
                change.finished_at,
            )
            if change.finished_at is not None:
                updates.setdefault("finish", []).append(row)
            elif append.release:
                updates.setdefault("both", []).append((*row, append.wake_at))
            else:
                updates.setdefault("change", []).append(row)
        elif append.release:
            updates.setdefault("release", []).append((id, owner, now, append.wake_at))
        elif not append.facts:
            owned = yield Statement(f"SELECT 1 FROM standfast_instances{_OWNED}", (id, owner))
            if not owned:
                yield from refuse(owner, appends)
    for insert in _inserts(_INSERT_OWNED_FACTS, facts, owner):
        new = (yield insert)[0][0]
        if new * _FACT + 1 != len(insert.args[0]):
            yield from refuse(owner, appends)
    if consumed:
        yield Statement(
            "UPDATE standfast_mail SET body = NULL WHERE number = $1 AND recipient = $2",
            consumed,
            True,
        )
    for kind, changed in updates.items():
        rows = yield Statement(_UPDATES[kind], changed, True)
        if rows[0][0] != len(changed):
            yield from refuse(owner, appends)
    if starts:
        yield from start(starts, owner=None)
    if mails:
        yield from send(mails, now=now)


def refuse(owner: int, appends: Sequence[Append]) -> Script[None]:
    """Raise the `StaleWriter` that says why they can't be written."""
    yield from holding(owner)
    for append in appends:
        owned = yield Statement(
            f"SELECT 1 FROM standfast_instances{_OWNED}", (append.id.bytes, owner)
        )
        if not owned:
            raise _not_owned(append.id, owner)
    raise StaleWriter(
        f"instance {appends[0].id} already has a fact {appends[0].after + 1}: load it anew"
    )


def send(mails: Sequence[Mail], *, now: float) -> Script[list[bool]]:
    """`JournalStore.send`."""
    answers: list[bool] = []
    for mail in mails:
        to = mail.to.bytes
        known = yield Statement("SELECT 1 FROM standfast_instances WHERE id = $1", (to,))
        answers.append(bool(known))
        if not known:
            continue
        rows = yield Statement(
            "INSERT INTO standfast_mail (recipient, id, kind, body, at) VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT (recipient, id) DO NOTHING",
            [(to, mail.id, mail.subject, mail.body, mail.at)],
            True,
        )
        if rows[0][0]:
            yield Statement(_WAKE, [(to, mail.at, now)], True)
    return answers


def set_aside(owner: int, id: UUID, status: str, cause: str, *, now: float) -> Script[None]:
    """`JournalStore.set_aside`."""
    rows = yield Statement(
        "UPDATE standfast_instances SET status = $4, cause = $5, owner = NULL, wake_at = NULL,"
        f" updated_at = $3{_OWNED}",
        [(id.bytes, owner, now, status, cause)],
        True,
    )
    if not rows[0][0]:
        yield from holding(owner)
        raise _not_owned(id, owner)


def _not_owned(id: UUID, owner: int) -> StaleWriter:
    """The error for a write to an instance of somebody else's, or nobody's."""
    return StaleWriter(f"instance {id} isn't owned by {owner}: nothing was written")


BY_ID = f"SELECT {COLUMNS} FROM standfast_instances WHERE id = $1"
BY_KEY = f"SELECT {COLUMNS} FROM standfast_instances WHERE pattern = $1 AND name = $2 AND key = $3"


def look_up(text: str, *args: object) -> Script[Instance | None]:
    """`JournalWriter.instance`, and `by_key`."""
    rows = yield Statement(text, args)
    # A row of someone else's driver need know no more than positions.
    return instance([rows[0][n] for n in range(WIDTH)]) if rows else None
