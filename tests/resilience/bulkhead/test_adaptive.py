"""The adaptive limit: pure, and in a bulkhead."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import BulkheadFull, ConfigurationError, TimedOut
from standfast.resilience.bulkhead import AdaptiveBulkhead
from standfast.resilience.bulkhead.gradient import Gradient2, GradientSettings
from standfast.resilience.timeout import Timeout


def drive(gradient: Gradient2, now: float, took: float, windows: int) -> float:
    for _ in range(windows * 10):
        now += 0.11
        gradient.sample(now, took, int(gradient.limit))
    return now


def test_steady_calls_let_the_limit_grow_to_its_maximum() -> None:
    gradient = Gradient2(20, GradientSettings(maximum=60))
    drive(gradient, 0.0, 0.1, 100)
    assert gradient.limit == 60


def test_slower_calls_make_it_shrink_and_fast_ones_grow_again() -> None:
    gradient = Gradient2(100, GradientSettings(maximum=100))
    now = drive(gradient, 0.0, 0.1, 20)
    now = drive(gradient, now, 0.5, 20)
    shrunk = gradient.limit
    assert shrunk < 40
    drive(gradient, now, 0.1, 200)
    assert gradient.limit == 100


def test_little_traffic_teaches_nothing() -> None:
    gradient = Gradient2(20, GradientSettings())
    for turn in range(500):
        gradient.sample(turn * 0.2, 0.1 + turn, 2)
    assert gradient.limit == 20


def test_what_was_busy_before_doesnt_count_in_quiet_hours() -> None:
    gradient = Gradient2(20, GradientSettings())
    now = drive(gradient, 0.0, 0.1, 5)
    limits = []
    for _ in range(300):
        now += 0.2
        gradient.sample(now, 0.1, 2)
        limits.append(gradient.limit)
    assert 20 < limits[0] <= limits[30] == limits[-1] < 50


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0, 1e6), st.integers(0, 500)), min_size=1, max_size=300
    )
)
def test_it_stays_within_its_bounds_whatever_comes(samples: list[tuple[float, float, int]]) -> None:
    gradient, now = Gradient2(5, GradientSettings(minimum=2, maximum=9)), 0.0
    for later, took, active in samples:
        now += later
        limit = gradient.sample(now, took, active)
        assert 2 <= gradient.limit <= 9
        assert limit is None or limit == int(gradient.limit)


class Clock:
    time = 0.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None: ...


@pytest.mark.parametrize("way", ["sync", "async", "with", "async with"])
async def test_the_bulkhead_learns_and_shares_the_permits(way: str) -> None:
    clock = Clock()
    bulkhead = AdaptiveBulkhead(1, maximum=5, queue=5, clock=clock, name="learns")

    async def work() -> None:
        clock.time += 0.2

    def plain_work() -> None:
        clock.time += 0.2

    for _ in range(60):
        if way == "sync":
            bulkhead.call(plain_work)
        elif way == "async":
            await bulkhead.call(work)
        elif way == "with":
            with bulkhead:
                plain_work()
        else:
            async with bulkhead:
                plain_work()
    # One at a time uses half of two permits, and not of three: that is where it stops.
    assert 2 <= bulkhead.limit <= 3
    assert bulkhead.active == 0
    assert ("standfast.bulkhead.limit", bulkhead.limit, {"name": "learns"}) in bulkhead.measures()


async def test_a_grown_limit_serves_those_who_wait() -> None:
    bulkhead = AdaptiveBulkhead(1, queue=3)
    async with bulkhead:
        waiting = [asyncio.create_task(bulkhead.__aenter__()) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        for waiter in bulkhead._permits.resize(3):
            bulkhead._tell(bulkhead._hand(waiter))
        await asyncio.wait_for(asyncio.gather(*waiting[:2]), 30)
        assert not waiting[2].done()
        assert bulkhead.active == 3
        with pytest.raises(BulkheadFull):
            await asyncio.gather(*(bulkhead.__aenter__() for _ in range(3)))
        waiting[2].cancel()


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 0},
        {"minimum": 30, "initial": 20},
        {"maximum": 10, "minimum": 11},
        {"smoothing": 0},
        {"tolerance": 0.5},
    ],
)
def test_bad_options_are_refused_when_it_is_built(options: Any) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        AdaptiveBulkhead(**options)


@pytest.mark.parametrize(
    ("options", "limit"), [({}, 20), ({"maximum": 10}, 10), ({"minimum": 30}, 30)]
)
def test_it_begins_within_the_bounds_that_are_given(options: Any, limit: int) -> None:
    assert AdaptiveBulkhead(**options).limit == limit


@pytest.mark.parametrize(("around", "measured"), [(0.02, False), (10, True)])
async def test_a_call_that_was_left_little_time_isnt_measured(
    around: float, measured: bool
) -> None:
    """It was ended in less than half of its time by a deadline around: that isn't the load."""
    bulkhead = AdaptiveBulkhead(10)
    samples: list[float] = []
    bulkhead._sample = samples.append  # type: ignore[method-assign]
    inner = Timeout(0.1)(bulkhead(asyncio.sleep))
    with pytest.raises(TimedOut):
        await Timeout(around)(inner)(10)
    assert bool(samples) is measured


async def test_a_call_that_its_caller_gave_up_on_isnt_measured() -> None:
    """A deadline around that still holds doesn't make the cancellation its own."""
    bulkhead = AdaptiveBulkhead(10)
    samples: list[float] = []
    bulkhead._sample = samples.append  # type: ignore[method-assign]
    task = asyncio.create_task(Timeout(60)(bulkhead(asyncio.sleep))(60))
    await asyncio.sleep(0)
    assert bulkhead.active == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert samples == []
