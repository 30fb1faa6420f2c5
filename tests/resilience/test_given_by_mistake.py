"""What is given to a policy by mistake is refused when it is built, with what was meant."""

import pytest

from standfast.backends.redis import RedisCircuitControl, RedisRateLimits
from standfast.errors import ConfigurationError
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    CircuitRegistry,
    Fallback,
    Hedge,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    ThreadPoolBulkhead,
    Timeout,
)
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
