"""What a rate limit costs, beside its peers: ``make bench ARGS="resilience ratelimit"``.

In memory: nanoseconds over the bare call, medians of interleaved rounds. In Redis: checks a second
by 32 concurrent callers on one key of a real server, which is started here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import aiolimiter
import limits
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from tests.servers.redis import Redis

from standfast.backends.redis import RedisRateLimits
from standfast.resilience.ratelimit import LeasedRateLimits, RateLimiter

ROUNDS, CALLS = 21, 10_000
CALLERS, SECONDS = 32, 1.0
MANY = 1_000_000  # So many that none is denied.


def bare() -> int:
    return 1


async def bare_async() -> int:
    return 1


def nanoseconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - began) / CALLS


async def nanoseconds_async(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        await call()
    return (time.perf_counter_ns() - began) / CALLS


async def in_memory() -> None:
    limiter = RateLimiter(MANY)
    peer = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    window = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
    item = limits.RateLimitItemPerSecond(MANY)
    leaky = aiolimiter.AsyncLimiter(MANY, 1)

    async def with_aiolimiter() -> int:
        async with leaky:
            return await bare_async()

    plain = {
        "bare": bare,
        "standfast, decorated def": limiter(bare),
        "standfast, check_now": limiter.check_now,
        "limits, fixed window": lambda: window.hit(item),
        "limits, moving window": lambda: peer.hit(item),
    }
    asynchronous = {
        "bare async": bare_async,
        "standfast, decorated async def": limiter(bare_async),
        "standfast, acquire": limiter.acquire,
        "aiolimiter, async with": with_aiolimiter,
    }
    seen: dict[str, list[float]] = {name: [] for name in (*plain, *asynchronous)}
    for _ in range(ROUNDS):
        for name, call in plain.items():
            if name == "limits, moving window":  # Its log of entries grows with every hit.
                peer.storage.storage.clear()
                peer.storage.events.clear()
            seen[name].append(nanoseconds(call))
        for name, coroutine in asynchronous.items():
            seen[name].append(await nanoseconds_async(coroutine))
    for group in (plain, asynchronous):
        names = list(group)
        base = median(seen[names[0]])
        ours = median(seen[names[1]]) - base
        for name in names[1:]:
            over = median(seen[name]) - base
            print(f"{name:32} {over:9,.0f} ns over the bare call   x {over / ours:.2f}")


async def throughput(check: Callable[[], Awaitable[Any]]) -> float:
    end = time.perf_counter() + SECONDS
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await check()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done / (time.perf_counter() - began)


async def in_redis() -> None:
    with Redis() as server:
        async with RedisRateLimits(server.url) as store:
            ours = RateLimiter(MANY, store=store, name="a", on_store_failure="deny")
            leases = LeasedRateLimits(store, tokens=100)
            leased = RateLimiter(MANY, store=leases, name="b", on_store_failure="deny")
            moving, fixed = (
                strategy(RedisStorage(f"async+{server.url}", implementation="redispy"))
                for strategy in (
                    MovingWindowRateLimiter,
                    limits.aio.strategies.FixedWindowRateLimiter,
                )
            )
            item = limits.RateLimitItemPerSecond(MANY)
            cases: dict[str, Callable[[], Awaitable[Any]]] = {
                "limits, fixed window": lambda: fixed.hit(item, "c"),
                "limits, moving window": lambda: moving.hit(item, "d"),
                "standfast": ours.check,
                "standfast, leases of 100": leased.check,
            }
            seen: dict[str, list[float]] = {name: [] for name in cases}
            for _ in range(5):
                for name, check in cases.items():
                    seen[name].append(await throughput(check))
            base = median(seen["limits, fixed window"])
            for name, rates in seen.items():
                rate = median(rates)
                print(f"{name:32} {rate:9,.0f} checks/s in Redis          x {rate / base:.2f}")


def main() -> None:
    asyncio.run(in_memory())
    asyncio.run(in_redis())
