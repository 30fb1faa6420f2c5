"""Pipeline: order, shape and outcomes."""

import asyncio
import inspect

import pytest

from standfast.errors import BulkheadFull, CircuitOpen, ConfigurationError, TimedOut
from standfast.resilience.backoff import Constant, Exponential
from standfast.resilience.bulkhead import Bulkhead
from standfast.resilience.fallback import Fallback
from standfast.resilience.hedge import Hedge
from standfast.resilience.order import REFUSED
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.policy import Policy
from standfast.resilience.retry import Retry
from standfast.resilience.timeout import Timeout
from standfast.testing import FaultyFunction, ManualClock


class Tells(Policy):
    """Writes down when it is entered and left."""

    def __init__(self, told, name, label="tells"):
        self.told, self.name = told, name
        self.label = label

    def around(self, call):
        def wrapper(*args, **kwargs):
            self.told.append(f"+{self.name}")
            try:
                return call(*args, **kwargs)
            finally:
                self.told.append(f"-{self.name}")

        return wrapper

    def around_async(self, call):
        async def wrapper(*args, **kwargs):
            self.told.append(f"+{self.name}")
            try:
                return await call(*args, **kwargs)
            finally:
                self.told.append(f"-{self.name}")

        return wrapper


async def test_the_first_is_the_outermost():
    told = []
    pipeline = Pipeline(Tells(told, "a"), Pipeline(Tells(told, "b"), Tells(told, "c")))
    assert pipeline.call(lambda: "fine") == "fine"
    assert told == ["+a", "+b", "+c", "-c", "-b", "-a"]
    told.clear()
    assert await pipeline.call(FaultyFunction().awaited) == "fine"
    assert told == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_retry_and_timeout_together():
    clock = ManualClock(auto=True)
    function = FaultyFunction([KeyError, KeyError], then=1)
    pipeline = Pipeline(Timeout("2s"), Retry(4, Constant(0.1), clock=clock), name="payments")
    decorated = pipeline(function.awaited)
    assert inspect.iscoroutinefunction(decorated)
    assert await decorated() == 1
    assert len(function.calls) == 3


@pytest.mark.parametrize(("outer", "inner"), REFUSED)
def test_wrong_orders_are_refused_with_the_reason(outer, inner):
    policies = [Tells([], "one", outer), Tells([], "two", inner)]
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(*policies)
    assert REFUSED[outer, inner] in str(caught.value)
    with pytest.raises(ConfigurationError):
        Pipeline(policies[0], Timeout(1), Pipeline(policies[1]))


def test_a_longer_timeout_inside_a_shorter_one_is_refused():
    with pytest.raises(ConfigurationError, match="inner timeout of 5s can't come before"):
        Pipeline(Timeout(2), Retry(), Timeout(5))
    Pipeline(Timeout(5), Retry(), Timeout(2))


def test_a_hedge_of_what_is_not_idempotent_is_refused():
    hedge = Tells([], "hedge", "hedge")
    with pytest.raises(ConfigurationError, match="idempotent=False"):
        Pipeline(Retry(idempotent=False), hedge)
    Pipeline(Retry(), hedge)


def test_the_same_policy_twice_is_refused():
    twice = Tells([], "one")
    with pytest.raises(ConfigurationError, match="same policy twice"):
        Pipeline(twice, Timeout(1), twice)


def test_nothing_and_what_is_no_policy_are_refused():
    with pytest.raises(ConfigurationError, match="without policies"):
        Pipeline()
    with pytest.raises(ConfigurationError, match="is no policy"):
        Pipeline(Retry)  # the class, not an instance


async def test_it_counts_outcomes():
    pipeline = Pipeline(Timeout(0.05), name="payments")
    script = [1, KeyError, CircuitOpen, TimedOut]
    function = FaultyFunction(script)
    for _ in script:
        await asyncio.gather(pipeline.call(function.awaited), return_exceptions=True)
    task = asyncio.create_task(pipeline.call(asyncio.sleep, 60))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    counted = {attributes["outcome"]: value for _, value, attributes in pipeline.measures()}
    assert counted == dict.fromkeys(("success", "failure", "rejected", "timeout", "cancelled"), 1)


def test_it_is_a_value():
    pipeline = Pipeline(Timeout(1), Retry(), name="payments")
    assert pipeline.name == "payments"
    assert len(pipeline.policies) == 2
    with pytest.raises(AttributeError):
        pipeline.name = "other"
    assert repr(pipeline) == "Pipeline(Timeout('1s'), Retry(), name='payments')"


class Block(Policy):
    """Stands around blocks."""

    label = "block"

    def __init__(self, told, name):
        self.told, self.name = told, name

    def __enter__(self):
        if self.name == "full":
            raise CircuitOpen("full")
        self.told.append(f"+{self.name}")

    def __exit__(self, *error):
        self.told.append(f"-{self.name}")

    async def __aenter__(self):
        self.__enter__()

    async def __aexit__(self, *error):
        self.__exit__(*error)


async def test_around_blocks():
    told = []
    pipeline = Pipeline(Block(told, "a"), Pipeline(Block(told, "b")))
    with pipeline, pipeline:
        told.append("in")
    assert told == ["+a", "+b", "+a", "+b", "in", "-b", "-a", "-b", "-a"]
    told.clear()
    with pytest.raises(KeyError):
        async with pipeline:
            raise KeyError
    assert told == ["+a", "+b", "-b", "-a"]
    assert len(pipeline._blocks) == 0
    counted = {attributes["outcome"]: value for _, value, attributes in pipeline.measures()}
    assert (counted["success"], counted["failure"]) == (2, 1)


async def test_a_block_that_is_refused_leaves_what_it_entered():
    told = []
    pipeline = Pipeline(Block(told, "a"), Block(told, "full"))
    with pytest.raises(CircuitOpen):
        async with pipeline:
            told.append("in")
    with pytest.raises(CircuitOpen), pipeline:
        told.append("in")
    assert told == ["+a", "-a"] * 2
    assert len(pipeline._blocks) == 0


async def test_a_timeout_around_a_block_of_a_pipeline():
    pipeline = Pipeline(Block([], "a"), Timeout(0.01))
    with pytest.raises(TimedOut):
        async with pipeline:
            await asyncio.Event().wait()
    assert asyncio.current_task().cancelling() == 0
    counted = {attributes["outcome"]: value for _, value, attributes in pipeline.measures()}
    assert counted["timeout"] == 1


async def test_what_cannot_stand_around_a_block_is_told():
    for policy in (Retry(), Fallback(None), Hedge(1)):
        refused = (
            rf"^a {type(policy).__name__} can't stand around a block \(`async with`\).* use call"
        )
        for around in (policy, Pipeline(policy)):
            with pytest.raises(ConfigurationError, match=refused):
                async with around:
                    pytest.fail("it was entered")
            with pytest.raises(ConfigurationError, match=refused.replace("async ", "")), around:
                pytest.fail("it was entered")
    for around in (Timeout(1), Pipeline(Timeout(1))):
        refused = pytest.raises(ConfigurationError, match=r"^a Timeout .* write `async with`")
        with refused, around:
            pytest.fail("it was entered")


async def test_a_retry_around_a_block_is_told_its_loop():
    with pytest.raises(ConfigurationError, match="`async for attempt in retry: with attempt:`"):
        async with Retry():
            pytest.fail("it was entered")


def test_a_policy_shows_what_was_given():
    shown = {
        "Retry()": Retry(),
        "Retry(attempts=5, on=(OSError,), name='stock')": Retry(5, on=(OSError,), name="stock"),
        "Retry(backoff=Exponential(initial=1.0))": Retry(backoff=Exponential("1s")),
        "Retry(backoff=Constant(every=2.0))": Retry(backoff=Constant(2)),
        "Timeout('2s')": Timeout(2),
        "Fallback()": Fallback(None),  # its value is anybody's data
        "Fallback(name='rates')": Fallback("cached", name="rates"),
        "Pipeline(Timeout('2s'), Retry())": Pipeline(Timeout(2), Retry()),
    }
    assert [repr(policy) for policy in shown.values()] == list(shown)


def test_the_point_comes_before_the_policies():
    with pytest.raises(ConfigurationError) as refused:
        Pipeline(Retry(name="outer"), Timeout(1), Retry())
    assert str(refused.value) == (
        "Retry inside Retry: their attempts multiply (3 and 3 make 9 calls). Keep one, with the "
        "attempts you want (it is Retry() inside Retry(name='outer'))"
    )


@pytest.mark.parametrize("form", ["with", "async with", "call"])
async def test_what_is_refused_at_the_entry_is_counted_in_every_form(form):
    pipeline = Pipeline(Bulkhead(1), name=f"counted {form}")

    async def nothing() -> None: ...

    async with pipeline:
        with pytest.raises(BulkheadFull):
            if form == "with":
                with pipeline:
                    pytest.fail("entered")
            elif form == "async with":
                async with pipeline:
                    pytest.fail("entered")
            else:
                await pipeline.call(nothing)
        counted = {attributes["outcome"]: value for _, value, attributes in pipeline.measures()}
        assert counted["rejected"] == 1
