"""What a bulkhead costs when a permit is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import hyx.bulkhead

from benchmarks.resilience.overhead import Contenders, bare, bare_async, compare
from standfast.resilience.bulkhead import AdaptiveBulkhead, Bulkhead, ThreadPoolBulkhead


def _semaphore(call: Callable[[int], Awaitable[Any]]) -> Callable[[int], Awaitable[Any]]:
    semaphore = asyncio.Semaphore(20)

    async def run(x: int) -> Any:
        async with semaphore:
            return await call(x)

    return run


def _thread_semaphore(call: Callable[[int], Any]) -> Callable[[int], Any]:
    semaphore = threading.BoundedSemaphore(20)

    def run(x: int) -> Any:
        with semaphore:
            return call(x)

    return run


def _awaited() -> Contenders:
    return {
        "standfast": Bulkhead(20)(bare_async),
        "standfast, adaptive": AdaptiveBulkhead(20)(bare_async),
        "hyx": hyx.bulkhead.bulkhead(max_concurrency=20, max_capacity=20)(bare_async),
        "asyncio.Semaphore": _semaphore(bare_async),
    }


def main() -> None:
    """Print the table."""
    with ThreadPoolBulkhead(4, queue=4) as pool:
        compare(
            "Bulkhead: a permit is free",
            {
                "standfast": Bulkhead(20)(bare),
                "standfast, adaptive": AdaptiveBulkhead(20)(bare),
                "standfast, thread pool": pool(bare),
                "threading.BoundedSemaphore": _thread_semaphore(bare),
            },
            _awaited,
            target={"async def": 900},
        )


if __name__ == "__main__":
    main()
