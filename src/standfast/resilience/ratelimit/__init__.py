"""Rate limits: at most so many calls in so much time, here or for many processes together."""

from standfast.rates import Decision, Rate
from standfast.resilience.ratelimit.database import DatabaseRateLimits
from standfast.resilience.ratelimit.leasing import LeasedRateLimits
from standfast.resilience.ratelimit.limiter import RateLimiter
from standfast.resilience.ratelimit.memory import MemoryRateLimits

__all__ = [
    "DatabaseRateLimits",
    "Decision",
    "LeasedRateLimits",
    "MemoryRateLimits",
    "Rate",
    "RateLimiter",
]
