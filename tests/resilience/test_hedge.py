"""Hedge: a second call for a slow first one."""

import asyncio
import gc
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import ConfigurationError
from standfast.resilience import Hedge, RetryBudget, Timeout
from standfast.resilience.latencies import Latencies
from standfast.testing import ManualClock

LONG = 60.0


class Scripted:
    """Call number n waits until it is let go, then answers n or raises."""

    def __init__(self, *failing):
        self.failing = failing
        self.gates = [asyncio.Event() for _ in range(5)]
        self.calls = 0
        self.cancelled = []

    async def __call__(self):
        number = self.calls
        self.calls += 1
        try:
            await self.gates[number].wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        if number in self.failing:
            raise KeyError(number)
        return number


async def begun(policy, function, clock):
    task = asyncio.create_task(policy(function)())
    await clock.settle()
    return task


async def test_a_quick_call_is_made_once():
    clock, function = ManualClock(), Scripted()
    policy = Hedge(1, clock=clock)
    function.gates[0].set()
    assert await policy(function)() == 0
    await clock.run(5)
    assert function.calls == 1
    assert policy.launched == policy.won == 0


async def test_a_slow_call_is_made_once_more_and_the_loser_is_cancelled():
    clock, function = ManualClock(), Scripted()
    policy = Hedge("1s", clock=clock)
    task = await begun(policy, function, clock)
    await clock.run(0.9)
    assert function.calls == 1
    await clock.run(0.1)
    assert function.calls == 2
    function.gates[1].set()
    assert await task == 1
    await clock.settle()
    assert function.cancelled == [0]
    assert (policy.launched, policy.won) == (1, 1)
    assert not policy._losers


async def test_the_first_may_still_win():
    clock, function = ManualClock(), Scripted()
    policy = Hedge(1, clock=clock)
    task = await begun(policy, function, clock)
    await clock.run(1)
    function.gates[0].set()
    assert await task == 0
    await clock.settle()
    assert function.cancelled == [1]
    assert (policy.launched, policy.won) == (1, 0)


async def test_it_makes_at_most_so_many():
    clock, function = ManualClock(), Scripted()
    task = await begun(Hedge(1, most=2, clock=clock), function, clock)
    await clock.run(10)
    assert function.calls == 3
    function.gates[2].set()
    assert await task == 2


@pytest.mark.parametrize("fails", [False, True])
async def test_nobody_complains_of_a_loser_however_it_ends(fails):
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    clock, function = ManualClock(), Scripted()
    policy = Hedge(1, clock=clock)

    async def call():
        try:
            return await function()
        except asyncio.CancelledError:
            if fails:
                raise OSError("while it was cancelled") from None
            raise

    task = await begun(policy, call, clock)
    await clock.run(1)
    function.gates[1].set()
    assert await task == 1
    await clock.settle()
    assert (function.cancelled, len(policy._losers)) == ([0], 0)
    del task
    gc.collect()
    assert complaints == []


async def test_an_error_waits_for_the_other_call():
    clock, function = ManualClock(), Scripted(0)
    task = await begun(Hedge(1, clock=clock), function, clock)
    await clock.run(1)
    function.gates[0].set()
    await clock.settle()
    assert not task.done()
    function.gates[1].set()
    assert await task == 1


async def test_an_error_without_another_call_comes_out_at_once():
    clock, function = ManualClock(), Scripted(0)
    function.gates[0].set()
    with pytest.raises(KeyError):
        await Hedge(1, clock=clock)(function)()
    assert function.calls == 1


async def test_when_all_fail_the_first_error_comes_out():
    clock, function = ManualClock(), Scripted(0, 1)
    task = await begun(Hedge(1, clock=clock), function, clock)
    await clock.run(1)
    function.gates[1].set()
    await clock.settle()
    function.gates[0].set()
    with pytest.raises(KeyError) as caught:
        await task
    assert caught.value.args == (0,)


async def test_a_cancelled_caller_cancels_all():
    clock, function = ManualClock(), Scripted()
    policy = Hedge(1, clock=clock)
    task = await begun(policy, function, clock)
    await clock.run(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await clock.settle()
    assert sorted(function.cancelled) == [0, 1]
    assert not policy._losers


async def test_a_spent_budget_means_no_second_call():
    clock = ManualClock()
    budget = RetryBudget(0, per_second=0, burst=1, clock=clock)
    policy = Hedge(1, budget=budget, clock=clock)
    for launched in (1, 1):
        function = Scripted()
        task = await begun(policy, function, clock)
        await clock.run(5)
        function.gates[0].set()
        assert await task == 0
        assert policy.launched == launched
    assert budget.calls == 2


async def test_the_percentile_takes_over_from_the_delay():
    clock = ManualClock()
    policy = Hedge(10, percentile=0.5, clock=clock)
    assert policy.current_delay() == 10

    async def takes(duration):
        await clock.sleep(duration)

    for n in range(16):
        task = asyncio.create_task(policy.call(takes, 1 + n))
        await clock.run(20)
        await task
    assert policy.current_delay() == 8


@given(st.lists(st.floats(0, 100), max_size=600), st.floats(0.01, 0.99))
def test_the_percentile_is_one_of_the_last_samples(samples, fraction):
    latencies = Latencies(fraction)
    for sample in samples:
        latencies.add(sample)
    told = latencies.percentile()
    if len(samples) < 16:
        assert told is None
    else:
        seen = len(samples) - len(samples) % 16
        window = sorted(samples[max(0, seen - 256) : seen])
        assert sum(value <= told for value in window) >= fraction * len(window)
        assert sum(value < told for value in window) < fraction * len(window)


async def test_under_a_timeout_everything_is_cancelled():
    function = Scripted()
    with pytest.raises(TimeoutError):
        await Timeout(0.5)(Hedge(0.01)(function))()
    await ManualClock().settle()
    assert sorted(function.cancelled) == [0, 1]


# -- threads ---------------------------------------------------------------------------------


def test_in_threads_each_call_comes_a_delay_after_the_one_before():
    began: list[float] = []

    def slow() -> None:
        began.append(time.monotonic())
        time.sleep(0.6)

    Hedge(0.2, most=2)(slow)()
    _, second, third = began
    assert third - second >= 0.1


def test_around_def_the_second_call_answers_and_the_first_runs_on():
    gate, numbers = threading.Event(), iter(range(5))

    def call():
        number = next(numbers)
        if number == 0:
            gate.wait(LONG)
        return number

    policy = Hedge(0.01)
    assert policy.call(call) == 1
    assert (policy.launched, policy.won, policy.abandoned.count) == (1, 1, 1)
    gate.set()
    until = time.monotonic() + LONG
    while policy.abandoned.count and time.monotonic() < until:
        time.sleep(0.001)
    assert policy.abandoned.count == 0


def test_around_def_a_quick_call_is_made_once():
    policy = Hedge(LONG)
    assert policy.call(lambda a: a, 7) == 7
    with pytest.raises(ZeroDivisionError):
        policy.call(lambda: 1 / 0)
    assert policy.launched == 0
    assert policy.budget.calls == 2, "each adds its share to the budget"


def test_around_def_when_all_fail_the_first_error_comes_out():
    both, numbers = threading.Barrier(2), iter(range(5))

    def call():
        number = next(numbers)
        both.wait(LONG)
        raise KeyError(number)

    with pytest.raises(KeyError) as caught:
        Hedge(0.01).call(call)
    assert caught.value.args == (0,)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"delay": 0}, "delay=0"),
        ({"delay": 1, "percentile": 95}, "percentile=95"),
        ({"delay": 1, "most": 0}, "most=0"),
        ({"delay": 1, "budget": 0.1}, "budget=0.1"),
    ],
)
def test_bad_options_are_refused_with_their_value(options, told):
    with pytest.raises(ConfigurationError, match=told):
        Hedge(**options)
