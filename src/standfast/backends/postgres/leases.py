"""Worker leases on PostgreSQL: rows whose lock is the fence. See `statements`."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import asyncpg

from standfast.backends.postgres import statements as sql
from standfast.backends.postgres.errors import DRIVER_ERRORS, TRANSIENT, translate
from standfast.backends.postgres.pool import Pool
from standfast.ports.leases import Worker

_log = logging.getLogger(__name__)

_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"


class PostgresLeases:
    """`WorkerLeases` on PostgreSQL, timed by its clock. Ask the `PostgresDatabase` for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def register(
        self, name: str, kinds: Sequence[tuple[str, str, int]], *, ttl: float
    ) -> int | None:
        """See `WorkerLeases.register`. Never None: any number of workers may run."""
        await self.expire()
        text = json.dumps([list(kind) for kind in kinds])
        rows = await self._pool.fetch(sql.REGISTER, name, text, ttl)
        token: int = rows[0][0]
        return token

    async def renew(self, token: int, *, ttl: float) -> bool:
        """See `WorkerLeases.renew`."""
        return bool(await self._pool.fetch(sql.RENEW, token, ttl))

    async def expire(self) -> list[int]:
        """See `WorkerLeases.expire`.

        A worker in the middle of a write is waited for, but one that stopped there (a transaction
        whose process is frozen) only for 2 s: it is ended by a later call, once the server has
        ended its transaction (`idle_timeout` of the options).
        """
        ended = []
        for (token,) in await self._pool.fetch(sql.OVERDUE):
            try:
                if await self._end(sql.END_OVERDUE, token):
                    ended.append(token)
            except asyncpg.LockNotAvailableError:
                _log.warning(
                    "worker %d is overdue but in the middle of a transaction: ended later", token
                )
            except DRIVER_ERRORS as error:
                raise translate(error, self._pool.place) from error
        return ended

    async def release(self, token: int) -> None:
        """See `WorkerLeases.release`."""
        try:
            await self._end(sql.END, token)
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place) from error

    async def workers(self) -> list[Worker]:
        """See `WorkerLeases.workers`."""
        return [
            Worker(
                row[0], row[1], tuple((p, n, v) for p, n, v in json.loads(row[2])), row[3], row[4]
            )
            for row in await self._pool.fetch(sql.WORKERS)
        ]

    async def _end(self, statement: str, token: int) -> bool:
        attempts = 8
        while True:
            try:
                async with self._pool.begin() as connection:
                    await connection.execute(_LOCK_TIMEOUT)
                    if not await connection.fetch(statement, token):
                        return False
                    await connection.fetch(sql.FREE, token)
                return True
            except TRANSIENT:
                attempts -= 1
                if not attempts:
                    raise
