"""Resilience policies that stand alone: no app, no database, no broker needed.

Names are loaded when they are first used, so that who needs a `Retry` doesn't load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.lazy import exports

if TYPE_CHECKING:
    from standfast.resilience.backoff import Backoff, Constant, Decorrelated, Exponential
    from standfast.resilience.breaker import CircuitBreaker, CircuitRegistry, circuits
    from standfast.resilience.breaker.control import OperatorControl
    from standfast.resilience.budget import RetryBudget
    from standfast.resilience.bulkhead import AdaptiveBulkhead, Bulkhead, ThreadPoolBulkhead
    from standfast.resilience.deadline import remaining, within, without_deadline
    from standfast.resilience.degraded import Degraded, collect_degraded
    from standfast.resilience.fallback import Fallback
    from standfast.resilience.hedge import Hedge
    from standfast.resilience.last_good import LastGood
    from standfast.resilience.marks import do_not_retry
    from standfast.resilience.pipeline import Pipeline
    from standfast.resilience.policy import Policy
    from standfast.resilience.ratelimit import (
        DatabaseRateLimits,
        Decision,
        LeasedRateLimits,
        MemoryRateLimits,
        Rate,
        RateLimiter,
    )
    from standfast.resilience.retry import Retry
    from standfast.resilience.timeout import Timeout

_HOMES = {
    "backoff": ("Backoff", "Constant", "Decorrelated", "Exponential"),
    "breaker": ("CircuitBreaker", "CircuitRegistry", "circuits"),
    "breaker.control": ("OperatorControl",),
    "budget": ("RetryBudget",),
    "bulkhead": ("AdaptiveBulkhead", "Bulkhead", "ThreadPoolBulkhead"),
    "deadline": ("remaining", "within", "without_deadline"),
    "degraded": ("Degraded", "collect_degraded"),
    "fallback": ("Fallback",),
    "hedge": ("Hedge",),
    "last_good": ("LastGood",),
    "marks": ("do_not_retry",),
    "pipeline": ("Pipeline",),
    "policy": ("Policy",),
    "ratelimit": (
        "DatabaseRateLimits",
        "Decision",
        "LeasedRateLimits",
        "MemoryRateLimits",
        "Rate",
        "RateLimiter",
    ),
    "retry": ("Retry",),
    "timeout": ("Timeout",),
}

__all__ = [
    "AdaptiveBulkhead",
    "Backoff",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitRegistry",
    "Constant",
    "DatabaseRateLimits",
    "Decision",
    "Decorrelated",
    "Degraded",
    "Exponential",
    "Fallback",
    "Hedge",
    "LastGood",
    "LeasedRateLimits",
    "MemoryRateLimits",
    "OperatorControl",
    "Pipeline",
    "Policy",
    "Rate",
    "RateLimiter",
    "Retry",
    "RetryBudget",
    "ThreadPoolBulkhead",
    "Timeout",
    "circuits",
    "collect_degraded",
    "do_not_retry",
    "remaining",
    "within",
    "without_deadline",
]

if not TYPE_CHECKING:  # to type checkers, every name would be there
    __getattr__, __dir__ = exports(__name__, _HOMES)
