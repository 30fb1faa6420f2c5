"""Taking several units from a distant store at a time, and spending them here.

A lease saves the way to the store for most checks. Its price is overshoot: a client may spend at
once what it took earlier. With `tokens` per lease and N clients, at most ``N * tokens`` units of a
key more than the rate's own bound pass in any stretch of time. What isn't spent within
`lease_time` is lost, so that a client that comes and goes gets less than its share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from copy import copy

from standfast.affinity import Affinity
from standfast.checks import provides, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.rate_limit import RateLimitStore, RateRequest
from standfast.rates import Decision, Rate
from standfast.resilience.deadline import without_deadline


class _Lease:
    __slots__ = (
        "denied_need",
        "denied_until",
        "expires_at",
        "failure",
        "left",
        "lock",
        "reset_at",
    )

    def __init__(self) -> None:
        self.left = 0
        self.expires_at = 0.0
        # The store said that it won't give that much before then: no need to ask it again.
        self.denied_need = 0
        self.denied_until = self.reset_at = 0.0
        self.lock = asyncio.Lock()
        # What the store said when it was asked last, if it didn't answer.
        self.failure: StoreUnavailable | None = None


class LeasedRateLimits:
    """A `RateLimitStore` before another one, of which it takes `tokens` units at a time.

    Wins much and overshoots by at most `tokens` per key and client (see the module). A lease is
    never larger than the rate's capacity. Leased units are lost after `lease_time` (seconds or
    text). While leased units last, `remaining` counts those, and a store that is away isn't
    noticed. For one event loop. Keys whose lease has run out are forgotten, two per new key.

    Raises `ConfigurationError` for bad options, and for a use in a second event loop; `check`
    raises what the inner store raises.
    """

    always_local = False

    def __init__(
        self,
        store: RateLimitStore,
        *,
        tokens: int = 50,
        lease_time: Duration = 1.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        provides(store, "check", name="store", instead="RedisRateLimits(…), say, or ")
        if whole(tokens, name="tokens") < 2:
            raise ConfigurationError(f"tokens={tokens!r}: must be 2 or more; 1 needs no lease")
        self.tokens = tokens
        self._store = store
        self._lease_time = seconds(lease_time, name="lease_time")
        self._monotonic = clock.monotonic
        self._affinity: Affinity | None = None
        self._leases: dict[str, _Lease] = {}
        self._keys: deque[str] = deque()

    def take(self, key: str, rate: Rate, cost: int = 1) -> Decision | None:
        """Spend leased units, or None when there aren't enough."""
        lease = self._leases.get(key)
        if lease is None:
            return None
        now = self._monotonic()
        left = lease.left if now < lease.expires_at else 0
        if left >= cost > 0:
            lease.left = left - cost
            return Decision(True, left - cost, 0.0, rate.interval)
        if now < lease.denied_until and cost - left >= lease.denied_need:
            return Decision(False, left, lease.denied_until - now, lease.reset_at - now)
        return None

    async def check(self, requests: Sequence[RateRequest]) -> list[Decision]:
        """See `RateLimitStore.check`. Each request is decided by itself."""
        return [await self._check(*request) for request in requests]

    async def _check(self, key: str, rate: Rate, cost: int) -> Decision:
        decision = self.take(key, rate, cost)
        if decision is not None:
            return decision
        affinity = self._affinity
        if affinity is None or affinity.loop.is_closed():
            # Who renewed a lease in a loop that has ended, will never be done.
            self._leases.clear()
            self._keys.clear()
            self._affinity = Affinity("this store of leased units")
        else:
            affinity.check()
        if cost < 0:
            return (await self._store.check([RateRequest(key, rate, cost)]))[0]
        # A task, for a caller that is cancelled must not take a lease of many with it.
        with without_deadline():
            asking = asyncio.ensure_future(self._ask(key, rate, cost))
        return await asyncio.shield(asking)

    async def _ask(self, key: str, rate: Rate, cost: int) -> Decision:
        lease = self._leases.get(key) or self._open(key)
        waits = lease.lock.locked()
        async with lease.lock:  # One renews, and all who came meanwhile spend of it.
            decision = self.take(key, rate, cost)
            if decision is not None:
                return decision
            if waits and lease.failure is not None:
                # Or they would wait for a store that hangs one after the other.
                raise copy(lease.failure)
            try:
                decision = await self._renew(lease, key, rate, cost)
            except StoreUnavailable as failure:
                lease.failure = failure
                raise
            lease.failure = None
            return decision

    async def _renew(self, lease: _Lease, key: str, rate: Rate, cost: int) -> Decision:
        now = self._monotonic()
        # What is left is this caller's: while the store is asked, nobody else may spend it.
        left, lease.left = lease.left if now < lease.expires_at else 0, 0
        try:
            need = cost - left
            want = max(need, min(self.tokens, rate.capacity) - left)
            decision = (await self._store.check([RateRequest(key, rate, want)]))[0]
            if not decision.allowed and want > need:
                # Not a whole lease's worth is left: take the rest, or just enough.
                want = min(want, max(need, decision.remaining))
                decision = (await self._store.check([RateRequest(key, rate, want)]))[0]
            if decision.allowed:
                lease.expires_at = now + self._lease_time
                left += want - cost
                return Decision(True, decision.remaining + left, 0.0, decision.reset_after)
            now = self._monotonic()
            lease.denied_need = need
            lease.denied_until = now + decision.retry_after
            lease.reset_at = now + decision.reset_after
            return decision
        finally:
            lease.left = left

    def _open(self, key: str) -> _Lease:
        for _ in range(min(2, len(self._keys))):
            old = self._keys.popleft()
            lease = self._leases[old]
            idle = max(lease.expires_at, lease.denied_until) <= self._monotonic()
            if idle and not lease.lock.locked():
                del self._leases[old]
            else:
                self._keys.append(old)
        self._keys.append(key)
        self._leases[key] = lease = _Lease()
        return lease
