"""A dependency that hangs opens the breaker, whichever deadline ends the wait for it."""

import asyncio
import threading
import time
from typing import Any

import pytest

from standfast.errors import CircuitOpen, TimedOut
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    Retry,
    Timeout,
    within,
)
from standfast.resilience.breaker import State

HANGS = 20.0
SOON = 0.02


async def hangs() -> None:
    await asyncio.Event().wait()


def docs_order(breaker: CircuitBreaker, after: float = SOON) -> Pipeline:
    return Pipeline(Timeout(after), Retry(attempts=4), breaker, Bulkhead(20))


def nested(breaker: CircuitBreaker, after: float = SOON) -> Pipeline:
    return Pipeline(Timeout(after), Pipeline(Retry(attempts=4), Pipeline(breaker)))


@pytest.fixture(params=[docs_order, nested])
def around(request: Any) -> Any:
    return request.param


def three_in_a_row(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(consecutive_failures=3, failure_rate=None, **options)


async def test_async_calls_that_use_up_the_pipeline_s_deadline_open_it(around: Any) -> None:
    breaker = three_in_a_row()
    policy = around(breaker)
    for _ in range(3):
        with pytest.raises(TimedOut):
            await policy.call(hangs)
    assert (breaker.failures, breaker.ignored) == (3, 0)
    with pytest.raises(CircuitOpen):
        await policy.call(hangs)


def test_plain_calls_that_use_up_the_pipeline_s_deadline_open_it(around: Any) -> None:
    breaker, go_on = three_in_a_row(), threading.Event()
    policy = around(breaker)
    for _ in range(3):
        with pytest.raises(TimedOut):
            policy.call(go_on.wait, HANGS)
    assert (breaker.failures, breaker.ignored) == (3, 0)
    with pytest.raises(CircuitOpen):
        policy.call(go_on.wait, HANGS)
    go_on.set()
    end = time.monotonic() + HANGS
    while policy.policies[0].abandoned.count:
        assert time.monotonic() < end, "the threads still run"
        time.sleep(0.001)
    assert (breaker.failures, breaker.successes) == (3, 0), "each call counts once"


@pytest.mark.parametrize("outcome", [None, OSError])
def test_plain_calls_that_come_back_in_time_count_as_ever(around: Any, outcome: Any) -> None:
    breaker = three_in_a_row()
    policy = Pipeline(Timeout(HANGS), breaker) if outcome else around(breaker, HANGS)

    def call() -> int:
        if outcome:
            raise outcome
        return 7

    if outcome:
        with pytest.raises(outcome):
            policy.call(call)
    else:
        assert policy.call(call) == 7
    assert (breaker.failures, breaker.successes) == ((1, 0) if outcome else (0, 1))


async def test_a_timeout_anywhere_around_counts() -> None:
    breaker = three_in_a_row()
    with pytest.raises(TimedOut):
        async with Timeout(SOON):
            await breaker.call(hangs)
    with pytest.raises(TimedOut):
        async with Timeout(SOON), breaker:
            await hangs()
    with pytest.raises(TimedOut):
        async with Pipeline(Timeout(SOON), breaker):
            await hangs()
    assert breaker.state is State.OPEN


async def test_it_is_judged_as_what_it_is() -> None:
    lenient = three_in_a_row(ignore_on=(TimedOut,))
    narrow = three_in_a_row(failure_on=(OSError,))  # of which TimeoutError is one
    other = three_in_a_row(failure_on=(KeyError,))
    for breaker in (lenient, narrow, other):
        with pytest.raises(TimedOut):
            await docs_order(breaker).call(hangs)
    assert (lenient.ignored, lenient.failures) == (1, 0)
    assert (narrow.failures, other.failures) == (1, 0)


async def test_a_cancellation_by_the_caller_says_nothing() -> None:
    breaker = three_in_a_row()
    task = asyncio.create_task(docs_order(breaker, HANGS).call(hangs))
    await asyncio.sleep(SOON)
    task.cancel()
    await asyncio.wait([task], timeout=HANGS)
    assert task.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await docs_order(breaker, HANGS).call(hangs)
    assert (breaker.failures, breaker.ignored) == (0, 2)


@pytest.mark.parametrize(("left", "failures"), [(0.03, 0), (0.08, 1)])
async def test_a_call_that_was_left_little_time_is_not_blamed(left: float, failures: int) -> None:
    breaker = three_in_a_row()
    with within(left), pytest.raises(TimedOut):
        await docs_order(breaker, 0.1).call(hangs)
    assert breaker.failures == failures
    assert breaker.ignored == 1 - failures


@pytest.mark.parametrize(("left", "failures"), [(0.03, 0), (0.08, 1)])
def test_nor_is_a_plain_one(left: float, failures: int) -> None:
    breaker, go_on = three_in_a_row(), threading.Event()
    with within(left), pytest.raises(TimedOut):
        docs_order(breaker, 0.1).call(go_on.wait, HANGS)
    assert breaker.failures == failures
    go_on.set()


async def test_an_adaptive_bulkhead_measures_it() -> None:
    bulkhead = AdaptiveBulkhead(5)
    took: list[float] = []
    bulkhead._sample = took.append  # type: ignore[method-assign]
    with pytest.raises(TimedOut):
        await Pipeline(Timeout(SOON), bulkhead).call(hangs)
    with pytest.raises(TimedOut):
        async with Pipeline(Timeout(SOON), bulkhead):
            await hangs()
    assert len(took) == 2
    task = asyncio.create_task(bulkhead.call(hangs))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=HANGS)
    assert len(took) == 2
