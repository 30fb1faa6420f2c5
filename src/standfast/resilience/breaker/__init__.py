"""Circuit breaker: stop calling what is failing, and find out gently when it works again."""

from standfast.resilience.breaker.breaker import (
    CircuitBreaker,
    CircuitRegistry,
    Listener,
    circuits,
)
from standfast.resilience.breaker.machine import Change, State
from standfast.resilience.breaker.options import Verdict
from standfast.resilience.breaker.permit import Permit

__all__ = [
    "Change",
    "CircuitBreaker",
    "CircuitRegistry",
    "Listener",
    "Permit",
    "State",
    "Verdict",
    "circuits",
]
