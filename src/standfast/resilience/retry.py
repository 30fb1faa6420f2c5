"""Retry: which failures are tried again, how often, and after what delay."""

from __future__ import annotations

from dataclasses import dataclass, field

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, Refused
from standfast.resilience.backoff import Backoff, Exponential


@dataclass(frozen=True, slots=True)
class Retry:
    """A retry policy, as an immutable value that any number of callers can share.

    `attempts` counts calls, the first included (None: no limit). `total` bounds the time from the
    first attempt to the start of the last (seconds or text). `on` are the retriable exceptions and
    `never_on` those that aren't, which wins; `Refused` and cancellation are never retried.
    """

    attempts: int | None = 3
    backoff: Backoff = field(default_factory=Exponential)
    total: Duration | None = None
    on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ConfigurationError(f"attempts={self.attempts!r}: must be 1 or more, or None")
        if self.total is not None:
            object.__setattr__(self, "total", seconds(self.total, name="total"))
        if not isinstance(self.backoff, Backoff):
            raise ConfigurationError(
                f"backoff={self.backoff!r}: give Exponential(...), Constant(...) or an object "
                "with delay(attempt, previous, random)"
            )

    def is_retriable(self, error: BaseException) -> bool:
        """Whether `error` may be tried again at all."""
        return (
            isinstance(error, self.on)
            and isinstance(error, Exception)
            and not isinstance(error, (Refused, *self.never_on))
        )

    def next_delay(
        self, attempt: int, elapsed: float, previous: float, random: float
    ) -> float | None:
        """Seconds until the next attempt, or None to give up. Pure.

        `attempt` attempts have failed, `elapsed` seconds after the first began; `previous` was the
        last delay and `random` is in [0, 1).
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        delay = self.backoff.delay(attempt, previous, random)
        if self.total is not None and elapsed + delay > self.total:  # type: ignore[operator]
            return None
        return delay
