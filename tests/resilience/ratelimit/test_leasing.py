"""Leases: what they save, and what they cost."""

import asyncio
import random

import pytest

from standfast.conformance.rate_limit import SLOW, SLOW_WINDOW
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Rate
from standfast.resilience.ratelimit import LeasedRateLimits, MemoryRateLimits, RateLimiter
from standfast.testing.manual_clock import ManualClock


class Distant:
    def __init__(self, clock):
        self.inner = MemoryRateLimits(clock=clock)
        self.calls = 0
        self.away = False

    async def check(self, requests):
        self.calls += 1
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("gone")
        return await self.inner.check(requests)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def distant(clock):
    return Distant(clock)


def limiter(store, limit, per=1.0, **options):
    return RateLimiter(limit, per, store=store, name="t", on_store_failure="deny", **options)


async def test_most_checks_stay_here(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=50, clock=clock), 1000, "1h")
    assert all([(await leased.check()).allowed for _ in range(1000)])
    assert distant.calls == 20
    assert not (await leased.check()).allowed


async def test_who_renews_a_lease_is_told_of_all_that_remains(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=50, clock=clock), 1000, "1h")
    assert (await leased.check()).remaining == 999
    assert (await leased.check()).remaining == 48, "of the lease"


async def test_concurrent_callers_share_a_lease(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=50, clock=clock), 1000, "1h")
    answers = await asyncio.gather(*(leased.check() for _ in range(50)))
    assert all(decision.allowed for decision in answers)
    assert distant.calls == 1


@pytest.mark.parametrize("rate", [SLOW, SLOW_WINDOW], ids=["gcra", "sliding_window"])
async def test_the_rest_is_taken_when_a_whole_lease_is_not_left(distant, clock, rate):
    leased = LeasedRateLimits(distant, tokens=7, clock=clock)
    answers = [(await leased.check([RateRequest("k", rate)]))[0] for _ in range(12)]
    assert [decision.allowed for decision in answers] == [True] * 10 + [False] * 2


async def test_a_denial_is_remembered_until_it_can_change(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=5, clock=clock), 10, 10.0)
    while (await leased.check()).allowed:
        pass
    calls = distant.calls
    denied = [await leased.check() for _ in range(100)]
    assert {decision.retry_after for decision in denied} == {1.0}
    assert distant.calls == calls
    clock.advance(1)
    assert (await leased.check()).allowed


async def test_the_overshoot_is_at_most_one_lease_per_client(clock):
    """In any stretch of time, burst + rate * time + clients * tokens; and it does overshoot."""
    chance = random.Random(3)
    distant = Distant(clock)
    tokens, clients, limit = 5, 4, 20
    limiters = [
        limiter(LeasedRateLimits(distant, tokens=tokens, clock=clock), limit)
        for _ in range(clients)
    ]
    passed = []
    for _ in range(3000):
        if (await chance.choice(limiters).check()).allowed:
            passed.append(clock.monotonic())
        clock.advance(chance.choice([0, 0, 0.01, 0.2]))
    over = 0.0
    for i in range(len(passed)):
        for j in range(i, min(len(passed), i + 60)):
            bound = limit + limit * (passed[j] - passed[i])
            over = max(over, j - i + 1 - bound)
    assert over <= clients * tokens


async def test_overshoot_happens(clock):
    """What was leased before counts for then, but is spent now."""
    distant = Distant(clock)
    tokens, limit = 5, 10
    clients = [
        limiter(LeasedRateLimits(distant, tokens=tokens, clock=clock), limit) for _ in range(2)
    ]
    for client in clients:
        assert (await client.check()).allowed
    clock.advance(0.99)  # Nearly all that was leased has come back to the store.
    passed = 0
    for client in clients:
        while (await client.check()).allowed:
            passed += 1
    assert limit < passed <= limit + 2 * tokens


async def test_a_lease_ends(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=5, lease_time=2.0, clock=clock), 10, "1h")
    await leased.check()
    clock.advance(2)
    await leased.check()
    assert distant.calls == 2
    assert distant.inner.take("t:", leased.rate, 1).allowed is False


async def test_a_store_that_is_away_is_noticed_when_the_lease_is_spent(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=5, clock=clock), 100, "1h")
    await leased.check()
    distant.away = True
    assert [(await leased.check()).allowed for _ in range(5)] == [True] * 4 + [False]
    distant.away = False
    assert (await leased.check()).allowed


async def test_those_who_waited_for_a_renewal_share_its_failure(distant, clock):
    """A store that hangs is asked once for all of them, and not by one after the other."""
    leased = limiter(LeasedRateLimits(distant, tokens=5, clock=clock), 100, "1h")
    distant.away = True
    denied = await asyncio.gather(*(leased.check() for _ in range(12)))
    assert [one.allowed for one in denied] == [False] * 12
    assert distant.calls == 1
    clock.advance(1)
    assert not (await leased.check()).allowed
    assert distant.calls == 2
    distant.away = False
    clock.advance(1)
    assert (await leased.check()).allowed


async def test_waiting_with_leases(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=5, clock=clock), 10, 10.0, clock=clock)
    waiting = [asyncio.create_task(leased.acquire(max_wait="1h")) for _ in range(20)]
    await clock.run(0)
    assert sum(task.done() for task in waiting) == 10
    await clock.run(10.1)
    assert all(task.done() for task in waiting)


async def test_cancelled_callers_do_not_lose_a_lease(distant, clock):
    leased = limiter(LeasedRateLimits(distant, tokens=10, clock=clock), 10, "1h")
    first = asyncio.create_task(leased.check())
    await asyncio.sleep(0)
    first.cancel()
    await clock.settle()
    assert first.cancelled()
    # A cancelled check may have counted, but the other nine are here.
    assert [(await leased.check()).allowed for _ in range(10)] == [True] * 9 + [False]


async def test_what_a_renewal_counts_on_is_spent_by_nobody_else(distant, clock):
    """While the store is asked for the rest of a large request."""
    leased, rate = LeasedRateLimits(distant, tokens=5, clock=clock), Rate(10, "1h")

    async def ask(cost):
        return (await leased.check([RateRequest("k", rate, cost)]))[0]

    assert (await ask(2)).allowed  # 3 are left of the lease
    large = asyncio.create_task(ask(5))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    small = [await ask(1) for _ in range(4)]
    answers = [await large, *small]
    assert [one.allowed for one in answers] == [True, True, True, True, False]
    assert min(one.remaining for one in answers) == 0
    assert distant.inner.take("k", rate, 1).allowed is False


async def test_what_is_left_stays_where_the_store_cant_be_asked_for_more(distant, clock):
    leased, rate = LeasedRateLimits(distant, tokens=5, clock=clock), Rate(100, "1h")
    await leased.check([RateRequest("k", rate, 2)])
    distant.away = True
    with pytest.raises(StoreUnavailable):
        await leased.check([RateRequest("k", rate, 5)])
    assert leased.take("k", rate, 3) is not None


async def test_keys_are_forgotten(distant, clock):
    store = LeasedRateLimits(distant, tokens=2, clock=clock)
    rate = Rate(10, 1.0)
    for n in range(10_000):
        await store.check([RateRequest(str(n), rate)])
        clock.advance(0.1)
    assert len(store._leases) < 50


def test_bad_options_are_refused(distant):
    with pytest.raises(ConfigurationError, match="tokens=1: must be 2 or more"):
        LeasedRateLimits(distant, tokens=1)
    with pytest.raises(ConfigurationError, match="lease_time=0"):
        LeasedRateLimits(distant, lease_time=0)
