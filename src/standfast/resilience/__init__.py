"""Resilience policies that stand alone: no app, no database, no broker needed."""

from standfast.resilience.backoff import Backoff, Constant, Decorrelated, Exponential
from standfast.resilience.budget import RetryBudget, do_not_retry
from standfast.resilience.deadline import remaining, within
from standfast.resilience.degraded import Degraded, collect_degraded
from standfast.resilience.fallback import Fallback
from standfast.resilience.hedge import Hedge
from standfast.resilience.last_good import LastGood
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.policy import Policy
from standfast.resilience.retry import Retry
from standfast.resilience.timeout import Timeout

__all__ = [
    "Backoff",
    "Constant",
    "Decorrelated",
    "Degraded",
    "Exponential",
    "Fallback",
    "Hedge",
    "LastGood",
    "Pipeline",
    "Policy",
    "Retry",
    "RetryBudget",
    "Timeout",
    "collect_degraded",
    "do_not_retry",
    "remaining",
    "within",
]
