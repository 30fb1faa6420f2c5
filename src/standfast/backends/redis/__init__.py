"""What Standfast keeps in Redis (the extra `redis`)."""

from standfast.lazy import extra

with extra("redis"):
    import redis as _redis  # noqa: F401 - to say what to install if it is missing

from standfast.backends.redis.circuit_control import RedisCircuitControl
from standfast.backends.redis.rate_limit import RedisRateLimits

__all__ = ["RedisCircuitControl", "RedisRateLimits"]
