"""Pipeline: timeout + retry + breaker + bulkhead around a call that succeeds."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable

import tenacity
from hyx.bulkhead import bulkhead as hyx_bulkhead
from hyx.circuitbreaker import consecutive_breaker
from hyx.retry import retry as hyx_retry
from hyx.timeout import timeout as hyx_timeout

from benchmarks.resilience.overhead import bare_async, compare
from standfast.resilience import Pipeline, Policy, Retry, Timeout


def stateful() -> list[Policy]:
    """Breaker and bulkhead, as far as this version has them."""
    offered = importlib.import_module("standfast.resilience")
    makers = (("CircuitBreaker", ()), ("Bulkhead", (20,)))
    return [getattr(offered, name)(*given) for name, given in makers if hasattr(offered, name)]


def by_hyx() -> Callable[[int], Awaitable[int]]:
    call = hyx_bulkhead(max_concurrency=20, max_capacity=100)(bare_async)
    call = consecutive_breaker(exceptions=(Exception,), failure_threshold=5, recovery_time_secs=30)(
        call
    )
    return hyx_timeout(2)(hyx_retry(on=Exception, attempts=4)(call))


def main() -> None:
    policies = [Timeout(2), Retry(attempts=4), *stateful()]
    slots = asyncio.Semaphore(20)

    @tenacity.retry(stop=tenacity.stop_after_attempt(4))
    async def attempt(x: int) -> int:
        async with slots:
            return await bare_async(x)

    async def by_hand(x: int) -> int:
        async with asyncio.timeout(2):
            return await attempt(x)

    kinds = " + ".join(policy.kind for policy in policies)
    compare(
        "pipeline, success path",
        {},
        lambda: {
            f"standfast {kinds}": Pipeline(*policies)(bare_async),
            "hyx, the same four": by_hyx(),
            "asyncio.timeout + tenacity + Semaphore": by_hand,
        },
        target={"async def": 4000},
    )


if __name__ == "__main__":
    main()
