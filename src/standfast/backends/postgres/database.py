"""PostgreSQL as the database: many workers, many processes, on one server.

Guarantees: what is answered is committed, as durably as the server is set to
(``synchronous_commit``). A worker whose lease was ended can't write. What is in flight when the
server goes away is reported as `StoreUnavailable`, and the same object works again once it is back.

Not guaranteed: hints (`JournalStore.on_due`) behind pgbouncer in transaction mode, which has no
LISTEN; the workers then find what is due by looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from standfast.backends.postgres import statements as sql
from standfast.backends.postgres.errors import DRIVER_ERRORS, translate
from standfast.backends.postgres.journal import PostgresJournal
from standfast.backends.postgres.leases import PostgresLeases
from standfast.backends.postgres.listener import Listener
from standfast.backends.postgres.options import PostgresOptions, parse, redact
from standfast.backends.postgres.pool import Pool
from standfast.backends.postgres.schema import LOCK_KEY, MIGRATIONS
from standfast.backends.postgres.transaction import PostgresTransaction
from standfast.clock import Clock
from standfast.ports.database import Capabilities, Migration, StoreTransaction
from standfast.ports.journal import JournalStore
from standfast.ports.leases import WorkerLeases


class PostgresDatabase:
    """A `Database` on PostgreSQL 13 or newer.

    `url` is ``postgresql://user:password@host:5432/database``; its query may hold the options of
    `PostgresOptions` and the driver's own (``sslmode=require``). Options given by name win over
    `options`, and the URL's win over both. The attribute `url` is without the password.

    Raises `ConfigurationError` for a wrong option.
    """

    capabilities = Capabilities(durable=True, many_workers=True, many_processes=True, write_lanes=2)
    migrations: Sequence[Migration] = MIGRATIONS

    def __init__(self, url: str, options: PostgresOptions | None = None, **given: Any) -> None:
        dsn, found = parse(url, replace(options or PostgresOptions(), **given))
        self.url = redact(url)
        self.options = found
        self._pool = Pool(dsn, redact(dsn), found)
        self._listener = Listener(self._pool)
        self.journal: JournalStore = PostgresJournal(self._pool, self._listener)
        self.leases: WorkerLeases = PostgresLeases(self._pool)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.url!r})"

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        await self._pool.open()

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        await self._listener.close()
        await self._pool.close()

    async def schema_version(self) -> int:
        """The number of the last migration applied, 0 for none."""
        known = await self._pool.fetch("SELECT to_regclass('standfast.migrations')::oid")
        if known[0][0] is None:
            return 0
        version: int = (await self._pool.fetch(_VERSION))[0][0]
        return version

    async def migrate(self) -> list[Migration]:
        """Apply what is missing, atomically and safely beside others who do the same."""
        done: list[Migration] = []
        try:
            async with self._pool.begin() as connection:
                await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
                known = await connection.fetchval("SELECT to_regclass('standfast.migrations')::oid")
                version = await connection.fetchval(_VERSION) if known else 0
                for migration in self.migrations:
                    if migration.number > version:
                        await connection.execute(migration.sql)
                        done.append(migration)
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place, own=False) from error
        return done

    async def clock_offset(self, clock: Clock) -> float:
        """See `Database.clock_offset`. Right to half the time that the server's answer takes."""
        asked = clock.now()
        rows = await self._pool.fetch(f"SELECT {sql.NOW}")
        server: float = rows[0][0]
        return server - (asked + clock.now()) / 2

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. READ COMMITTED, on one connection of the pool.

        Cancelled, or cut off from the server, while the commit itself runs, it may be committed.
        """
        return PostgresTransaction(self._pool)

    async def count_marks(self, *, before: float) -> int:
        """How many marks were set before that time (seconds since the epoch)."""
        number: int = (await self._pool.fetch(sql.COUNT_MARKS, before))[0][0]
        return number

    async def purge_marks(self, *, before: float, limit: int) -> int:
        """Delete up to `limit` marks set before that time (seconds since the epoch)."""
        return len(await self._pool.fetch(sql.PURGE_MARKS, before, limit))


_VERSION = "SELECT coalesce(max(number), 0) FROM standfast.migrations"
