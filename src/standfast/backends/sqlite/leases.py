"""Worker leases on SQLite: one live worker at a time, timed by the machine's own clock."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from standfast.backends.sqlite.connection import snapshot, transact
from standfast.ports.leases import Worker

if TYPE_CHECKING:
    from standfast.backends.sqlite.database import SqliteDatabase


class SqliteLeases:
    """`WorkerLeases` on SQLite. Ask the `SqliteDatabase` for it."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def register(
        self, name: str, kinds: Sequence[tuple[str, str, int]], *, ttl: float
    ) -> int | None:
        """See `WorkerLeases.register`."""
        now = self._database.now()

        def work(con: sqlite3.Connection) -> int | None:
            _expire(con, now)
            if con.execute("SELECT 1 FROM standfast_workers").fetchone():
                return None
            return con.execute(
                "INSERT INTO standfast_workers (name, kinds, expires_at) VALUES (?, ?, ?)",
                (name, json.dumps([list(kind) for kind in kinds]), now + ttl),
            ).lastrowid

        return await self._database.write(lambda con: transact(con, work))

    async def renew(self, token: int, *, ttl: float) -> bool:
        """See `WorkerLeases.renew`."""
        expires_at = self._database.now() + ttl

        def work(con: sqlite3.Connection) -> bool:
            return bool(
                con.execute(
                    "UPDATE standfast_workers SET expires_at = ? WHERE token = ?",
                    (expires_at, token),
                ).rowcount
            )

        return await self._database.write(lambda con: transact(con, work))

    async def expire(self) -> list[int]:
        """See `WorkerLeases.expire`."""
        now = self._database.now()

        def overdue(con: sqlite3.Connection) -> bool:
            found = con.execute("SELECT 1 FROM standfast_workers WHERE expires_at <= ?", (now,))
            return found.fetchone() is not None

        if not await self._database.read(overdue):
            return []
        return await self._database.write(lambda con: transact(con, lambda con: _expire(con, now)))

    async def release(self, token: int) -> None:
        """See `WorkerLeases.release`."""
        now = self._database.now()

        def work(con: sqlite3.Connection) -> None:
            con.execute("DELETE FROM standfast_workers WHERE token = ?", (token,))
            _free(con, token, now)

        await self._database.write(lambda con: transact(con, work))

    async def workers(self) -> list[Worker]:
        """See `WorkerLeases.workers`."""
        now = self._database.now()

        def work(con: sqlite3.Connection) -> list[Worker]:
            rows = con.execute(
                "SELECT token, name, kinds, expires_at, (SELECT count(*) FROM standfast_instances"
                " WHERE owner = token) FROM standfast_workers ORDER BY token"
            ).fetchall()
            return [
                Worker(token, name, kinds_from(kinds), expires_at - now, owned)
                for token, name, kinds, expires_at, owned in rows
            ]

        return await self._database.read(lambda con: snapshot(con, work))


def kinds_from(text: str) -> tuple[tuple[str, str, int], ...]:
    """The kinds of a worker's row."""
    return tuple((pattern, name, version) for pattern, name, version in json.loads(text))


def _expire(con: sqlite3.Connection, now: float) -> list[int]:
    ended = con.execute(
        "DELETE FROM standfast_workers WHERE expires_at <= ? RETURNING token", (now,)
    ).fetchall()
    for (token,) in ended:
        _free(con, token, now)
    return sorted(token for (token,) in ended)


def _free(con: sqlite3.Connection, token: int, now: float) -> None:
    con.execute(
        "UPDATE standfast_instances SET owner = NULL, wake_at = ? WHERE owner = ?", (now, token)
    )
