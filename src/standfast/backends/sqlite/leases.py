"""Named leases on SQLite, timed by the machine's own clock."""

from __future__ import annotations

import sqlite3
from asyncio import Future
from collections.abc import Callable, Sequence

from standfast.backends.sqlite.database import SqliteDatabase
from standfast.backends.sqlite.file import SqliteFile
from standfast.errors import StaleWriter
from standfast.ports.database import Script, Statement, StoreTransaction, carry_out, of_dialect
from standfast.ports.leases import Lease, LeaseStore, LeaseWriter
from standfast.ports.providing import Provided
from standfast.ports.schema import SchemaLine, SchemaMigration

# AUTOINCREMENT: a token is never given twice, also when its row is gone.
LINE = SchemaLine(
    "coordination",
    (
        SchemaMigration(
            1,
            "leases",
            """\
CREATE TABLE standfast_leases (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    holder TEXT NOT NULL,
    note TEXT NOT NULL,
    expires_at REAL NOT NULL
) STRICT;
""",
        ),
    ),
)


def holding(token: int) -> Script[None]:
    """Raise `StaleWriter` if the lease was ended: it may be overdue, as long as nobody did that."""
    if not (yield Statement("SELECT 1 FROM standfast_leases WHERE token = $1", (token,))):
        raise StaleWriter(f"the lease {token} was ended: acquire another, with a new token")


class SqliteLeaseWriter:
    """`LeaseWriter` on SQLite, where a transaction that has begun to write is the only one."""

    def __init__(self, tx: StoreTransaction) -> None:
        self._tx = of_dialect(tx, "sqlite")

    async def hold(self, token: int) -> None:
        """See `LeaseWriter.hold`."""
        await carry_out(self._tx, holding(token))


class SqliteLeases:
    """`LeaseStore` on SQLite. Ask the `SqliteDatabase` for it."""

    table = "standfast_leases"
    holding = staticmethod(holding)

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def within(self, tx: StoreTransaction) -> LeaseWriter:
        """See `LeaseStore.within`."""
        return SqliteLeaseWriter(tx)

    async def acquire(
        self, names: Sequence[str], holder: str, *, ttl: float, note: str = "{}"
    ) -> list[int | None]:
        """See `LeaseStore.acquire`."""
        now = self._file.now()

        def work(con: sqlite3.Connection) -> tuple[list[int | None], list[int]]:
            ended = _expire(con, now)
            return [_acquire(con, name, holder, note, now + ttl) for name in names], ended

        tokens, ended = await self._file.transact(work)
        self._tell(ended)
        return tokens

    async def renew(self, tokens: Sequence[int], *, ttl: float) -> list[bool]:
        """See `LeaseStore.renew`. It goes before all other writes of this process.

        While one of its transactions is open nobody can end a lease, and it renews them at its end:
        so what stands at that time is answered at once.
        """
        if not tokens:
            return []

        def work(con: sqlite3.Connection) -> list[bool]:
            expires_at = self._file.now() + ttl
            return [
                con.execute(
                    "UPDATE standfast_leases SET expires_at = ? WHERE token = ?",
                    (expires_at, token),
                ).rowcount
                > 0
                for token in tokens
            ]

        def look(con: sqlite3.Connection) -> list[bool]:
            sql = "SELECT 1 FROM standfast_leases WHERE token = ?"
            return [con.execute(sql, (token,)).fetchone() is not None for token in tokens]

        renewing, rides = self._file.hurry(work)
        if not rides:
            return await renewing
        renewing.add_done_callback(_heard)
        return await self._file.read(look)

    async def annotate(self, token: int, note: str) -> None:
        """See `LeaseStore.annotate`."""

        def work(con: sqlite3.Connection) -> None:
            con.execute("UPDATE standfast_leases SET note = ? WHERE token = ?", (note, token))

        await self._file.transact(work)

    async def release(self, tokens: Sequence[int]) -> None:
        """See `LeaseStore.release`."""
        if not tokens:
            return

        def work(con: sqlite3.Connection) -> list[int]:
            sql = "DELETE FROM standfast_leases WHERE token = ?"
            return [token for token in tokens if con.execute(sql, (token,)).rowcount]

        self._tell(await self._file.transact(work))

    async def expire(self) -> list[int]:
        """See `LeaseStore.expire`."""
        now = self._file.now()

        def overdue(con: sqlite3.Connection) -> bool:
            found = con.execute("SELECT 1 FROM standfast_leases WHERE expires_at <= ?", (now,))
            return found.fetchone() is not None

        # Nearly always none has, and the reader knows without the write lock.
        if not await self._file.read(overdue):
            return []
        ended = await self._file.transact(lambda con: _expire(con, now))
        self._tell(ended)
        return ended

    async def leases(self, prefix: str = "") -> list[Lease]:
        """See `LeaseStore.leases`."""
        now = self._file.now()

        def work(con: sqlite3.Connection) -> list[Lease]:
            rows = con.execute(
                "SELECT name, token, holder, note, expires_at FROM standfast_leases"
                " WHERE substr(name, 1, length(?)) = ? ORDER BY token",
                (prefix, prefix),
            ).fetchall()
            return [
                Lease(name, token, holder, note, expires_at - now)
                for name, token, holder, note, expires_at in rows
            ]

        return await self._file.read(work)

    def on_freed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `LeaseStore.on_freed`. Any commit of another process is a hint."""
        return self._file.hints.subscribe("freed", callback)

    def _tell(self, ended: Sequence[int]) -> None:
        if ended:
            self._file.hints.tell("freed")


def _heard(renewing: Future[list[bool]]) -> None:
    """What comes of a renewal that nobody awaits: the next one will tell."""
    if not renewing.cancelled():
        renewing.exception()


def _acquire(
    con: sqlite3.Connection, name: str, holder: str, note: str, expires_at: float
) -> int | None:
    row = con.execute(
        "INSERT INTO standfast_leases (name, holder, note, expires_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO NOTHING RETURNING token",
        (name, holder, note, expires_at),
    ).fetchone()
    return None if row is None else row[0]


def _expire(con: sqlite3.Connection, now: float) -> list[int]:
    ended = con.execute(
        "DELETE FROM standfast_leases WHERE expires_at <= ? RETURNING token", (now,)
    ).fetchall()
    return sorted(token for (token,) in ended)


def _make(database: SqliteDatabase) -> SqliteLeases:
    return SqliteLeases(database.file)


PROVIDES: dict[type, Provided] = {LeaseStore: Provided(_make, LINE)}
