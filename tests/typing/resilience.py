"""A policy keeps the signature of what it wraps."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Coroutine
from typing import Any, assert_type

from standfast.resilience import Fallback, Hedge, Pipeline, Policy, Retry, Timeout

pipeline = Pipeline(Timeout("2s"), Retry(attempts=4), name="payments")
retry = Retry()


@pipeline
async def charge(order: str, *, cents: int) -> float:
    return cents / 100


@retry
def stock(sku: str, depot: int = 1) -> list[str]:
    return [sku] * depot


class Client:
    @Timeout(1)
    async def get(self, path: str) -> bytes:
        return path.encode()

    @Hedge("10ms")
    def peek(self, path: str) -> bytes:
        return path.encode()


async def kept(client: Client, policy: Policy) -> None:
    coroutine: Coroutine[Any, Any, float] = charge("a", cents=1)
    assert_type(await coroutine, float)
    assert_type(await charge("a", cents=1), float)
    assert_type(stock("a"), list[str])
    assert_type(stock("a", 2), list[str])
    assert_type(await client.get("/"), bytes)
    assert_type(client.peek("/"), bytes)
    assert_type(await policy.call(charge, "a", cents=1), float)
    assert_type(Fallback([]).call(stock, "a", depot=2), list[str])
    assert_type(await retry.call_async(lambda: charge("a", cents=1)), float)
    for attempt in retry:
        with attempt:
            assert_type(attempt.number, int)
    async for attempt in retry:
        with attempt:
            assert_type(attempt.number, int)


async def refused(client: Client) -> None:
    # Each of these must be an error: an ignore that isn't needed is one itself.
    await charge(1, cents=1)  # type: ignore[arg-type]
    await charge("a")  # type: ignore[call-arg]
    stock("a", depot="b")  # type: ignore[arg-type]
    await client.get()  # type: ignore[call-arg]
    pipeline.call(stock, 1)  # type: ignore[arg-type]
