"""Timeout: as honest as asyncio.timeout, and cheaper."""

import asyncio
import contextlib
import contextvars
import math
import sys
import threading
import time
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import ConfigurationError, TimedOut
from standfast.resilience import timers
from standfast.resilience.backoff import Constant
from standfast.resilience.deadline import remaining, within, without_deadline
from standfast.resilience.retry import Retry
from standfast.resilience.timeout import Timeout
from standfast.resilience.timers import DeadlineQueue, Scope
from standfast.testing import FaultyFunction, ManualClock

LONG = 60.0


async def forever():
    await asyncio.Event().wait()


async def test_a_short_timeout_interrupts_a_long_call():
    function = FaultyFunction(takes=LONG)
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"'payments'.*not done after 0.1s"):
        await Timeout("100ms", name="payments").call(function.awaited)
    assert 0.1 <= time.monotonic() - began < 5
    assert function.cancelled == 1


async def test_a_short_timeout_interrupts_an_attempt():
    function = FaultyFunction(takes=0.5)
    policy = Retry(attempts=2, backoff=Constant(0))
    began = time.monotonic()
    with pytest.raises(TimedOut):
        await policy(Timeout("100ms")(function.awaited))()
    assert function.cancelled == 2
    assert time.monotonic() - began >= 0.2


async def test_many_of_one_policy_each_end_on_time():
    policy = Timeout(0.2)
    late = []

    async def one(wait):
        await asyncio.sleep(wait)
        began = time.monotonic()
        with pytest.raises(TimedOut):
            await policy.call(forever)
        late.append(time.monotonic() - began - 0.2)

    await asyncio.gather(*(one(n * 0.01) for n in range(30)))
    assert len(late) == 30
    assert min(late) >= -0.001
    assert max(late) < 5
    assert sorted(late)[15] < 0.5, "the timer is precise, not a coarse tick"
    assert not policy._last_queue[1].scopes


async def test_what_ends_in_time_leaves_nothing():
    policy = Timeout(LONG)
    assert await policy.call(FaultyFunction(then=7).awaited) == 7
    with pytest.raises(KeyError):
        await policy.call(FaultyFunction(then=KeyError).awaited)
    assert not policy._last_queue[1].scopes
    assert remaining() is None
    assert asyncio.current_task().cancelling() == 0


# -- cancellation, as asyncio.timeout has it --------------------------------------------------


@contextlib.asynccontextmanager
async def ours(after):
    async with Timeout(after):
        yield


@contextlib.asynccontextmanager
async def wrapped_in_a_clipped_one(after):
    while True:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(Timeout(after).block())
            with contextlib.suppress(TimedOut):  # a busy machine came too late for the inner one
                await stack.enter_async_context(Timeout(LONG).block())
                both = stack.pop_all()
                break
    async with both:
        yield


@pytest.fixture(params=[ours, wrapped_in_a_clipped_one, asyncio.timeout])
def timeout(request):
    """Ours, ours with a deadline of another, and the one of asyncio, which sets the standard."""
    return request.param


def as_python_does_it_now(timeout):
    """Debian 12 has Python 3.11.2, whose own one is no measure for these."""
    if timeout is asyncio.timeout and sys.version_info < (3, 11, 4):
        pytest.skip("asyncio.timeout did it otherwise in the first releases of Python 3.11")


async def test_it_gives_a_timeout_error_and_takes_back_its_cancellation(timeout):
    as_python_does_it_now(timeout)
    with pytest.raises(TimeoutError) as caught:
        async with timeout(0.01):
            await forever()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # no cancellation is left to come


async def test_a_cancellation_from_elsewhere_stays_one(timeout):
    started = asyncio.Event()

    async def work():
        async with timeout(LONG):
            started.set()
            await forever()

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_elsewhere_wins_over_the_timeout(timeout):
    async def work():
        async with timeout(0.01):
            try:
                await forever()
            finally:
                asyncio.current_task().cancel()

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_cleanup_is_let_through(timeout):
    with pytest.raises(KeyError):
        async with timeout(0.01):
            try:
                await forever()
            finally:
                raise KeyError("cleanup")
    assert asyncio.current_task().cancelling() == 0


async def test_a_swallowed_cancellation_is_no_timeout(timeout):
    async with timeout(0.01):
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


async def test_inside_a_task_that_is_cleaning_up_after_a_cancellation(timeout):
    as_python_does_it_now(timeout)
    seen = []

    async def work():
        try:
            await forever()
        except asyncio.CancelledError:
            try:
                async with timeout(0.01):
                    await forever()
            except TimeoutError:
                seen.append("timeout")
            raise

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["timeout"]


async def test_the_inner_one_of_two_that_expire_first(timeout):
    async with asyncio.timeout(LONG):
        with pytest.raises(TimeoutError):
            async with timeout(0.01):
                await forever()
        await asyncio.sleep(0)


async def test_both_expire_at_once():
    with pytest.raises(TimedOut):
        async with Timeout(0.02):
            with pytest.raises((TimedOut, asyncio.CancelledError)) as inner:
                async with Timeout(0.02):
                    time.sleep(0.05)
                    await forever()
            if isinstance(inner.value, TimedOut):
                await forever()
            raise inner.value
    assert asyncio.current_task().cancelling() == 0


# -- blocks ----------------------------------------------------------------------------------


async def test_blocks_nest_and_tasks_share_the_policy():
    policy = Timeout(0.05)

    async def work():
        async with policy, policy:
            await forever()

    done = await asyncio.gather(*(work() for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in done] == [TimedOut] * 5
    assert len(policy._blocks) == 0


async def test_a_block_gives_its_deadline():
    async with Timeout(10):
        assert 9 < remaining() <= 10
    assert remaining() is None


# -- deadlines -------------------------------------------------------------------------------


async def test_an_inner_timeout_never_outlives_the_outer_one():
    began = time.monotonic()
    with pytest.raises(TimedOut):
        await Timeout(0.1)(Timeout(LONG)(forever))()
    assert time.monotonic() - began < 5


async def test_not_even_in_a_task_of_its_own():
    inner = Timeout(LONG)(forever)
    async with Timeout(0.1):
        task = asyncio.create_task(inner())
        await asyncio.sleep(0)
    with pytest.raises(TimedOut, match="the deadline around it"):
        await task


async def test_a_deadline_that_has_passed_makes_no_call():
    function = FaultyFunction()
    with within("1us"):
        await asyncio.sleep(0.01)
        with pytest.raises(TimedOut, match="not called"):
            await Timeout(1).call(function.awaited)
        with pytest.raises(TimedOut, match="not called"):
            Timeout(1).call(function.__call__)
    assert function.calls == []


async def test_a_retry_gives_up_when_the_delay_would_pass_the_deadline():
    clock = ManualClock()
    function = FaultyFunction(then=KeyError)
    call = Timeout("2.5s", clock=clock)(Retry(None, Constant(1), clock=clock)(function.awaited))
    task = asyncio.create_task(call())
    await clock.run(2)
    with pytest.raises(KeyError):
        await task
    assert len(function.calls) == 3


def test_within_keeps_the_earlier_deadline():
    clock = ManualClock()
    with within(5, clock=clock):
        with within(10, clock=clock):
            assert remaining(clock) == 5
        with within(1, clock=clock):
            clock.advance(2)
            assert remaining(clock) == 0, "it has passed, and can be handed on"
        assert remaining(clock) == 3
    assert remaining(clock) is None


@pytest.mark.parametrize("left", [0, -0.0047, timedelta(seconds=-1), "0s", -math.inf])
async def test_within_a_deadline_that_came_spent_nothing_is_called(left):
    function, policy = FaultyFunction(then="answer"), Timeout(LONG)
    with within(left):
        assert remaining() == 0
        with pytest.raises(TimedOut, match="the deadline around it has passed"):
            await policy.call(function.awaited)
        with pytest.raises(TimedOut, match="the deadline around it has passed"):
            policy.call(function)
    assert (function.calls, policy.expired) == ([], 2)
    assert remaining() is None


@pytest.mark.parametrize("left", [math.nan, math.inf, "soon", True, None])
def test_what_is_no_duration_is_refused_by_within(left):
    with pytest.raises(ConfigurationError, match="duration="), within(left):
        pass


async def test_a_manual_clock_moves_it():
    clock = ManualClock()
    task = asyncio.create_task(Timeout(10, clock=clock).call(forever))
    await clock.run(9.9)
    clock.set_wall(0)
    await clock.run(0.05)
    assert not task.done()
    await clock.run(0.05)
    with pytest.raises(TimedOut):
        await task


# -- the queue -------------------------------------------------------------------------------


class FakeLoop:
    """A clock and timers that a test moves."""

    def __init__(self):
        self.now = 0.0
        self.timers = []
        self.rings = 0

    def call_later(self, delay, ring):
        self.timers.append((self.now + delay, ring))

    def move_to(self, moment):
        while self.timers and min(self.timers, key=lambda t: t[0])[0] <= moment:
            first = min(self.timers, key=lambda t: t[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            self.rings += 1
            first[1]()
        self.now = moment


class FakeTask:
    def __init__(self, loop):
        self.loop = loop
        self.cancelled_at = None

    def cancelling(self):
        return 0

    def cancel(self):
        self.cancelled_at = self.loop.now


# Steps of 1/8 s, so that sums of floats are exact and "at the same instant" does happen.
@given(st.lists(st.tuples(st.integers(0, 16), st.one_of(st.none(), st.integers(1, 40)))))
def test_each_deadline_is_met_exactly_unless_it_ended_before(begins):
    loop, queue = FakeLoop(), DeadlineQueue()
    patch = pytest.MonkeyPatch()
    patch.setattr(timers, "_monotonic", lambda: loop.now)
    patch.setattr(timers.asyncio, "get_running_loop", lambda: loop)
    after, moment, events = 2.0, 0.0, []
    for n, (pause, lasts) in enumerate(begins):
        moment += pause / 8
        events.append((moment, 1, n))
        if lasts is not None:
            events.append((moment + lasts / 8, 0, n))
    scopes = {}
    try:
        for when, begin, n in [*sorted(events), (1e9, 2, None)]:
            loop.move_to(when)
            if begin == 1:
                scopes[n] = scope = Scope(FakeTask(loop), loop.now + after, None, queue)
                queue.scopes[scope] = None
                if not queue.armed:
                    queue.arm(loop, scope.at)
            elif begin == 0 and n in scopes and not scopes[n].expired:
                assert loop.now <= scopes[n].at
                del queue.scopes[scopes[n]]
        assert not queue.armed
        assert not queue.scopes
        for n, (_, lasts) in enumerate(begins):
            late = lasts is None or lasts / 8 >= after
            assert scopes[n].owner.cancelled_at == (scopes[n].at if late else None)
        assert loop.rings <= len(begins), "each ring was armed for another scope"
    finally:
        patch.undo()


# -- threads ---------------------------------------------------------------------------------


def test_around_def_it_stops_waiting_and_the_thread_goes_on():
    go_on, ended = threading.Event(), threading.Event()

    def hang():
        go_on.wait(LONG)
        ended.set()

    policy = Timeout(0.05)
    with pytest.raises(TimedOut, match=r"not done after 0\.05s"):
        policy.call(hang)
    assert {n: v for n, v, _ in policy.measures()}["standfast.timeout.abandoned"] == 1
    go_on.set()
    assert ended.wait(LONG)
    until = time.monotonic() + LONG
    while policy.abandoned.count and time.monotonic() < until:
        time.sleep(0.001)
    assert policy.abandoned.count == 0
    assert policy.expired == 1


def test_around_def_it_passes_values_errors_and_context():
    policy = Timeout(LONG)
    assert policy.call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)
    with pytest.raises(KeyError):
        policy.call(FaultyFunction(then=KeyError).__call__)
    assert 0 < policy.call(remaining) <= LONG
    assert policy.abandoned.count == 0


def test_around_def_the_inner_one_never_outlives_the_outer_one():
    left = []

    def inner():
        left.append(remaining())

    Timeout(5)(Timeout(LONG)(inner))()
    assert 0 < left[0] <= 5


def test_around_def_by_another_clock():
    clock = ManualClock()

    def slow():
        clock.pause(11)

    with pytest.raises(TimedOut):
        Timeout(10, clock=clock).call(slow)
    Timeout(12, clock=clock).call(slow)


@pytest.mark.parametrize("after", [0, -1, "soon", float("inf")])
def test_bad_durations_are_refused_with_their_value(after):
    with pytest.raises(ConfigurationError, match=f"after={after!r}"):
        Timeout(after)


def test_outside_a_task_it_says_so():
    coroutine = Timeout(1).call(forever)
    with pytest.raises(RuntimeError, match="no running event loop"):
        coroutine.send(None)


# -- background tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("shed", [False, True])
async def test_a_task_that_goes_on_afterwards_is_free_of_the_deadline(shed):
    begun, ended = asyncio.Event(), asyncio.Event()
    seen = []

    async def goes_on():
        seen.append(remaining())
        begun.set()
        await ended.wait()
        seen.append(remaining())
        return await Timeout(LONG).call(asyncio.sleep, 0, "fine")

    async with Timeout(LONG):
        with without_deadline() if shed else contextlib.nullcontext():
            task = asyncio.create_task(goes_on())
            await begun.wait()
        assert remaining() is not None
    ended.set()
    async with asyncio.timeout(LONG):
        assert await task == "fine"
    assert (seen[0] is None) is shed
    assert seen[1] is None


async def test_a_task_of_a_call_that_took_too_long_sees_that():
    tasks = []

    async def outlived():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return remaining()

    async def begins_one():
        tasks.append(asyncio.create_task(outlived()))
        await forever()

    with pytest.raises(TimedOut):
        await Timeout(0.01).call(begins_one)
    tasks[0].cancel()
    assert await tasks[0] <= 0


async def test_shed_in_one_context_and_left_in_another():
    def generator():
        with without_deadline():
            yield

    async with Timeout(LONG):
        one = generator()
        next(one)
        assert remaining() is None
        contextvars.copy_context().run(one.close)
        with without_deadline():
            assert remaining() is None


def test_around_def_a_thread_that_nobody_waits_for_sees_that_its_time_is_up():
    go_on, seen = threading.Event(), []

    def hang():
        go_on.wait(LONG)
        seen.append(remaining())

    policy = Timeout(0.02)
    with pytest.raises(TimedOut):
        policy.call(hang)
    go_on.set()
    until = time.monotonic() + LONG
    while not seen and time.monotonic() < until:
        time.sleep(0.001)
    assert seen[0] <= 0
    assert remaining() is None


# -- many lengths ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["call", "block"])
async def test_timers_of_many_lengths_are_given_up_when_their_calls_end(way):
    loop = asyncio.get_running_loop()
    live = [Timeout(LONG + n / 1000) for n in range(300)]
    async with contextlib.AsyncExitStack() as stack:
        for timeout in live:
            await stack.enter_async_context(timeout)
        before = len(loop._scheduled)
        assert before >= 300
        for n in range(3000):
            timeout = Timeout(LONG + n / 7)
            if way == "call":
                await timeout.call(asyncio.sleep, 0)
            else:
                async with timeout:
                    await asyncio.sleep(0)
        # The loop throws out the ones given up as soon as they are more than half.
        assert len(loop._scheduled) <= 2 * before + 100
    assert not [
        timer for timer in loop._scheduled if not timer.cancelled() and timer.when() < LONG / 2
    ]


async def test_one_that_is_used_again_has_one_timer_for_all_its_calls():
    loop, timeout = asyncio.get_running_loop(), Timeout(LONG)
    for _ in range(3):
        await timeout.call(asyncio.sleep, 0)
    before = len(loop._scheduled)
    await asyncio.gather(*(timeout.call(asyncio.sleep, 0) for _ in range(100)))
    assert len(loop._scheduled) == before
    assert not timeout._last_queue[1].scopes


async def test_one_that_a_deadline_around_makes_shorter_ends_before_longer_ones():
    timeout = Timeout(LONG)
    await timeout.call(asyncio.sleep, 0)  # from the second use on they share a timer
    longer = asyncio.create_task(timeout.call(forever))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        with within(0.05), pytest.raises(TimedOut, match="the deadline around it came first"):
            await timeout.call(forever)
    longer.cancel()
