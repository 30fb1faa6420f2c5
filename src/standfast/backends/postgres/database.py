"""PostgreSQL as the database: many workers, many processes, on one server.

Guarantees: what is answered is committed, as durably as the server is set to
(``synchronous_commit``). A holder whose lease was ended can't write with its token. What is in
flight when the server goes away is reported as `StoreUnavailable`, and the same object works again
once it is back.

Not guaranteed: hints (`JournalStore.on_due`, `LeaseStore.on_freed`) behind pgbouncer in transaction
mode, which has no LISTEN; then what is due or free is found by looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from standfast.backends.postgres.clock import NOW
from standfast.backends.postgres.connecting import Connector
from standfast.backends.postgres.errors import DRIVER_ERRORS, translate
from standfast.backends.postgres.listener import Listener
from standfast.backends.postgres.options import PostgresOptions, parse, redact
from standfast.backends.postgres.pool import Pool
from standfast.backends.postgres.transaction import PostgresTransaction
from standfast.clock import Clock
from standfast.ports.database import Capabilities, StoreTransaction
from standfast.ports.providing import Dialect, Ports
from standfast.ports.schema import SchemaLine

P = TypeVar("P")

VITAL = 2
"""Connections for leases: a renewal doesn't wait for one that waits for a lock."""
_WITHIN = 0.5
"""Seconds that the server's clock may take to answer."""


class PostgresDatabase:
    """A `Database` on PostgreSQL 13 or newer.

    `url` is ``postgresql://user:password@host:5432/database``; its query may hold the options of
    `PostgresOptions` and the driver's own (``sslmode=require``). Options given by name win over
    `options`, and the URL's win over both. The attribute `url` is without the password.

    `pool`, `vital` and `listener` are for the ports of this backend: `vital` has up to two
    connections more, made when they are needed, for what keeps the process in its rights: its
    leases and the time. They never wait behind the transactions of users.

    Raises `ConfigurationError` for a wrong option.
    """

    dialect: Dialect = "postgresql"
    capabilities = Capabilities(durable=True, many_workers=True, many_processes=True, write_lanes=2)

    def __init__(self, url: str, options: PostgresOptions | None = None, **given: Any) -> None:
        self._anew = partial(PostgresDatabase, url, options, **given)
        dsn, found = parse(url, replace(options or PostgresOptions(), **given))
        self.url = redact(url)
        self.options = found
        connector = Connector(dsn, redact(dsn), found)
        self.pool = Pool(connector, found)
        self.vital = Pool(connector, found, size=VITAL)
        self.listener = Listener(connector)
        self._ports = Ports(self, "standfast.backends.postgres")

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.url!r})"

    def anew(self) -> PostgresDatabase:
        """The same, unopened, for a process that was forked from the one that has this open."""
        return self._anew()

    def port(self, protocol: type[P]) -> P:
        """See `Database.port`."""
        return self._ports.get(protocol)

    def lines(self, protocols: Iterable[type]) -> Sequence[SchemaLine]:
        """See `Database.lines`."""
        return self._ports.lines(protocols)

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        await self.pool.open()
        await self.vital.open()

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        for port in self._ports.made():
            if hasattr(port, "close"):
                await port.close()
        await self.listener.close()
        await self.vital.close()
        await self.pool.close()

    async def clock_offset(self, clock: Clock) -> float | None:
        """See `Database.clock_offset`. Right to half the time that the server's answer takes.

        The wait for a connection doesn't count. An answer that took longer than half a second, or
        during which `clock` was set, says nothing.
        """
        try:
            async with self.vital.acquire() as connection:
                asked = clock.now()
                server: float = await connection.fetchval(f"SELECT {NOW}")
                answered = clock.now()
        except DRIVER_ERRORS as error:
            raise translate(error, self.vital.place) from error
        if not 0.0 <= answered - asked <= _WITHIN:
            return None
        return server - (asked + answered) / 2

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. READ COMMITTED, on one connection of the pool.

        Cancelled, or cut off from the server, while the commit itself runs, it may be committed.
        """
        return PostgresTransaction(self.pool)
