"""Rate limits that many processes share, counted in Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from standfast.affinity import Affinity, running_loop
from standfast.backends.redis.errors import ERRORS, is_demoted, place_of, unavailable
from standfast.batching import Batcher
from standfast.checks import text
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreUnavailable, Unsupported
from standfast.ports.rate_limit import RateRequest, storable
from standfast.rates import Decision
from standfast.resilience.deadline import without_deadline
from standfast.shielding import shielded

# The machines of resilience/ratelimit/machine.py, in microseconds of the server's clock. A value
# that is none of theirs counts as none: its key starts anew, and no other fails with it. KEYS are
# the different keys; ARGV[1] is a JSON list of [index of the key, kind, limit, window, capacity,
# cost]. All keys are read at once, decided on in memory, and each is written once at the end. The
# answer is one text, "allowed remaining retry_after reset_after ..." in microseconds: a client
# parses that many times faster than nested replies.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local texts = redis.call('MGET', unpack(KEYS))
local states, answers = {}, {}

local function finite(text)
    local value = tonumber(text)
    return value == value and value or nil
end

local function gcra(i, limit, window, capacity, cost)
    local interval, room = window / limit, capacity * window / limit
    local full = states[i] and states[i][1] or finite(texts[i] or 0) or 0
    if full > now + room then
        full = now + room
        states[i] = {full}
    end
    full = math.max(full, now)
    local after = full + cost * interval
    local left = now + room - after
    if left < -0.5 and cost > 0 then
        return 0, math.floor((now + room - full + 0.5) / interval), -left, full - now
    end
    if after < now then after, left = now, room end
    states[i] = {after}
    return 1, math.floor((left + 0.5) / interval), 0, after - now
end

local function sliding(i, limit, window, capacity, cost)
    local number = math.floor(now / window)
    local passed = now - number * window
    local state = states[i]
    if not state and texts[i] then
        local a, b, c = string.match(texts[i], '(%S+) (%S+) (%S+)')
        a, b, c = finite(a or ''), finite(b or ''), finite(c or '')
        if a and b and c then state = {a, b, c} end
    end
    local current, previous = 0, 0
    if state and state[1] >= number then
        current, previous = state[2], state[3]
        if state[1] > number then states[i] = {number, current, previous} end
    elseif state and state[1] == number - 1 then previous = state[2] end
    local weighted = previous * (1 - passed / window)
    local allowed, wait = 1, 0
    if cost <= 0 or weighted + current + cost <= limit + 5e-7 then
        current = math.max(0, current + cost)
        states[i] = {number, current, previous}
    else
        local free = limit - cost
        allowed = 0
        if free < 0 then wait = window
        elseif current <= free then wait = window * (1 - (free - current) / previous) - passed
        else wait = window - passed + window * (1 - free / current) end
    end
    local remaining = math.max(0, math.floor(limit - weighted - current + 5e-7))
    local reset = 0
    if current > 0 then reset = 2 * window - passed
    elseif previous > 0 then reset = window - passed end
    if states[i] then states[i][4] = reset end
    return allowed, remaining, math.max(0, wait), reset
end

for n, r in ipairs(cjson.decode(ARGV[1])) do
    local decide = r[2] == 1 and gcra or sliding
    local allowed, remaining, wait, reset = decide(r[1], r[3], r[4], r[5], r[6])
    wait, reset = math.ceil(wait), math.ceil(reset)
    answers[n] = string.format('%d %.0f %.0f %.0f', allowed, remaining, wait, reset)
end
for i, state in pairs(states) do
    local text, lives = string.format('%.17g', state[1]), state[1] - now
    if state[2] then
        text, lives = string.format('%.0f %.0f %.0f', state[1], state[2], state[3]), state[4]
    end
    if lives > 0 then
        local milliseconds = string.format('%.0f', math.ceil(lives / 1000))
        redis.call('SET', KEYS[i], text, 'PX', milliseconds)
    else
        redis.call('DEL', KEYS[i])
    end
end
return table.concat(answers, ' ')
"""

_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_KINDS = {"gcra": 1, "sliding_window": 2}


class RedisRateLimits:
    """A `RateLimitStore` on Redis 6 or newer, by the server's clock. Not for Redis Cluster.

    `url` is ``redis://…``, ``rediss://…`` or ``unix://…``. Checks that come while a call is under
    way go out together as the next one: one round trip, one script, for up to `max_batch` of them.
    A check that takes longer than `timeout` (seconds or text), with its wait for the call before,
    counts as a store that is away. All keys begin with `prefix`, and expire by themselves when
    their capacity is whole again.

    A call is sent again once if the connection breaks, so that after a failure some units may have
    been taken twice. A connection that leads to a replica is dropped, so that a failover behind the
    address is followed.

    For one event loop. Close it with `close`, or use ``async with``.

    Raises `ConfigurationError` for a bad URL or option, and for a use in a second event loop.
    `check` raises `StoreUnavailable`, and `Unsupported` where it finds a Redis Cluster, whose
    nodes can't decide several keys in one script.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "standfast:rate:",
        timeout: Duration = 1.0,
        max_batch: int = 500,
    ) -> None:
        self.place = place_of(url)
        self._timeout = limit = seconds(timeout, name="timeout")
        self._prefix = text(prefix, name="prefix")
        try:
            self._redis: Any = Redis.from_url(
                url,
                socket_timeout=limit,
                socket_connect_timeout=limit,
                # The connection of before a restart breaks when it is used.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError as error:
            raise ConfigurationError(f"the URL of Redis at {self.place}: {error}") from error
        self._max_batch = max_batch
        self._batcher: Batcher[RateRequest, Decision] = Batcher(
            self._decide_for_all, max_batch=max_batch, timeout=limit, late=self._too_late
        )
        self._affinity: Affinity | None = None
        self._looked = False

    async def __aenter__(self) -> RedisRateLimits:
        return self

    async def __aexit__(self, *_: object) -> None:
        await shielded(self.close())

    async def close(self) -> None:
        """Finish what was asked, then disconnect."""
        await self._batcher.close()
        await self._redis.aclose()

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`."""
        if self._affinity is None:
            self._affinity = Affinity(f"the connection to Redis at {self.place}")
        elif running_loop() is not self._affinity.loop:
            self._affinity.refuse()
        if len(requests) == 1:
            return [await self._batcher.submit(requests[0])]
        decisions: list[Decision] = []
        for start in range(0, len(requests), self._max_batch):
            decisions += await self._decide(requests[start : start + self._max_batch])
        return decisions

    async def _decide_for_all(self, requests: Sequence[RateRequest]) -> list[Decision]:
        with without_deadline():  # that of who came first isn't the others'
            return await self._decide(requests)

    async def _decide(self, requests: Sequence[RateRequest]) -> list[Decision]:
        keys: dict[str, int] = {}
        asked = []
        for key, rate, cost in requests:
            kind = _KINDS[rate.algorithm]
            index = keys.setdefault(f"{self._prefix}{kind}:{storable(key)}", len(keys) + 1)
            asked.append([index, kind, rate.limit, rate.window * 1e6, rate.capacity, cost])
        numbers = (await self._run(list(keys), json.dumps(asked))).split()
        return [
            Decision(numbers[n] == b"1", int(numbers[n + 1]), *_in_seconds(numbers[n + 2 : n + 4]))
            for n in range(0, len(numbers), 4)
        ]

    async def _run(self, keys: list[str], asked: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                if not self._looked:
                    await self._look()
                try:
                    return await self._evaluate(keys, asked)
                except ERRORS as error:
                    if not is_demoted(error):
                        raise
                    await self._redis.connection_pool.disconnect()
                    return await self._evaluate(keys, asked)
        except TimeoutError as error:
            raise self._too_late() from error
        except ERRORS as error:
            if is_demoted(error):
                await self._redis.connection_pool.disconnect()
            raise unavailable(self.place, "didn't decide a rate limit", error) from error

    async def _evaluate(self, keys: list[str], asked: str) -> bytes:
        try:
            answer: bytes = await self._redis.evalsha(_SHA, len(keys), *keys, asked)
        except NoScriptError:
            answer = await self._redis.eval(_SCRIPT, len(keys), *keys, asked)
        return answer

    async def _look(self) -> None:
        """Refuse a cluster, where lone checks would work, and several at once would not."""
        try:
            cluster = (await self._redis.info("cluster")).get("cluster_enabled")
        except ResponseError:  # Not allowed, or not known to a proxy. The script will tell.
            cluster = 0
        if cluster:
            raise Unsupported(
                f"Redis at {self.place} belongs to a Redis Cluster, whose nodes can't decide "
                "several keys in one script: use a Redis without cluster mode, or "
                "PostgresRateLimits"
            )
        self._looked = True

    def _too_late(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"Redis at {self.place} didn't decide a rate limit within {self._timeout:g} s: check "
            "that it answers, or raise the timeout"
        )


def _in_seconds(microseconds: Sequence[bytes]) -> tuple[float, float]:
    return int(microseconds[0]) / 1e6, int(microseconds[1]) / 1e6
