"""Timeout: what a call that ends in time pays."""

from __future__ import annotations

import asyncio

from hyx.timeout import timeout as hyx_timeout

from benchmarks.resilience.overhead import bare_async, compare
from standfast.resilience import Timeout


async def by_asyncio(x: int) -> int:
    async with asyncio.timeout(5):
        return await bare_async(x)


async def by_wait_for(x: int) -> int:
    return await asyncio.wait_for(bare_async(x), 5)


def main() -> None:
    policy = Timeout(5)
    compare(
        "timeout, a call that ends in time",
        {},
        lambda: {
            "standfast Timeout": policy(bare_async),
            "standfast Timeout inside a shorter one": Timeout(4)(policy(bare_async)),
            "asyncio.timeout": by_asyncio,
            "asyncio.wait_for": by_wait_for,
            "hyx": hyx_timeout(5)(bare_async),
        },
        target={},
    )


if __name__ == "__main__":
    main()
