"""A rate limit as a value, and what a limiter answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError

Algorithm: TypeAlias = Literal["gcra", "sliding_window"]

# Stores on servers keep microseconds,
_FASTEST = 1_000_000
# and count in floats.
_MOST = 2**53


class Decision(NamedTuple):
    """What every check of a rate limit answers. As a condition it is `allowed`.

    `remaining`: how many checks of cost 1 would be allowed right now. `retry_after`: seconds until
    the same check would be allowed if nobody else took anything, 0 when it was allowed.
    `reset_after`: seconds until the whole capacity is back, if nobody takes anything. `counted` is
    False where the store was away and the limiter's `on_store_failure` answered: how many remain,
    and until when, isn't known then.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float
    counted: bool = True

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` units in `per` (seconds or text).

    With ``"gcra"`` (a token bucket, kept as one number) up to `burst` units may go at once, `limit`
    by default; in any stretch of time t at most ``burst + limit * t / per`` are allowed. With
    ``"sliding_window"`` the units of the window before are assumed to have been spread evenly: at
    most `limit` in one window of the clock, and less than twice that in any stretch of `per`.
    """

    limit: int
    per: Duration = 1.0
    burst: int | None = None
    algorithm: Algorithm = "gcra"
    window: float = field(default=0.0, init=False)
    """`per` in seconds. Computed."""
    interval: float = field(default=0.0, init=False)
    """Seconds in which one unit comes back. Computed."""
    capacity: int = field(default=0, init=False)
    """The most units that can ever be taken at once. Computed."""
    refill: float = field(default=0.0, init=False)
    """Seconds in which the whole capacity comes back. Computed."""

    def __post_init__(self) -> None:
        per = seconds(self.per, name="per")
        for name in ("limit", "burst"):
            value = getattr(self, name)
            if value is None and name == "burst":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name}={value!r}: must be a whole number, 1 or more")
            if value > _MOST:
                raise ConfigurationError(f"{name}={value:.3g}: can't be counted; at most {_MOST:,}")
        if self.algorithm not in ("gcra", "sliding_window"):
            raise ConfigurationError(
                f'algorithm={self.algorithm!r}: choose "gcra" or "sliding_window"'
            )
        if self.algorithm == "sliding_window" and self.burst is not None:
            raise ConfigurationError(
                f"burst={self.burst!r}: a sliding window has no burst; leave it out or choose "
                'algorithm="gcra"'
            )
        if self.limit / per > _FASTEST:
            raise ConfigurationError(
                f"limit={self.limit!r} per {self.per!r}: more than {_FASTEST:,} a second can't be "
                "told apart by the clock; give a smaller limit"
            )
        object.__setattr__(self, "window", per)
        object.__setattr__(self, "interval", per / self.limit)
        capacity = self.limit if self.burst is None else self.burst
        object.__setattr__(self, "capacity", capacity)
        object.__setattr__(self, "refill", capacity * per / self.limit)
