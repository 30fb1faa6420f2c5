"""Rate limits that many processes share, counted in PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from standfast.backends.postgres.options import PostgresOptions, parse, redact
from standfast.backends.postgres.pool import Pool
from standfast.batching import Batcher
from standfast.durations import Duration, seconds
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Decision

_CHECK = """\
SELECT allowed, remaining, retry_after, reset_after
FROM standfast.check_rates($1, $2, $3, $4, $5, $6) ORDER BY n"""

# Skips rows that are being used, so that it never waits for anybody.
_PURGE = """\
DELETE FROM standfast.rate_limits WHERE key IN (
    SELECT key FROM standfast.rate_limits
    WHERE expires_at < extract(epoch FROM clock_timestamp())
    LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING 1"""


class PostgresRateLimits:
    """A `RateLimitStore` on PostgreSQL, by the server's clock, in tables that ``migrate`` makes.

    `url` and options as for `PostgresDatabase`; here a statement may take two seconds by default.
    Checks that come while a statement is under way go out together as the next one, of at most
    `max_batch`. Keys that aren't needed any more are deleted every `purge_every` (seconds or text),
    at most `purge_limit` at a time.

    What was taken doesn't outlive a crash of the server, nor is it replicated (the table is
    unlogged). Every check writes a row: for limits that are hot, Redis is the better place.

    For one event loop. Open it with `open` and close it with `close`, or use ``async with``.
    `check` raises `StoreUnavailable`, and `MigrationNeeded` when the tables are missing.
    """

    def __init__(
        self,
        url: str,
        options: PostgresOptions | None = None,
        *,
        max_batch: int = 500,
        purge_every: Duration = 60.0,
        purge_limit: int = 10_000,
        **given: Any,
    ) -> None:
        chosen = replace(options or PostgresOptions(timeout=2.0, connect_timeout=2.0), **given)
        dsn, found = parse(url, chosen)
        self._pool = Pool(dsn, redact(dsn), found)
        self._max_batch = max_batch
        self._batcher: Batcher[RateRequest, Decision] = Batcher(self._decide, max_batch=max_batch)
        self._purge_every = seconds(purge_every, name="purge_every")
        self._purge_limit = purge_limit
        self._purged_at = time.monotonic()

    async def __aenter__(self) -> PostgresRateLimits:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        await self._pool.open()

    async def close(self) -> None:
        """Finish what was asked, then disconnect."""
        await self._batcher.close()
        await self._pool.close()

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`."""
        if len(requests) == 1:
            return [await self._batcher.submit(requests[0])]
        decisions: list[Decision] = []
        for start in range(0, len(requests), self._max_batch):
            decisions += await self._decide(requests[start : start + self._max_batch])
        return decisions

    async def purge(self) -> int:
        """Delete keys whose capacity is whole again, up to `purge_limit`; how many were."""
        self._purged_at = time.monotonic()
        return len(await self._pool.fetch(_PURGE, self._purge_limit))

    async def _decide(self, requests: Sequence[RateRequest]) -> list[Decision]:
        rates = [request.rate for request in requests]
        sliding = [rate.algorithm == "sliding_window" for rate in rates]
        rows = await self._pool.fetch(
            _CHECK,
            [f"{int(s)}:{request.key}" for s, request in zip(sliding, requests, strict=True)],
            sliding,
            [rate.limit for rate in rates],
            [rate.window for rate in rates],
            [rate.capacity for rate in rates],
            [request.cost for request in requests],
        )
        if time.monotonic() - self._purged_at > self._purge_every:
            await self.purge()
        return [Decision(*row) for row in rows]
