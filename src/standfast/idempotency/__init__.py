"""Effects that happen once: the barrier that a saga's participant puts around its own rows."""

from standfast.idempotency.barrier import Gate, HasBranchKey, barrier
from standfast.idempotency.pattern import Barrier

__all__ = ["Barrier", "Gate", "HasBranchKey", "barrier"]
