"""For your own tests: time that you move, and functions that fail as you say."""

from standfast.testing.faulty import FaultyFunction
from standfast.testing.manual_clock import ManualClock

__all__ = ["FaultyFunction", "ManualClock"]
