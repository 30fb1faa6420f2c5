"""Rate limits in a real Redis: the contract, and what happens when it goes away."""

import asyncio

import pytest
import redis

from standfast.backends.redis import RedisRateLimits
from standfast.conformance import RateLimitSuite
from standfast.errors import ConfigurationError, RateLimited, StoreUnavailable
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Rate
from standfast.resilience.ratelimit import RateLimiter


class TestRedis(RateLimitSuite):
    @pytest.fixture
    async def store(self, redis_url):
        async with RedisRateLimits(redis_url) as store:
            yield store


@pytest.fixture
async def store(redis_url):
    async with RedisRateLimits(redis_url) as store:
        yield store


async def test_concurrent_checks_share_calls(store, redis_url):
    """32 callers that ask at the same time cost one call of the script, not 32."""
    limiter = RateLimiter(1000, "1h", store=store, name="api", on_store_failure="deny")
    await limiter.check()
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        decisions = await asyncio.gather(*(limiter.check() for _ in range(32)))
        sent = client.info("commandstats")
    assert sorted(d.remaining for d in decisions) == list(range(967, 999))
    assert sent["cmdstat_evalsha"]["calls"] == 1
    assert "cmdstat_info" not in sent, "whether it is a cluster was asked by the first"


async def test_processes_share_a_limit(redis_url):
    stores = [RedisRateLimits(redis_url) for _ in range(4)]
    limiters = [
        RateLimiter(50, "1h", store=store, name="api", on_store_failure="deny") for store in stores
    ]
    answers = await asyncio.gather(*(limiter.check() for limiter in limiters for _ in range(40)))
    assert sum(decision.allowed for decision in answers) == 50
    for store in stores:
        await store.close()


async def test_a_sliding_window_is_kept_until_it_no_longer_counts(store, redis_url):
    """The next window weighs this one, so it lives to the end of that."""
    await store.check([RateRequest("k", Rate(10, 3600, algorithm="sliding_window"))])
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.keys()
        assert client.pttl(key) > 3600 * 1000


@pytest.mark.parametrize("algorithm", ["gcra", "sliding_window"])
async def test_keys_expire(store, redis_url, algorithm):
    rate = Rate(10, 0.2, algorithm=algorithm)
    await store.check([RateRequest(f"k{n}", rate) for n in range(100)])
    with redis.Redis.from_url(redis_url) as client:
        async with asyncio.timeout(30):
            while client.dbsize():
                await asyncio.sleep(0.05)


async def test_a_server_clock_set_back_blocks_no_longer_than_a_refill(store, redis_url):
    """A state an hour in the future, as it would be found after the clock was set back."""
    await store.check([RateRequest("k", Rate(10, 1.0), 1)])
    with redis.Redis.from_url(redis_url) as client:
        now = client.time()[0]
        client.set("standfast:rate:1:k", str((now + 3600) * 1_000_000))
    (denied,) = await store.check([RateRequest("k", Rate(10, 1.0), 1)])
    assert not denied.allowed
    assert denied.retry_after <= 1.0
    # What it was told holds: the denied check brought the state back from the future.
    await asyncio.sleep(denied.retry_after)
    (allowed,) = await store.check([RateRequest("k", Rate(10, 1.0), 1)])
    assert allowed.allowed


async def test_a_window_from_the_future_counts_as_this_one(store, redis_url):
    """As after a failover to a server whose clock is an hour behind."""
    request = RateRequest("k", Rate(10, 1.0, algorithm="sliding_window"), 1)
    with redis.Redis.from_url(redis_url) as client:
        now = client.time()[0]
        client.set("standfast:rate:2:k", f"{now + 3600} 10 10", px=3_600_000)
        (denied,) = await store.check([request])
        assert not denied.allowed
        assert client.pttl("standfast:rate:2:k") <= 2000
    await asyncio.sleep(denied.retry_after + 0.01)
    (allowed,) = await store.check([request])
    assert allowed.allowed


@pytest.mark.parametrize("policy", ["allow", "deny"])
async def test_redis_killed_during_use(redis_server, policy):
    async with RedisRateLimits(redis_server.url, timeout=5) as store:
        limiter = RateLimiter(3, "1h", store=store, name="api", on_store_failure=policy)
        assert (await limiter.check()).allowed
        redis_server.kill()
        while_away = await asyncio.gather(*(limiter.check() for _ in range(20)))
        assert {decision.allowed for decision in while_away} == {policy == "allow"}
        if policy == "deny":
            with pytest.raises(RateLimited) as caught:
                await limiter.acquire()
            assert caught.value.retry_after == 1.0
        else:
            await limiter.acquire()
        redis_server.start()
        seen = [(await limiter.check()).allowed for _ in range(4)]
        # It may have lost the last moment before it was killed, but counts again.
        assert seen in ([True, True, False, False], [True, True, True, False])


async def test_redis_killed_and_back_during_a_wait(redis_server):
    async with RedisRateLimits(redis_server.url, timeout=5) as store:
        limiter = RateLimiter(1, "1s", store=store, name="api", on_store_failure="deny")
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire(max_wait=120))
        await asyncio.sleep(0)
        redis_server.kill()
        await asyncio.sleep(0.1)
        redis_server.start()
        assert (await waiting).allowed


async def test_a_redis_that_hangs_is_away(redis_url, tcp_proxy):
    proxy = await tcp_proxy(redis_url)
    async with RedisRateLimits(proxy.through(redis_url), timeout=0.3) as store:
        request = RateRequest("k", Rate(10, "1h"))
        await store.check([request])
        proxy.blackhole()
        with pytest.raises(StoreUnavailable, match="didn't decide a rate limit"):
            await store.check([request])


async def test_a_script_that_was_flushed_is_sent_again(store, redis_url):
    request = RateRequest("k", Rate(10, "1h"))
    await store.check([request])
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    assert (await store.check([request]))[0].remaining == 8


def test_a_bad_url_is_refused():
    with pytest.raises(ConfigurationError, match="scheme 'http': a Redis URL begins with redis"):
        RedisRateLimits("http://localhost")
