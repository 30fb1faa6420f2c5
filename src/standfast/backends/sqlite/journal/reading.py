"""Reading the journal: plain functions on a connection, inside the caller's transaction."""

# ruff: noqa: S608 - only column names and placeholders are put into the SQL text

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from standfast.backends.sqlite.journal.tables import STUCK as IS_STUCK
from standfast.ports.journal import STUCK, Filter, Instance, Loaded, Mail, Stuck, parent_of
from standfast.ports.leases import kinds_of

COLUMNS = (
    "id, pattern, name, version, key, correlation_id, input_hash, status, step, cause, owner,"
    " wake_at, deadline_at, created_at, updated_at, finished_at"
)
WIDTH = COLUMNS.count(",") + 1
_CHUNK = 500
"""How many ids go into one statement."""


def instance(row: Sequence[Any]) -> Instance:
    """The `Instance` of a row of `COLUMNS`."""
    return Instance(UUID(bytes=row[0]), *row[1:])


def load(con: sqlite3.Connection, ids: Sequence[UUID]) -> list[Loaded]:
    """`JournalStore.load`: in the order of `ids`.

    Damaged text, that isn't UTF-8, comes with lone surrogates (PEP 383): so it can't be taken for
    JSON, and one damaged record doesn't keep the others from being claimed.
    """
    try:
        return _load(con, ids)
    except sqlite3.OperationalError as error:
        if not str(error).startswith("Could not decode"):
            raise
    con.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        return _load(con, ids)
    finally:
        con.text_factory = str


def _load(con: sqlite3.Connection, ids: Sequence[UUID]) -> list[Loaded]:
    found: dict[bytes, Loaded] = {}
    stood: dict[bytes, int] = {}
    wanted = list(dict.fromkeys(id.bytes for id in ids))
    for chunk, marks in _chunks(wanted):
        for *row, recoveries, stood_at in con.execute(
            f"SELECT {COLUMNS}, recoveries, stood_at FROM standfast_instances"
            f" WHERE id IN ({marks})",
            chunk,
        ).fetchall():
            found[row[0]] = Loaded(instance(row), [], recoveries=recoveries)
            stood[row[0]] = stood_at
        for key, fact in con.execute(
            f"SELECT id, fact FROM standfast_journal WHERE id IN ({marks}) ORDER BY id, seq", chunk
        ).fetchall():
            if key in found:
                found[key].facts.append(fact)
        for row in _mail(con, f"recipient IN ({marks})", chunk):
            if row[1] in found:
                found[row[1]].mails.append(_as_mail(row))
    for key, loaded in found.items():
        if loaded.recoveries and stood[key] != len(loaded.facts) - 1:
            loaded.recoveries = 0  # there was progress since
    return [found[key] for key in wanted if key in found]


def collect(con: sqlite3.Connection, owner: int, ids: Sequence[UUID]) -> list[Mail]:
    """`JournalStore.collect`."""
    mails: list[Mail] = []
    for chunk, marks in _chunks([id.bytes for id in ids]):
        owned = (
            f"SELECT id FROM standfast_instances WHERE id IN ({marks})"
            " AND owner = (SELECT token FROM standfast_leases WHERE token = ?)"
        )
        mails += map(_as_mail, _mail(con, f"recipient IN ({owned})", [*chunk, owner]))
    return sorted(mails, key=lambda mail: mail.number)


def _mail(con: sqlite3.Connection, where: str, args: Sequence[Any]) -> list[Any]:
    return con.execute(
        "SELECT number, recipient, id, kind, body, at FROM standfast_mail"
        f" WHERE {where} AND body IS NOT NULL ORDER BY number",
        args,
    ).fetchall()


def _as_mail(row: Sequence[Any]) -> Mail:
    number, recipient, id, kind, body, at = row
    return Mail(UUID(bytes=recipient), id, kind, body, at, number)


def due(
    con: sqlite3.Connection, kinds: Iterable[tuple[str, str, int]], *, now: float, limit: int
) -> list[UUID]:
    """The passive instances of `kinds` that are due, the longest due first."""
    found: list[tuple[float, bytes]] = []
    for kind in dict.fromkeys(kinds):
        found += con.execute(
            "SELECT wake_at, id FROM standfast_instances WHERE owner IS NULL AND pattern = ?"
            " AND name = ? AND version = ? AND wake_at <= ? ORDER BY wake_at, id LIMIT ?",
            (*kind, now, limit),
        ).fetchall()
    found.sort()
    return [UUID(bytes=key) for _, key in found[:limit]]


def next_wake(con: sqlite3.Connection, kinds: Iterable[tuple[str, str, int]]) -> float | None:
    """`JournalStore.next_wake`."""
    times: list[float] = []
    for kind in kinds:
        row = con.execute(
            "SELECT wake_at FROM standfast_instances WHERE owner IS NULL AND pattern = ?"
            " AND name = ? AND version = ? AND wake_at IS NOT NULL ORDER BY wake_at LIMIT 1",
            kind,
        ).fetchone()
        if row is not None:
            times.append(row[0])
    return min(times, default=None)


def unclaimable(
    con: sqlite3.Connection, pattern: str, *, due_before: float, status: str, now: float
) -> list[tuple[str, int]]:
    """The (name, version) that no live worker has and that have instances to flag."""
    notes = con.execute("SELECT note FROM standfast_leases WHERE expires_at > ?", (now,)).fetchall()
    live = {kind for (note,) in notes for kind in kinds_of(note)}
    return [
        (name, version)
        for name, version in _waiting_kinds(con, pattern)
        if (pattern, name, version) not in live
        and con.execute(
            "SELECT 1 FROM standfast_instances WHERE owner IS NULL AND pattern = ? AND name = ?"
            " AND version = ? AND wake_at < ? AND status <> ? AND finished_at IS NULL LIMIT 1",
            (pattern, name, version, due_before, status),
        ).fetchone()
    ]


def _waiting_kinds(con: sqlite3.Connection, pattern: str) -> Iterator[tuple[str, int]]:
    """The (name, version) of the passive instances that are due some time: one look-up each."""
    at: tuple[str, int] = ("", -(2**63))
    while True:
        row = con.execute(
            "SELECT name, version FROM standfast_instances WHERE owner IS NULL AND pattern = ?"
            " AND (name, version) > (?, ?) AND wake_at IS NOT NULL"
            " ORDER BY name, version LIMIT 1",
            (pattern, *at),
        ).fetchone()
        if row is None:
            return
        at = row
        yield row


def orphaned(con: sqlite3.Connection) -> list[int]:
    """The owners whose lease doesn't exist any more: one look-up in the index for each owner."""
    rows = con.execute(
        "WITH RECURSIVE owners (token) AS ("
        " SELECT min(owner) FROM standfast_instances WHERE owner IS NOT NULL"
        " UNION ALL SELECT (SELECT min(owner) FROM standfast_instances WHERE owner > owners.token)"
        " FROM owners WHERE owners.token IS NOT NULL)"
        " SELECT token FROM owners WHERE token IS NOT NULL"
        " AND token NOT IN (SELECT token FROM standfast_leases)"
    ).fetchall()
    return [token for (token,) in rows]


def owned_by(con: sqlite3.Connection, owner: int) -> Sequence[UUID]:
    """`JournalStore.owned_by`."""
    rows = con.execute("SELECT id FROM standfast_instances WHERE owner = ?", (owner,)).fetchall()
    return [UUID(bytes=key) for (key,) in rows]


def owned(con: sqlite3.Connection) -> Mapping[int, int]:
    """`JournalStore.owned`."""
    rows = con.execute(
        "SELECT owner, count(*) FROM standfast_instances WHERE owner IS NOT NULL GROUP BY owner"
    ).fetchall()
    return dict(rows)


def find(
    con: sqlite3.Connection,
    filter: Filter,
    *,
    limit: int,
    after: UUID | None,
) -> list[Instance]:
    """`JournalStore.find`."""
    terms: list[str] = []
    args: list[Any] = []

    def restrict(term: str, *values: Any) -> None:
        terms.append(term)
        args.extend(values)

    stuck = bool(filter.statuses) and set(filter.statuses) <= set(STUCK)
    # A unary + keeps SQLite from using the index of keys for a pattern alone: newest first by id
    # is the primary key's own order.
    keyed = "" if filter.key or stuck else "+"
    if stuck:
        restrict(IS_STUCK)
    if filter.pattern:
        restrict(f"{keyed}pattern = ?", filter.pattern)
    if filter.name:
        restrict(f"{keyed}name = ?", filter.name)
    if filter.key:
        restrict("key = ?", filter.key)
    if filter.statuses:
        restrict(f"status IN ({_marks(filter.statuses)})", *filter.statuses)
    if filter.step:
        restrict("step = ?", filter.step)
    if filter.version is not None:
        restrict("+version = ?", filter.version)
    if filter.created_before is not None:
        restrict("created_at < ?", filter.created_before)
    if filter.created_after is not None:
        restrict("created_at >= ?", filter.created_after)
    if filter.ids:
        restrict(f"id IN ({_marks(filter.ids)})", *(id.bytes for id in filter.ids))
    if filter.id_end:
        restrict("substr(hex(id), -?) = ?", len(filter.id_end), filter.id_end.upper())
    if after is not None:
        restrict("id < ?", after.bytes)
    where = f"WHERE {' AND '.join(terms)}" if terms else ""
    rows = con.execute(
        f"SELECT {COLUMNS} FROM standfast_instances {where} ORDER BY id DESC LIMIT ?",
        [*args, limit],
    ).fetchall()
    return [instance(row) for row in rows]


def by_key(con: sqlite3.Connection, pattern: str, name: str, key: str) -> Instance | None:
    """`JournalStore.by_key`."""
    row = con.execute(
        f"SELECT {COLUMNS} FROM standfast_instances WHERE pattern = ? AND name = ? AND key = ?",
        (pattern, name, key),
    ).fetchone()
    return None if row is None else instance(row)


def count(con: sqlite3.Connection, pattern: str) -> Mapping[tuple[str, str], int]:
    """`JournalStore.count`."""
    rows = con.execute(
        "SELECT name, status, count(*) FROM standfast_instances WHERE +pattern = ?"
        " GROUP BY name, status",
        (pattern,),
    ).fetchall()
    return {(name, status): number for name, status, number in rows}


def stuck(con: sqlite3.Connection, pattern: str) -> list[Stuck]:
    """`JournalStore.stuck`."""
    rows = con.execute(
        "SELECT name, status, count(*), min(updated_at) FROM standfast_instances"
        f" WHERE pattern = ? AND {IS_STUCK} GROUP BY name, status",
        (pattern,),
    ).fetchall()
    return [Stuck(*row) for row in rows]


def doomed(
    con: sqlite3.Connection,
    pattern: str,
    *,
    before: tuple[float, bytes],
    limit: int,
    ids: Sequence[UUID],
) -> tuple[list[tuple[bytes]], tuple[float, bytes] | None]:
    """The keys of what `JournalStore.purge` is to delete, and before whom to go on.

    It goes from the newest to the oldest, so that parents, which end after their children, go
    first.
    """
    # A unary + keeps SQLite from using the index of finished ones where ids are given.
    plus, only = ("+", f" AND id IN ({_marks(ids)})") if ids else ("", "")
    found = con.execute(
        f"SELECT id, key, finished_at FROM standfast_instances WHERE {plus}pattern = ?"
        f" AND {plus}finished_at <= ? AND ({plus}finished_at, {plus}id) < (?, ?)"
        f" AND +owner IS NULL{only}"
        f" ORDER BY {plus}finished_at DESC, {plus}id DESC LIMIT ?",
        (pattern, before[0], *before, *(id.bytes for id in ids), limit),
    ).fetchall()
    keys = [(id,) for id, key, _ in found if not _has_parent(con, key)]
    return keys, (found[-1][2], found[-1][0]) if len(found) == limit else None


def _has_parent(con: sqlite3.Connection, key: str) -> bool:
    parent = parent_of(key)
    return parent is not None and bool(
        con.execute("SELECT 1 FROM standfast_instances WHERE id = ?", (parent.bytes,)).fetchone()
    )


def count_finished(con: sqlite3.Connection, pattern: str, *, finished_before: float) -> int:
    """`JournalStore.count_finished`."""
    old = "pattern = ? AND finished_at < ? AND +owner IS NULL"
    found = con.execute(
        f"SELECT key FROM standfast_instances WHERE {old}", (pattern, finished_before)
    )

    def stays(key: str) -> bool:
        """Whether something above it does; as far up as all goes, it goes, too."""
        while (parent := parent_of(key)) is not None:
            row = con.execute(
                "SELECT key, coalesce(+pattern = ? AND +finished_at < ? AND owner IS NULL, 0)"
                " FROM standfast_instances WHERE id = ?",
                (pattern, finished_before, parent.bytes),
            ).fetchone()
            if row is None:
                return False
            key, goes = row
            if not goes:
                return True
        return False

    return sum(not stays(key) for (key,) in found)


def _chunks(keys: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], str]]:
    for begin in range(0, len(keys), _CHUNK):
        chunk = keys[begin : begin + _CHUNK]
        yield chunk, _marks(chunk)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
