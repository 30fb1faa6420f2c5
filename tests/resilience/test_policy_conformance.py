"""Every policy against what holds for all of them. A new one is one line."""

from functools import partial

from standfast.conformance import PolicySuite
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    LastGood,
    Pipeline,
    RateLimiter,
    Retry,
    ThreadPoolBulkhead,
    Timeout,
)
from standfast.resilience.backoff import Constant

AT_ONCE = Constant(0)


class TestRetry(PolicySuite):
    make, repeats = partial(Retry, backoff=AT_ONCE), True


class TestTimeout(PolicySuite):
    make = partial(Timeout, 60)


class TestFallback(PolicySuite):
    make, replaces = partial(Fallback, "substitute"), True


class TestFallbackWithLastGood(PolicySuite):
    make = staticmethod(lambda: Fallback(last_good=LastGood("1h", key=lambda *_, **__: 0)))
    replaces = keeps = True


class TestHedge(PolicySuite):
    make = partial(Hedge, 50)


class TestPipeline(PolicySuite):
    make = staticmethod(lambda: Pipeline(Timeout(60), Hedge(50), Timeout(55), name="all"))


class TestPipelineWithRetry(PolicySuite):
    make, repeats = staticmethod(lambda: Pipeline(Timeout(60), Retry(3, AT_ONCE))), True


class TestCircuitBreaker(PolicySuite):
    make = CircuitBreaker


class TestBulkhead(PolicySuite):
    make = partial(Bulkhead, 60)


class TestAdaptiveBulkhead(PolicySuite):
    make = partial(AdaptiveBulkhead, 60)


class TestThreadPoolBulkhead(PolicySuite):
    make, takes_async = partial(ThreadPoolBulkhead, 60), False


class TestPipelineOfFour(PolicySuite):
    make = staticmethod(
        lambda: Pipeline(Timeout(60), Retry(3, AT_ONCE), CircuitBreaker(), Bulkhead(60))
    )
    repeats = True


class TestRateLimiter(PolicySuite):
    make = partial(RateLimiter, 10000)
