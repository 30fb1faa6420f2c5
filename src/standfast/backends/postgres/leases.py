"""Named leases on PostgreSQL: rows whose lock is the fence.

**Fencing.** Every write with a token first takes ``FOR KEY SHARE`` on the row of its lease
(`HOLDS`), and needs to find it. A lease is ended by deleting that row, which waits for those who
hold such a lock and makes those who come later find nothing: so a write came before the end, or is
refused. Renewing and annotating change no key column, so they don't conflict with writes.

**Tokens only grow.** They are drawn under a lock that is held until the lease is committed, so that
nobody is given a token after a larger one was seen.

**No deadlock among ourselves.** Several leases are inserted in the order of their names, and locked
and ended in that of their tokens; the victim of a deadlock runs again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import asyncpg

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.errors import DRIVER_ERRORS, TRANSIENT, translate
from standfast.backends.postgres.listener import Listener
from standfast.backends.postgres.pool import Pool
from standfast.errors import StaleWriter
from standfast.ports.database import Script, Statement, StoreTransaction, carry_out, of_dialect
from standfast.ports.leases import Lease, LeaseStore, LeaseWriter
from standfast.ports.providing import Provided
from standfast.ports.schema import SchemaLine, SchemaMigration

# ruff: noqa: S608 - only constants of this module are put into the SQL text

_log = logging.getLogger(__name__)

LINE = SchemaLine(
    "coordination",
    (
        SchemaMigration(
            1,
            "leases",
            """\
CREATE TABLE standfast.leases (
    token      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    holder     text NOT NULL,
    note       json NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);
""",
        ),
    ),
)

HOLDS = "SELECT token FROM standfast.leases WHERE token = $1 FOR KEY SHARE"
"""The fence: a row if the lease with token ``$1`` holds, which it then does to the commit."""

CHANNEL = "standfast_leases"
"""The channel of NOTIFY for leases that were ended; the payload is empty."""

_TURN = 0x5354_4644_4C45_4153
"""The advisory lock of who draws tokens."""

_ACQUIRE = f"""\
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock({_TURN}))
INSERT INTO standfast.leases (name, holder, note, expires_at)
SELECT n.name, $2, $3::json, clock_timestamp() + make_interval(secs => $4)
FROM turn, unnest($1::text[]) AS n (name) ORDER BY n.name
ON CONFLICT (name) DO NOTHING RETURNING name, token
"""
_RENEW = """\
WITH mine AS MATERIALIZED (
    SELECT token FROM standfast.leases WHERE token = ANY($1::bigint[])
    ORDER BY token FOR NO KEY UPDATE
)
UPDATE standfast.leases l SET expires_at = clock_timestamp() + make_interval(secs => $2)
FROM mine WHERE l.token = mine.token RETURNING l.token
"""
_ANNOTATE = "UPDATE standfast.leases SET note = $2::json WHERE token = $1"
_OVERDUE = "SELECT token FROM standfast.leases WHERE expires_at <= clock_timestamp() ORDER BY token"

# What is over is evaluated anew on the row as a concurrent renewal left it.
_OVER = "expires_at <= clock_timestamp()"
_END = """\
WITH doomed AS MATERIALIZED (
    SELECT token FROM standfast.leases WHERE token = ANY($1::bigint[]){over}
    ORDER BY token FOR UPDATE{unless_busy}
), ended AS (
    DELETE FROM standfast.leases l USING doomed WHERE l.token = doomed.token RETURNING l.token
)
SELECT token, pg_notify('{channel}', '') FROM ended ORDER BY token
"""
_END_ANY = _END.format(over="", unless_busy="", channel=CHANNEL)
_END_OVERDUE = _END.format(over=f" AND {_OVER}", unless_busy="", channel=CHANNEL)
_END_OVERDUE_AT_ONCE = _END.format(
    over=f" AND {_OVER}", unless_busy=" SKIP LOCKED", channel=CHANNEL
)
_LEASES = """\
SELECT name, token, holder, note::text,
       extract(epoch FROM expires_at - clock_timestamp())::float8 AS expires_in
FROM standfast.leases WHERE starts_with(name, $1) ORDER BY token
"""

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = {}"
_PATIENCE = 2000
"""Milliseconds for which holders in the middle of a write are waited for."""


def holding(token: int) -> Script[None]:
    """Raise `StaleWriter` if the lease was ended; else it holds to the end of the transaction."""
    if not (yield Statement(HOLDS, (token,))):
        raise StaleWriter(f"the lease {token} was ended: acquire another, with a new token")


class PostgresLeaseWriter:
    """`LeaseWriter` on PostgreSQL."""

    def __init__(self, tx: StoreTransaction) -> None:
        self._tx = of_dialect(tx, "postgresql")

    async def hold(self, token: int) -> None:
        """See `LeaseWriter.hold`."""
        await carry_out(self._tx, holding(token))


class PostgresLeases:
    """`LeaseStore` on PostgreSQL, timed by its clock. Ask the `PostgresDatabase` for it."""

    table = "standfast.leases"
    holding = staticmethod(holding)

    def __init__(self, pool: Pool, listener: Listener) -> None:
        self._pool = pool
        self._listener = listener

    def within(self, tx: StoreTransaction) -> LeaseWriter:
        """See `LeaseStore.within`."""
        return PostgresLeaseWriter(tx)

    async def acquire(
        self, names: Sequence[str], holder: str, *, ttl: float, note: str = "{}"
    ) -> list[int | None]:
        """See `LeaseStore.acquire`. A name that is given twice is given to the first."""
        if not names:
            return []
        await self.expire()
        rows = await self._pool.fetch(_ACQUIRE, list(dict.fromkeys(names)), holder, note, ttl)
        tokens: dict[str, int] = {row[0]: row[1] for row in rows}
        return [tokens.pop(name, None) for name in names]

    async def renew(self, tokens: Sequence[int], *, ttl: float) -> list[bool]:
        """See `LeaseStore.renew`."""
        if not tokens:
            return []
        held = {row[0] for row in await self._pool.fetch(_RENEW, list(tokens), ttl)}
        return [token in held for token in tokens]

    async def annotate(self, token: int, note: str) -> None:
        """See `LeaseStore.annotate`."""
        await self._pool.fetch(_ANNOTATE, token, note)

    async def release(self, tokens: Sequence[int]) -> None:
        """See `LeaseStore.release`.

        Raises `StoreUnavailable` for a lease in the middle of a write that takes longer than 2 s,
        when all others were ended.
        """
        try:
            try:
                await self._end(_END_ANY, tokens)
            except asyncpg.LockNotAvailableError:
                if len(tokens) == 1:
                    raise
                busy: list[asyncpg.LockNotAvailableError] = []
                for token in sorted(tokens):
                    try:
                        await self._end(_END_ANY, (token,))
                    except asyncpg.LockNotAvailableError as error:
                        busy.append(error)
                if busy:
                    raise busy[0] from None
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error

    async def expire(self) -> list[int]:
        """See `LeaseStore.expire`.

        A holder in the middle of a write is waited for, but those that stopped there (transactions
        whose processes are frozen) only for 2 s in all: their leases are ended by a later call,
        once the server has ended the transactions (`idle_timeout` of the options).
        """
        overdue = [row[0] for row in await self._pool.fetch(_OVERDUE)]
        if not overdue:
            return []
        ended: list[int] = [row[0] for row in await self._pool.fetch(_END_OVERDUE_AT_ONCE, overdue)]
        busy = sorted(set(overdue) - set(ended))
        for token in busy:
            try:
                ended += await self._end(_END_OVERDUE, (token,), patience=_PATIENCE // len(busy))
            except asyncpg.LockNotAvailableError:
                _log.warning(
                    "lease %d is overdue but in the middle of a transaction: ended later", token
                )
            except DRIVER_ERRORS as error:
                raise translate(error, self._pool.place) from error
        return sorted(ended)

    async def leases(self, prefix: str = "") -> list[Lease]:
        """See `LeaseStore.leases`."""
        return [Lease(*row) for row in await self._pool.fetch(_LEASES, prefix)]

    def on_freed(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `LeaseStore.on_freed`. After a lost connection comes a hint as well."""
        return self._listener.subscribe(CHANNEL, lambda _: callback())

    async def _end(
        self, statement: str, tokens: Sequence[int], *, patience: int = _PATIENCE
    ) -> list[int]:
        if not tokens:
            return []
        attempts = 8
        while True:
            try:
                async with self._pool.begin() as connection:
                    await connection.execute(_LOCK_TIMEOUT.format(max(1, patience)))
                    return [row[0] for row in await connection.fetch(statement, list(tokens))]
            except TRANSIENT:
                attempts -= 1
                if not attempts:
                    raise


def _make(database: PostgresDatabase) -> PostgresLeases:
    return PostgresLeases(database.vital, database.listener)


PROVIDES: dict[type, Provided] = {LeaseStore: Provided(_make, LINE)}
