"""Rate limits that many processes share, counted in PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from standfast.affinity import Affinity, running_loop
from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.options import PostgresOptions
from standfast.backends.postgres.schema import PostgresSchema
from standfast.batching import Batcher
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.providing import Provided
from standfast.ports.rate_limit import RateLimitStore, RateRequest, storable
from standfast.ports.schema import AppliedMigration, SchemaLine, SchemaMigration
from standfast.rates import Decision
from standfast.resilience.deadline import without_deadline
from standfast.shielding import shielded

LINE = SchemaLine(
    "rate_limits",
    (
        SchemaMigration(
            1,
            "rate limits",
            """\
CREATE UNLOGGED TABLE standfast.rate_limits (
    key        text PRIMARY KEY,
    full_at    double precision,
    number     double precision,
    current    bigint,
    previous   bigint,
    expires_at double precision NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE standfast.rate_limits IS
    'unlogged: after a crash of the server every key starts anew';
COMMENT ON COLUMN standfast.rate_limits.full_at IS 'GCRA: when its bucket is full again';
COMMENT ON COLUMN standfast.rate_limits.number IS
    'sliding window: the window that current belongs to; previous is of the one before';

-- The machines of resilience/ratelimit/machine.py. Keys are locked in their order, so that batches
-- don't deadlock; each is read once and written once, however often it is asked for.
CREATE FUNCTION standfast.check_rates(
    keys text[], sliding bool[], limits bigint[], windows double precision[],
    capacities bigint[], costs bigint[]
) RETURNS TABLE (
    n bigint, allowed bool, remaining bigint, retry_after double precision,
    reset_after double precision
) LANGUAGE plpgsql AS $$
DECLARE
    r record;
    state standfast.rate_limits;
    key_before text;
    at double precision;
    span double precision;
    room double precision;
    after double precision;
    spare double precision;
    passed double precision;
    weighted double precision;
BEGIN
    FOR r IN
        SELECT * FROM unnest(keys, sliding, limits, windows, capacities, costs) WITH ORDINALITY
            AS t (key, sliding, quota, per, capacity, cost, n)
        ORDER BY t.key COLLATE "C", t.n
    LOOP
        IF r.key IS DISTINCT FROM key_before THEN
            IF key_before IS NOT NULL THEN
                PERFORM standfast.keep_rate(state);
            END IF;
            key_before := r.key;
            -- Makes the row if need be, and locks it: two transactions take turns.
            INSERT INTO standfast.rate_limits AS l (key, expires_at) VALUES (r.key, 0)
                ON CONFLICT (key) DO UPDATE SET expires_at = l.expires_at
                RETURNING l.* INTO state;
            at := extract(epoch FROM clock_timestamp());
        END IF;
        n := r.n;
        retry_after := 0;
        IF NOT r.sliding THEN
            span := r.per / r.quota;
            room := r.capacity * span;
            state.full_at := least(greatest(coalesce(state.full_at, at), at), at + room);
            after := state.full_at + r.cost * span;
            spare := at + room - after;
            allowed := spare >= -5e-7 OR r.cost <= 0;
            IF allowed THEN
                state.full_at := greatest(after, at);
                spare := least(spare, room);
            ELSE
                retry_after := -spare;
                spare := at + room - state.full_at;
            END IF;
            remaining := floor((spare + 5e-7) / span);
            reset_after := state.full_at - at;
        ELSE
            passed := at - floor(at / r.per) * r.per;
            IF state.number IS NULL OR state.number < floor(at / r.per) - 1 THEN
                state.current := 0;
                state.previous := 0;
            ELSIF state.number < floor(at / r.per) THEN
                state.previous := state.current;
                state.current := 0;
            END IF;
            state.number := floor(at / r.per);
            weighted := state.previous * (1 - passed / r.per);
            allowed := r.cost <= 0 OR weighted + state.current + r.cost <= r.quota + 5e-7;
            IF allowed THEN
                state.current := greatest(0, state.current + r.cost);
            ELSIF r.cost > r.quota THEN
                retry_after := r.per;
            ELSIF state.current <= r.quota - r.cost THEN
                retry_after := greatest(0, r.per * (1 - (r.quota - r.cost - state.current)
                    / state.previous::double precision) - passed);
            ELSE
                retry_after := r.per - passed
                    + r.per * (1 - (r.quota - r.cost) / state.current::double precision);
            END IF;
            remaining := greatest(0, floor(r.quota - weighted - state.current + 5e-7));
            reset_after := CASE WHEN state.current > 0 THEN 2 * r.per - passed
                WHEN state.previous > 0 THEN r.per - passed ELSE 0 END;
        END IF;
        state.expires_at := at + reset_after;
        RETURN NEXT;
    END LOOP;
    IF key_before IS NOT NULL THEN
        PERFORM standfast.keep_rate(state);
    END IF;
END $$;

CREATE FUNCTION standfast.keep_rate(state standfast.rate_limits) RETURNS void
LANGUAGE sql AS $$
    UPDATE standfast.rate_limits SET full_at = state.full_at, number = state.number,
        current = state.current, previous = state.previous, expires_at = state.expires_at
    WHERE key = state.key
$$;
""",
        ),
    ),
)

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
    """A `RateLimitStore` on PostgreSQL, by the server's clock, in tables that `migrate` makes.

    `url` and options as for `PostgresDatabase`; here a statement may take two seconds by default.
    Checks that come while a statement is under way go out together as the next one, of at most
    `max_batch`; one that takes longer than the ``timeout`` of the options, with its wait for the
    statement before, counts as a store that is away. Keys that aren't needed any more are deleted
    every `purge_every` (seconds or text), at most `purge_limit` at a time.

    Given a `PostgresDatabase` instead of a URL, it shares that one's connections and options, and
    is open while it is: so is ``database.port(RateLimitStore)``.

    What was taken doesn't outlive a crash of the server, nor is it replicated (the table is
    unlogged). Every check writes a row: for limits that are hot, Redis is the better place.

    For one event loop. Open it with `open` and close it with `close`, or use ``async with``.
    Raises `ConfigurationError` for bad options, and for a use in a second event loop; `check`
    raises `StoreUnavailable`, and `MigrationNeeded` when the tables are missing.
    """

    def __init__(
        self,
        url: str | PostgresDatabase,
        options: PostgresOptions | None = None,
        *,
        max_batch: int = 500,
        purge_every: Duration = 60.0,
        purge_limit: int = 10_000,
        **given: Any,
    ) -> None:
        self._own: PostgresDatabase | None = None
        if isinstance(url, PostgresDatabase):
            if options is not None or given:
                raise ConfigurationError(
                    "options of connections are the database's: give them to PostgresDatabase"
                )
            self._pool = url.pool
        else:
            options = options or PostgresOptions(timeout=2.0, connect_timeout=2.0)
            self._own = PostgresDatabase(url, replace(options, **given))
            self._pool = self._own.pool
        self._max_batch = max_batch
        self._batcher = self._new_batcher()
        self._affinity: Affinity | None = None
        self._purge_every = seconds(purge_every, name="purge_every")
        self._purge_limit = purge_limit
        self._purged_at = time.monotonic()

    async def __aenter__(self) -> PostgresRateLimits:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await shielded(self.close())

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        if self._own is not None:
            await self._own.open()

    async def close(self) -> None:
        """Finish what was asked, then disconnect; not from a `PostgresDatabase` that was given."""
        # A new one, since a database may be opened again, in another event loop too.
        batcher, self._batcher = self._batcher, self._new_batcher()
        self._affinity = None
        await batcher.close()
        if self._own is not None:
            await self._own.close()

    async def migrate(self) -> list[AppliedMigration]:
        """Make the tables that are missing; what was done. Safe beside others who do the same."""
        return await PostgresSchema(self._pool).migrate((LINE,))

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`."""
        if self._affinity is None:
            self._affinity = Affinity(f"the rate limits at {self._pool.place}")
        elif running_loop() is not self._affinity.loop:
            if not self._affinity.loop.is_closed():
                self._affinity.refuse()
            # Its database was closed with that loop, and opened again in this one.
            self._affinity = Affinity(f"the rate limits at {self._pool.place}")
            self._batcher = self._new_batcher()
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

    def _new_batcher(self) -> Batcher[RateRequest, Decision]:
        return Batcher(
            self._decide_for_all,
            max_batch=self._max_batch,
            timeout=self._pool.timeout,
            late=self._too_late,
        )

    def _too_late(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"PostgreSQL at {self._pool.place} didn't decide a rate limit within "
            f"{self._pool.timeout:g} s: check that it answers, or raise the timeout"
        )

    async def _decide_for_all(self, requests: Sequence[RateRequest]) -> list[Decision]:
        with without_deadline():  # that of who came first isn't the others'
            return await self._decide(requests)

    async def _decide(self, requests: Sequence[RateRequest]) -> list[Decision]:
        rates = [request.rate for request in requests]
        sliding = [rate.algorithm == "sliding_window" for rate in rates]
        rows = await self._pool.fetch(
            _CHECK,
            [
                f"{int(s)}:{storable(request.key)}"
                for s, request in zip(sliding, requests, strict=True)
            ],
            sliding,
            [rate.limit for rate in rates],
            [rate.window for rate in rates],
            [rate.capacity for rate in rates],
            [request.cost for request in requests],
        )
        if time.monotonic() - self._purged_at > self._purge_every:
            await self.purge()
        return [Decision(*row) for row in rows]


PROVIDES: dict[type, Provided] = {RateLimitStore: Provided(PostgresRateLimits, LINE)}
