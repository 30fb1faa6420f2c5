"""Fallback: substitutes, and how the caller learns of them."""

import asyncio

import pytest

from standfast.errors import ConfigurationError, Refused
from standfast.resilience import Fallback, LastGood, Pipeline, Retry, Timeout, collect_degraded
from standfast.resilience.backoff import Constant
from standfast.testing import FaultyFunction, ManualClock


@pytest.fixture(params=["def", "async def"])
def run(request):
    async def run(policy, function, *args, **kwargs):
        if request.param == "def":
            return policy(function.__call__)(*args, **kwargs)
        return await policy(function.awaited)(*args, **kwargs)

    return run


async def test_a_value_in_place_of_a_failure(run):
    with collect_degraded() as degraded:
        assert await run(Fallback([], name="stock"), FaultyFunction(then=OSError("away"))) == []
    (one,) = degraded
    assert (one.policy, one.source, one.age) == ("stock", "value", 0)
    assert isinstance(one.error, OSError)


async def test_none_is_a_value(run):
    assert await run(Fallback(None), FaultyFunction(then=OSError)) is None


async def test_a_good_answer_is_not_degraded(run):
    with collect_degraded() as degraded:
        assert await run(Fallback(0), FaultyFunction(then=7)) == 7
    assert degraded == []


async def test_a_function_gets_the_error_and_the_arguments(run):
    policy = Fallback(function=lambda error, user, *, lang: (str(error), user, lang))
    answer = await run(policy, FaultyFunction(then=OSError("away")), 7, lang="en")
    assert answer == ("away", 7, "en")
    assert policy.used["function"] == 1


async def test_a_function_may_be_async_around_async():
    async def other(error):
        await asyncio.sleep(0)
        return "other"

    assert await Fallback(function=other).call(FaultyFunction(then=OSError).awaited) == "other"
    with pytest.raises(ConfigurationError, match="plain function"):
        Fallback(function=other)(FaultyFunction().__call__)


async def test_a_function_that_fails_too_tells_both(run):
    def fails(error):
        raise KeyError("cache")

    with collect_degraded() as degraded, pytest.raises(KeyError) as caught:
        await run(Fallback(function=fails), FaultyFunction(then=OSError))
    assert isinstance(caught.value.__context__, OSError)
    assert degraded == []


async def test_the_last_good_answer_with_its_age(run):
    clock = ManualClock()
    policy = Fallback(last_good=LastGood("1m"), name="prices", clock=clock)
    function = FaultyFunction([10, 20, OSError, OSError, OSError, OSError])
    assert await run(policy, function, "apples") == 10
    clock.advance(30)
    assert await run(policy, function, "pears", unit="kg") == 20
    with collect_degraded() as degraded:
        clock.set_wall(0)  # the system clock is nobody's business
        clock.advance(10)
        assert await run(policy, function, "apples") == 10
        assert await run(policy, function, "pears", unit="kg") == 20
    assert [(one.source, one.age) for one in degraded] == [("last good", 40), ("last good", 10)]
    with pytest.raises(OSError):
        await run(policy, function, "plums")
    clock.advance(21)
    with pytest.raises(OSError):
        await run(policy, function, "apples")


async def test_the_value_when_no_last_good_answer_is_kept(run):
    policy = Fallback(0, last_good=LastGood())
    function = FaultyFunction([OSError, 5, OSError])
    assert [await run(policy, function) for _ in range(3)] == [0, 5, 5]
    assert policy.used == {"value": 1, "function": 0, "last good": 1}


async def test_the_kept_answers_are_bounded(run):
    kept = LastGood(size=10, key=lambda n: n)
    function = FaultyFunction(then=1)
    policy = Fallback(last_good=kept)
    for n in range(1000):
        await run(policy, function, n)
    assert len(kept) == 10


@pytest.mark.parametrize("error", [Refused("no"), KeyError("k"), ValueError("v")])
async def test_business_and_what_is_not_listed_comes_out(run, error):
    policy = Fallback(0, on=(LookupError, Refused), never_on=(KeyError,))
    with pytest.raises(type(error)):
        await run(policy, FaultyFunction(then=error))
    assert await run(policy, FaultyFunction(then=IndexError)) == 0


async def test_cancellation_is_not_answered_for():
    task = asyncio.create_task(Fallback(0).call(FaultyFunction(takes=60).awaited))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_collectors_hear_of_tasks_and_threads():
    policy = Fallback(0)
    with collect_degraded() as outer, collect_degraded() as inner:
        await asyncio.gather(*(policy.call(FaultyFunction(then=OSError).awaited) for _ in range(3)))
        await asyncio.to_thread(policy.call, FaultyFunction(then=OSError).__call__)
    assert len(inner) == len(outer) == 4


async def test_in_a_pipeline_it_answers_for_all_inside():
    clock = ManualClock(auto=True)
    function = FaultyFunction(then=OSError)
    pipeline = Pipeline(Fallback(0), Timeout(5), Retry(3, Constant(0.1), clock=clock))
    assert await pipeline.call(function.awaited) == 0
    assert len(function.calls) == 3


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Fallback(), "without an answer"),
        (lambda: Fallback(1, function=print), "value=1"),
        (lambda: Fallback(function=3), "function=3"),
        (lambda: Fallback(last_good=60), "last_good=60"),
        (lambda: Fallback(0, on=OSError), "on="),
        (lambda: LastGood(0), "max_age=0"),
        (lambda: LastGood(size=0), "size=0"),
        (lambda: LastGood(key="id"), "key='id'"),
    ],
)
def test_bad_options_are_refused_with_their_value(make, told):
    with pytest.raises(ConfigurationError, match=told):
        make()
