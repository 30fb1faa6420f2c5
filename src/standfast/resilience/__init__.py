"""Resilience policies that stand alone: no app, no database, no broker needed.

Names are loaded when they are first used, so that who needs a `Retry` doesn't load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from standfast.resilience.backoff import Backoff, Constant, Decorrelated, Exponential
    from standfast.resilience.breaker import CircuitBreaker, CircuitRegistry, circuits
    from standfast.resilience.breaker.control import OperatorControl
    from standfast.resilience.budget import RetryBudget, do_not_retry
    from standfast.resilience.bulkhead import AdaptiveBulkhead, Bulkhead, ThreadPoolBulkhead
    from standfast.resilience.deadline import remaining, within
    from standfast.resilience.degraded import Degraded, collect_degraded
    from standfast.resilience.fallback import Fallback
    from standfast.resilience.hedge import Hedge
    from standfast.resilience.last_good import LastGood
    from standfast.resilience.pipeline import Pipeline
    from standfast.resilience.policy import Policy
    from standfast.resilience.ratelimit import (
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
    "budget": ("RetryBudget", "do_not_retry"),
    "bulkhead": ("AdaptiveBulkhead", "Bulkhead", "ThreadPoolBulkhead"),
    "deadline": ("remaining", "within"),
    "degraded": ("Degraded", "collect_degraded"),
    "fallback": ("Fallback",),
    "hedge": ("Hedge",),
    "last_good": ("LastGood",),
    "pipeline": ("Pipeline",),
    "policy": ("Policy",),
    "ratelimit": ("Decision", "LeasedRateLimits", "MemoryRateLimits", "Rate", "RateLimiter"),
    "retry": ("Retry",),
    "timeout": ("Timeout",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdaptiveBulkhead",
    "Backoff",
    "Bulkhead",
    "CircuitBreaker",
    "CircuitRegistry",
    "Constant",
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
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'standfast.resilience' has no attribute {name!r}")
    value = getattr(import_module(f"standfast.resilience.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
