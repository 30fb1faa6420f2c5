"""How long to wait before the next attempt: pure values, randomness passed in.

`attempt` counts the attempts already made (1 after the first failure), `previous` is the last delay
in seconds (0 before the first), `random` is a number in [0, 1).

Source of the jitter kinds: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.resilience.functions import differing, number

Jitter: TypeAlias = Literal["full", "equal", "none"]


@runtime_checkable
class Backoff(Protocol):
    """Anything that gives the next delay in seconds."""

    def delay(self, attempt: int, previous: float, random: float) -> float:
        """Seconds to wait after `attempt` attempts have failed."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same delay each time (seconds or text), without jitter."""

    every: Duration = 1.0

    def __repr__(self) -> str:
        return differing(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", seconds(self.every, name="every", positive=False))

    def delay(self, attempt: int, previous: float, random: float) -> float:
        """`every`, in seconds."""
        return self.every  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class Exponential:
    """``initial * factor ** (attempt - 1)``, at most `maximum`, then jittered.

    Jitter ``"full"`` draws evenly from [0, delay), ``"equal"`` from [delay / 2, delay), and
    ``"none"`` waits the delay itself.
    """

    initial: Duration = 0.1
    factor: float = 2.0
    maximum: Duration = 30.0
    jitter: Jitter = "full"

    def __repr__(self) -> str:
        return differing(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", seconds(self.initial, name="initial"))
        object.__setattr__(self, "maximum", seconds(self.maximum, name="maximum"))
        _in_order(self.initial, self.maximum)
        if not number(self.factor, name="factor") >= 1:
            raise ConfigurationError(f"factor={self.factor!r}: must be 1 or more")
        if self.jitter not in ("full", "equal", "none"):
            raise ConfigurationError(f'jitter={self.jitter!r}: choose "full", "equal" or "none"')

    def delay(self, attempt: int, previous: float, random: float) -> float:
        """The jittered delay in seconds."""
        initial: float = self.initial  # type: ignore[assignment]
        maximum: float = self.maximum  # type: ignore[assignment]
        try:
            cap = min(maximum, initial * self.factor ** (attempt - 1))
        except OverflowError:
            cap = maximum
        if self.jitter == "full":
            return cap * random
        return cap if self.jitter == "none" else cap * (0.5 + random / 2)


@dataclass(frozen=True, slots=True)
class Decorrelated:
    """Decorrelated jitter: evenly from [initial, 3 x previous delay), at most `maximum` seconds."""

    initial: Duration = 0.1
    maximum: Duration = 30.0

    def __repr__(self) -> str:
        return differing(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", seconds(self.initial, name="initial"))
        object.__setattr__(self, "maximum", seconds(self.maximum, name="maximum"))
        _in_order(self.initial, self.maximum)

    def delay(self, attempt: int, previous: float, random: float) -> float:
        """The next delay in seconds."""
        initial: float = self.initial  # type: ignore[assignment]
        maximum: float = self.maximum  # type: ignore[assignment]
        top = max(initial, previous) * 3
        return min(maximum, initial + (top - initial) * random)


def _in_order(initial: Any, maximum: Any) -> None:
    if initial > maximum:
        raise ConfigurationError(
            f"initial={initial!r}, maximum={maximum!r}: no delay would be as long as the first is "
            "to be; give a longer maximum"
        )
