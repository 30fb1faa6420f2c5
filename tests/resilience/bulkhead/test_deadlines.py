"""A wait ends at the deadline around it, and no call begins after its caller has gone."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.resilience.bulkhead.test_bulkhead import until

from standfast.clock import SYSTEM_CLOCK
from standfast.errors import BulkheadFull, RateLimited, TimedOut
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    Fallback,
    Pipeline,
    RateLimiter,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
    within,
)
from standfast.resilience.backoff import Constant
from standfast.resilience.deadline import ThreadDeadline
from standfast.testing import ManualClock

SHORT = "10ms"
"""A deadline that passes while nothing else happens."""


@contextlib.contextmanager
def held(policy: Any) -> Iterator[None]:
    """All of its permits, or threads, are taken."""
    if not isinstance(policy, ThreadPoolBulkhead):
        with policy:
            yield
        return
    free = threading.Event()
    holding = policy.submit(free.wait)
    try:
        yield
    finally:
        free.set()
        holding.result()


MAKE: dict[str, Callable[[Any], Any]] = {
    "bulkhead": lambda clock: Bulkhead(1, queue=5, clock=clock),
    "adaptive": lambda clock: AdaptiveBulkhead(1, queue=5, clock=clock),
    "threads": lambda clock: ThreadPoolBulkhead(1, queue=5, clock=clock),
}
every_kind = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@every_kind
def test_a_thread_whose_caller_has_gone_leaves_the_line(make: Any) -> None:
    clock, calls, told = ManualClock(), list[int](), list[BaseException]()
    bulkhead = make(clock)
    policy = Pipeline(Timeout(1, clock=clock), bulkhead)

    def caller() -> None:
        with pytest.raises(TimedOut) as caught:
            policy.call(calls.append, 1)
        told.append(caught.value)

    with held(bulkhead):
        thread = threading.Thread(target=caller)
        thread.start()
        until(lambda: bulkhead.queued == 1)
        clock.advance(1)
        thread.join()
        assert told, "the caller is told that it took too long, not that it was rejected"
        until(lambda: bulkhead.rejected == 1)
    assert bulkhead.call(lambda: 7) == 7, "nobody stands before it"
    assert calls == []
    assert bulkhead.active == 0


@every_kind
def test_no_attempt_is_made_of_a_call_that_was_in_line_each_time(make: Any) -> None:
    clock, calls = ManualClock(), list[int]()
    bulkhead = make(clock)
    policy = Pipeline(
        Retry(3, backoff=Constant(0), on=(TimedOut,)), Timeout(1, clock=clock), bulkhead
    )

    def pay() -> None:
        with pytest.raises(TimedOut):
            policy.call(calls.append, 1)

    with held(bulkhead):
        thread = threading.Thread(target=pay)
        thread.start()
        for attempt in range(3):
            until(lambda: bulkhead.queued == 1)
            clock.advance(1)
            until(lambda number=attempt: bulkhead.rejected == number + 1)
        thread.join()
    bulkhead.call(lambda: 7)
    assert calls == []


@every_kind
def test_a_plain_call_doesnt_wait_beyond_a_deadline_that_interrupts_nothing(make: Any) -> None:
    calls: list[int] = []
    bulkhead = make(SYSTEM_CLOCK)
    with held(bulkhead):
        with within(SHORT), pytest.raises(BulkheadFull, match="before the deadline"):
            bulkhead.call(calls.append, 1)
        if not isinstance(bulkhead, ThreadPoolBulkhead):
            with within(SHORT), pytest.raises(BulkheadFull), bulkhead:
                calls.append(1)
        assert bulkhead.queued == 0
    bulkhead.call(lambda: 7)
    assert calls == []
    assert bulkhead.active == 0


def test_a_permit_that_comes_too_late_goes_to_the_next() -> None:
    clock, calls, told = ManualClock(), list[int](), list[BaseException]()
    bulkhead = Bulkhead(1, queue=5, clock=clock)

    def call() -> None:
        with within(1, clock=clock), pytest.raises(BulkheadFull) as caught:
            bulkhead.call(calls.append, 1)
        told.append(caught.value)

    with bulkhead:
        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: bulkhead.queued == 1)
        clock.advance(2)
    thread.join()
    assert "before the deadline" in str(told)
    assert (calls, bulkhead.active) == ([], 0)


def test_a_call_that_has_begun_is_waited_for_beyond_the_deadline() -> None:
    with ThreadPoolBulkhead(1) as pool, within(SHORT):
        assert pool.call(threading.Event().wait, 0.05) is False


def test_who_is_interrupted_begins_nothing_more() -> None:
    clock, calls = ManualClock(), list[int]()
    bulkhead = Bulkhead(1, queue=5, clock=clock)
    timeout = Timeout("1h", clock=clock)

    def interrupted(*_: Any) -> bool:
        until(lambda: bulkhead.queued == 1)
        raise KeyboardInterrupt

    with bulkhead, pytest.MonkeyPatch.context() as patch:
        patch.setattr("standfast.resilience.threads.RunningCall.wait_until", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Pipeline(timeout, bulkhead).call(calls.append, 1)
    until(lambda: bulkhead.rejected == 1)
    assert (calls, bulkhead.active) == ([], 0)


def test_no_substitute_is_made_for_who_has_gone() -> None:
    clock, substitutes, goes_on = ManualClock(), list[BaseException](), threading.Event()
    fallback = Fallback(function=substitutes.append)
    timeout = Timeout(1, clock=clock)

    def fails() -> None:
        clock.advance(1)
        goes_on.wait(30)
        raise OSError

    with pytest.raises(TimedOut):
        Pipeline(timeout, fallback).call(fails)
    goes_on.set()
    until(lambda: timeout.abandoned.count == 0)
    assert substitutes == []
    assert fallback.used["function"] == 0
    with within(0):  # here the caller still waits
        assert Fallback(7).call(fails) == 7


# -- in an event loop ----------------------------------------------------------------------------


async def test_a_task_doesnt_wait_beyond_a_deadline_that_interrupts_nothing() -> None:
    bulkhead, pool = Bulkhead(1, queue=5), ThreadPoolBulkhead(1, queue=5)
    limiter = RateLimiter(1, "1h", max_wait="2h")
    await limiter.acquire()
    with held(bulkhead), held(pool), within(SHORT):
        with pytest.raises(BulkheadFull, match="before the deadline"):
            await bulkhead.call(asyncio.sleep, 0)
        with pytest.raises(BulkheadFull, match="before the deadline"):
            await pool.run(int)
        with pytest.raises(RateLimited):
            await limiter.acquire()
    assert (bulkhead.queued, bulkhead.active) == (0, 0)
    assert await pool.run(int) == 0


async def test_a_timeout_around_goes_before_what_waits_inside() -> None:
    bulkhead, pool = Bulkhead(1, queue=5), ThreadPoolBulkhead(1, queue=5)
    with held(bulkhead), held(pool):
        for wait in (lambda: bulkhead.call(asyncio.sleep, 0), lambda: pool.run(int)):
            with pytest.raises(TimedOut):
                await Timeout(SHORT).call_async(wait)
    assert (bulkhead.queued, bulkhead.active) == (0, 0)


async def test_what_a_limit_can_t_give_before_the_deadline_is_told_at_once() -> None:
    clock = ManualClock()
    limiter = RateLimiter(1, "1h", max_wait="2h", clock=clock)
    await limiter.acquire()
    with pytest.raises(RateLimited):
        await Timeout("1m", clock=clock).call(limiter.acquire)
    assert clock.slept == []


@pytest.mark.parametrize("passes", [True, False])
async def test_a_task_that_outlives_a_timeout_waits_as_long_as_its_deadline_holds(
    passes: bool,
) -> None:
    bulkhead = Bulkhead(1, queue=5)
    waiting: list[asyncio.Task[Any]] = []
    async with bulkhead:
        with contextlib.suppress(TimedOut):
            async with Timeout(SHORT):
                waiting.append(asyncio.create_task(bulkhead.call(asyncio.sleep, 0, 7)))
                await asyncio.sleep(60 if passes else 0)
        if passes:
            with pytest.raises(BulkheadFull, match="before the deadline"):
                await waiting[0]
        else:
            await asyncio.sleep(0.03)
            assert not waiting[0].done(), "it is free of a deadline that was left in time"
    if not passes:
        assert await waiting[0] == 7


def test_who_asked_for_it_is_told_once_when_nobody_waits_any_more() -> None:
    deadline = ThreadDeadline(0.0, None)
    told: list[str] = []
    for name in ("before", "taken out"):
        deadline.call_on_expiry(name, lambda name=name: told.append(name))  # type: ignore[misc]
    del deadline.on_expiry["taken out"]
    assert told == []
    for _ in range(2):
        deadline.expire()
    deadline.call_on_expiry("after", lambda: told.append("after"))
    assert told == ["before", "after"]
    assert not deadline.on_expiry
