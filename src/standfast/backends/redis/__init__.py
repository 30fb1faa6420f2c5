"""What Standfast keeps in Redis (``pip install standfast[redis]``)."""

from standfast.backends.redis.circuit_control import RedisCircuitControl
from standfast.backends.redis.rate_limit import RedisRateLimits

__all__ = ["RedisCircuitControl", "RedisRateLimits"]
