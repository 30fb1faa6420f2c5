"""Bulkheads: at most so many calls at once, so that one slow dependency can't take all."""

from standfast.resilience.bulkhead.adaptive import AdaptiveBulkhead
from standfast.resilience.bulkhead.semaphore import Bulkhead
from standfast.resilience.bulkhead.threads import ThreadPoolBulkhead

__all__ = ["AdaptiveBulkhead", "Bulkhead", "ThreadPoolBulkhead"]
