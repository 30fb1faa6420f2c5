"""Writing to the journal: plain functions on a connection, inside the caller's write transaction.

An instance's `owner` is cleared in the same transaction that ends the lease, so "owned by this
token" also says that the token's lease still stands.
"""

# ruff: noqa: S608 - only column names and placeholders are put into the SQL text

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from standfast.backends.sqlite.errors import translate
from standfast.errors import StaleWriter, StandfastError
from standfast.ports.journal import Append, Mail, Start, Started

_INSERT_INSTANCE = (
    "INSERT INTO standfast_instances (id, pattern, name, version, key, correlation_id, input_hash,"
    " status, step, cause, owner, wake_at, deadline_at, created_at, updated_at, finished_at)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
    " WHERE ? IS NULL OR EXISTS (SELECT 1 FROM standfast_workers WHERE token = ?)"
    " ON CONFLICT (pattern, name, key) DO NOTHING"
)
_INSERT_FACT = "INSERT INTO standfast_journal (id, seq, fact) VALUES (?, ?, ?)"
# One statement for many rows: each step of a statement gives up the interpreter's lock and has to
# wait to get it back, which costs more than the row when the event loop is busy.
_SIZES = (64, 8, 1)
_INSERT_OWNED_FACTS = {
    size: "INSERT INTO standfast_journal (id, seq, fact) SELECT v.column1, v.column2, v.column3"
    f" FROM (VALUES {', '.join(['(?, ?, ?)'] * size)}) AS v CROSS JOIN standfast_instances AS i"
    " WHERE i.id = v.column1 AND i.owner = ?"
    for size in _SIZES
}
_CHANGE = (
    "status = :status, step = :step, cause = :cause, version = coalesce(:version, version),"
    " finished_at = :finished_at, updated_at = :now"
)
# Waiting mail makes it due at once: at the time of the mail, so that turns are kept, but never
# later than now, should the sender's clock be ahead.
_RELEASE = (
    "owner = NULL, wake_at = coalesce((SELECT min(min(m.at), :now, coalesce(:wake_at, :now))"
    " FROM standfast_mail AS m WHERE m.recipient = standfast_instances.id"
    " AND m.body IS NOT NULL), :wake_at)"
)
_WHERE = " WHERE id = :id AND owner = :owner"
_UPDATES = {
    (True, False): f"UPDATE standfast_instances SET {_CHANGE}{_WHERE}",
    (False, True): f"UPDATE standfast_instances SET {_RELEASE}{_WHERE}",
    (True, True): f"UPDATE standfast_instances SET {_CHANGE}, {_RELEASE}{_WHERE}",
}
_WAKE = (
    "UPDATE standfast_instances SET wake_at = min(coalesce(wake_at, :at), :at, :now)"
    " WHERE id = :id AND owner IS NULL"
)


class Stale(Exception):
    """One of a group of appends can't be written, so none was wholly: roll back."""


REFUSED = (
    Stale,
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
"""What is wrong with one append, as against the database: the others can be written."""


def start(con: sqlite3.Connection, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
    """`JournalStore.start`."""
    if len(starts) == 1:
        return [_start_one(con, starts[0], owner)]
    con.execute("SAVEPOINT standfast_start")
    created = con.executemany(_INSERT_INSTANCE, [_columns(s, owner) for s in starts]).rowcount
    if created == len(starts):
        con.execute("RELEASE standfast_start")
        con.executemany(_INSERT_FACT, [(s.instance.id.bytes, 0, s.fact) for s in starts])
        return [Started(s.instance.id, True, s.instance.input_hash) for s in starts]
    # Some keys are taken (or the lease is lost), and only one by one does SQLite tell which.
    con.execute("ROLLBACK TO standfast_start")
    con.execute("RELEASE standfast_start")
    return [_start_one(con, start, owner) for start in starts]


def _start_one(con: sqlite3.Connection, start: Start, owner: int | None) -> Started:
    row = start.instance
    if con.execute(_INSERT_INSTANCE, _columns(start, owner)).rowcount:
        con.execute(_INSERT_FACT, (row.id.bytes, 0, start.fact))
        return Started(row.id, True, row.input_hash)
    if owner is not None and not has_lease(con, owner):
        raise lost(owner)
    holder, input_hash = con.execute(
        "SELECT id, input_hash FROM standfast_instances WHERE pattern = ? AND name = ? AND key = ?",
        (row.pattern, row.name, row.key),
    ).fetchone()
    return Started(UUID(bytes=holder), False, input_hash)


def _columns(start: Start, owner: int | None) -> tuple[Any, ...]:
    row = start.instance
    return (
        row.id.bytes,
        row.pattern,
        row.name,
        row.version,
        row.key,
        row.correlation_id,
        row.input_hash,
        row.status,
        row.step,
        row.cause,
        owner,
        row.wake_at if owner is None else None,
        row.deadline_at,
        row.created_at,
        row.updated_at,
        row.finished_at,
        owner,
        owner,
    )


def append(con: sqlite3.Connection, owner: int, appends: Sequence[Append], *, now: float) -> None:
    """Write all of `appends`. Raises `Stale` if one of them can't be: the caller rolls back."""
    facts: list[bytes | int | str] = []
    for append in appends:
        id, number = append.id.bytes, append.after
        for fact in append.facts:
            number += 1
            facts += (id, number, fact)
    try:
        _insert_facts(con, owner, facts)
    except sqlite3.IntegrityError as error:
        raise Stale from error
    consumed: list[tuple[int, bytes]] = []
    starts: list[Start] = []
    mails: list[Mail] = []
    updates: dict[tuple[bool, bool], list[dict[str, Any]]] = {}
    for append in appends:
        if append.consumed:
            consumed += ((number, append.id.bytes) for number in append.consumed)
        if append.starts:
            starts += append.starts
        if append.mails:
            mails += append.mails
        change = append.change
        if change is not None:
            finished = change.finished_at is not None
            updates.setdefault((True, append.release or finished), []).append(
                {
                    "id": append.id.bytes,
                    "owner": owner,
                    "status": change.status,
                    "step": change.step,
                    "cause": change.cause,
                    "version": change.version,
                    "finished_at": change.finished_at,
                    "wake_at": None if finished else append.wake_at,
                    "now": now,
                }
            )
        elif append.release:
            updates.setdefault((False, True), []).append(
                {"id": append.id.bytes, "owner": owner, "wake_at": append.wake_at, "now": now}
            )
        elif not append.facts and not _owned(con, append.id, owner):
            raise Stale
    if consumed:
        con.executemany(
            "UPDATE standfast_mail SET body = NULL WHERE number = ? AND recipient = ?", consumed
        )
    for kind, rows in updates.items():
        if con.executemany(_UPDATES[kind], rows).rowcount != len(rows):
            raise Stale
    if starts:
        start(con, starts, owner=None)
    if mails:
        send(con, mails, now=now)


def append_fact(con: sqlite3.Connection, owner: int, append: Append) -> None:
    """As `append`, for what `is_one_fact`: a statement that is a transaction of its own."""
    row = (append.id.bytes, append.after + 1, append.facts[0], owner)
    if con.execute(_INSERT_OWNED_FACTS[1], row).rowcount != 1:
        raise Stale


def is_one_fact(append: Append) -> bool:
    """Whether it is written by one statement."""
    return (
        len(append.facts) == 1
        and append.change is None
        and not (append.release or append.consumed or append.starts or append.mails)
    )


def _insert_facts(con: sqlite3.Connection, owner: int, facts: list[bytes | int | str]) -> None:
    begin = 0
    for size in _SIZES:
        sql, width = _INSERT_OWNED_FACTS[size], 3 * size
        while len(facts) - begin >= width:
            row = facts[begin : begin + width]
            row.append(owner)
            if con.execute(sql, row).rowcount != size:
                raise Stale
            begin += width


def append_each(
    con: sqlite3.Connection, owner: int, appends: Iterable[Append], *, now: float, path: str
) -> list[StandfastError | None]:
    """Write each of `appends` whole or not at all, and tell which. `path` is the database's."""
    answers: list[StandfastError | None] = []
    for one in appends:
        con.execute("SAVEPOINT standfast_append")
        try:
            append(con, owner, (one,), now=now)
            answers.append(None)
        except REFUSED as error:
            con.execute("ROLLBACK TO standfast_append")
            why = _why(con, owner, one) if isinstance(error, Stale) else translate(error, path)
            why.__cause__ = error
            answers.append(why)
        con.execute("RELEASE standfast_append")
    return answers


def send(con: sqlite3.Connection, mails: Iterable[Mail], *, now: float) -> list[bool]:
    """`JournalStore.send`."""
    answers: list[bool] = []
    for mail in mails:
        to = mail.to.bytes
        known = con.execute("SELECT 1 FROM standfast_instances WHERE id = ?", (to,)).fetchone()
        answers.append(known is not None)
        if known is None:
            continue
        new = con.execute(
            "INSERT INTO standfast_mail (recipient, id, kind, body, at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (recipient, id) DO NOTHING",
            (to, mail.id, mail.kind, mail.body, mail.at),
        ).rowcount
        if new:
            con.execute(_WAKE, {"id": to, "at": mail.at, "now": now})
    return answers


def has_lease(con: sqlite3.Connection, token: int) -> bool:
    """Whether the lease stands: it may be overdue, as long as nobody has ended it."""
    found = con.execute("SELECT 1 FROM standfast_workers WHERE token = ?", (token,)).fetchone()
    return found is not None


def lost(token: int) -> StaleWriter:
    """The error for a writer whose lease was ended."""
    return StaleWriter(f"the lease of worker {token} was ended: register again for a new token")


def _owned(con: sqlite3.Connection, id: UUID, owner: int) -> bool:
    found = con.execute(
        "SELECT 1 FROM standfast_instances WHERE id = ? AND owner = ?", (id.bytes, owner)
    ).fetchone()
    return found is not None


def _why(con: sqlite3.Connection, owner: int, append: Append) -> StaleWriter:
    if not has_lease(con, owner):
        return lost(owner)
    if not _owned(con, append.id, owner):
        return StaleWriter(f"instance {append.id} isn't owned by worker {owner}")
    return StaleWriter(f"instance {append.id} already has a fact {append.after + 1}: load it anew")
