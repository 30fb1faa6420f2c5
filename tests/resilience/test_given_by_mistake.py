"""What is given to a policy by mistake is refused when it is built, with what was meant."""

from asyncio import CancelledError

import pytest

from standfast.backends.redis import RedisCircuitControl, RedisRateLimits
from standfast.errors import ConfigurationError, Refused
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    CircuitRegistry,
    Fallback,
    Hedge,
    LeasedRateLimits,
    MemoryRateLimits,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    ThreadPoolBulkhead,
    Timeout,
)
from standfast.resilience.backoff import Decorrelated, Exponential
from standfast.resilience.breaker.control import OperatorControl

POLICIES = (
    *(AdaptiveBulkhead, Bulkhead, CircuitBreaker, Fallback, Hedge),
    *(Pipeline, RateLimiter, Retry, ThreadPoolBulkhead, Timeout),
)
NAMED = {
    "timeout": lambda name: Timeout(1, name=name),
    "retry": lambda name: Retry(name=name),
    "bulkhead": lambda name: Bulkhead(3, name=name),
    "adaptive": lambda name: AdaptiveBulkhead(name=name),
    "threads": lambda name: ThreadPoolBulkhead(3, name=name),
    "limiter": lambda name: RateLimiter(3, name=name),
    "fallback": lambda name: Fallback(1, name=name),
    "hedge": lambda name: Hedge(1, name=name),
    "pipeline": lambda name: Pipeline(Retry(), name=name),
    "budget": lambda name: RetryBudget(name=name),
    "breaker": lambda name: CircuitBreaker(name),
    "registry": lambda name: CircuitRegistry().named(name),
    "adding": lambda name: CircuitRegistry().add(CircuitBreaker(), name),
    "limits": lambda name: RedisRateLimits("redis://h", prefix=name),
    "orders": lambda name: RedisCircuitControl("redis://h", prefix=name),
}


@pytest.mark.parametrize("build", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("name", [5, None, b"payments", str])
def test_a_name_that_is_no_text(build, name):
    with pytest.raises(ConfigurationError, match=r"(name|prefix)=.*: must be a text"):
        build(name)


def test_a_number_of_failures_as_the_name_of_a_breaker():
    with pytest.raises(ConfigurationError, match=r"name=5.* is failure_count or consecutive_fail"):
        CircuitBreaker(5)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_class_that_decorates_without_brackets(policy):
    with pytest.raises(ConfigurationError, match=rf"write @{policy.__name__}\(…\)"):

        @policy
        def plain():
            pass

    with pytest.raises(ConfigurationError, match=rf"write @{policy.__name__}\(…\)"):

        @policy
        async def awaited():
            pass


def test_a_function_as_the_value_of_a_fallback():
    with pytest.raises(ConfigurationError, match="To call it write function=…"):
        Fallback(lambda error: 0)


async def test_an_order_for_what_is_no_name():
    with pytest.raises(ConfigurationError, match="control='redis://h': give RedisCircuitControl"):
        OperatorControl("redis://h")
    control = RedisCircuitControl("redis://127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=r"registry=.*: give a CircuitRegistry"):
        OperatorControl(control, registry=CircuitBreaker())
    operator = OperatorControl(control)
    for order in (operator.open, operator.close, operator.auto):
        with pytest.raises(ConfigurationError, match=r"name=.*: must be a text"):
            await order(CircuitBreaker("payments"))
    await control.close()


class Final(Refused):
    pass


MEETING = {
    "a maximum below the first delay": (lambda: Exponential("1m"), "initial=60.0, maximum=30.0"),
    "the same of the other": (lambda: Decorrelated(2, maximum=1), "initial=2.0, maximum=1.0"),
    "a text for a flag": (lambda: Retry(idempotent="no"), "idempotent='no': must be True or False"),
    "no exceptions": (lambda: Retry(on=()), "nothing would be tried again"),
    "all excepted": (lambda: Retry(never_on=(Exception,)), "nothing would be tried again"),
    "a refusal": (lambda: Retry(on=(OSError, Final)), "Final is a Refused, a final answer"),
    "a cancellation": (lambda: Retry(on=(CancelledError,)), "CancelledError is no Exception"),
    "max_wait without a queue": (lambda: Bulkhead(1, queue=0, max_wait=1), "nobody could wait"),
    "the same adaptively": (lambda: AdaptiveBulkhead(queue=0, max_wait=1), "nobody could wait"),
    "max_wait without waiters": (
        lambda: RateLimiter(1, max_wait=1, max_waiters=0),
        "max_waiters=0, max_wait=1: nobody could wait",
    ),
    "a breaker that ignores all": (
        lambda: CircuitBreaker(ignore_on=(Exception,)),
        "so that nothing could open it",
    ),
    "a breaker for which all is a success": (
        lambda: CircuitBreaker(failure_on=(OSError,), success_on=(OSError,)),
        "so that nothing could open it",
    ),
    "no registry": (lambda: CircuitBreaker(registry={}), "registry={}: give a CircuitRegistry"),
    "one listener": (lambda: CircuitBreaker(listeners=print), "give a list of functions"),
    "a URL as a store": (lambda: shared("redis://h"), "store='redis://h': give RedisRateLimits"),
    "a class as a store": (lambda: shared(MemoryRateLimits), "store=.*: give RedisRateLimits"),
    "a limiter as a store": (lambda: shared(RateLimiter(1)), "it is no store but a policy"),
    "a lease of no store": (lambda: LeasedRateLimits("redis://h"), "store='redis://h': give"),
    "tokens as text": (
        lambda: LeasedRateLimits(MemoryRateLimits(), tokens="5"),
        "tokens='5': must be a whole number",
    ),
    "keys as text": (lambda: MemoryRateLimits(max_keys="5"), "max_keys='5': must be a whole"),
    "a hedge after its timeout": (
        lambda: Pipeline(Timeout(1), Hedge(1)),
        "the second call after 1s can't come before the timeout of 1s",
    ),
}


def shared(store):
    return RateLimiter(1, store=store, name="x", on_store_failure="deny")


@pytest.mark.parametrize(("build", "message"), MEETING.values(), ids=MEETING)
def test_options_that_make_no_sense_together(build, message):
    with pytest.raises(ConfigurationError, match=message):
        build()


def test_options_that_do():
    Exponential("1m", maximum="1m")
    Retry(on=(), on_result=lambda result: not result)
    Retry(on=(BaseException,))
    Retry(on=(BaseExceptionGroup, ExceptionGroup))
    CircuitBreaker(ignore_on=(Exception,), on_cancellation="failure")
    CircuitBreaker(ignore_on=(Exception,), slow_call_rate=0.5, slow_call_duration=1)
    CircuitBreaker(failure_on=(OSError, ValueError), success_on=(OSError,))
    Pipeline(Timeout(1), Hedge(1, percentile=0.9))
    RateLimiter(1, max_waiters=0)
    Bulkhead(1, queue=0, max_wait=0)


async def test_a_coroutine_instead_of_its_function():
    async def work():
        pass

    coroutine = work()
    with pytest.raises(ConfigurationError, match="was called already"):
        await Retry().call_async(coroutine)
    coroutine.close()
