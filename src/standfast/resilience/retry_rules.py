"""What the runner of a retry needs to know of its policy, and what it counts there."""

from __future__ import annotations

from typing import Any, Protocol

from standfast.clock import Clock
from standfast.resilience.budget import RetryBudget


class Counts:
    """What a policy has counted, for telemetry."""

    __slots__ = ("exhausted", "failed", "retries", "succeeded", "watched")

    def __init__(self) -> None:
        self.succeeded: int = 0
        self.failed: int = 0
        self.retries: int = 0
        self.exhausted: int = 0
        self.watched: bool = False


class RetryRules(Protocol):
    """A `Retry`, as its runner sees it."""

    @property
    def attempts(self) -> int | None:
        """How many calls there may be, None for any number."""
        ...

    @property
    def total(self) -> Any:
        """Seconds from the first attempt to the start of the last, None for any time."""
        ...

    @property
    def backoff(self) -> Any:
        """How long to wait between calls."""
        ...

    @property
    def on_result(self) -> Any:
        """Which results are tried again."""
        ...

    @property
    def max_retry_after(self) -> Any:
        """The longest wait, in seconds, that the other side may ask for."""
        ...

    @property
    def budget(self) -> RetryBudget | None:
        """What retries may be taken from, together with others."""
        ...

    @property
    def name(self) -> str:
        """The policy's name."""
        ...

    @property
    def clock(self) -> Clock:
        """The time."""
        ...

    @property
    def counts(self) -> Counts:
        """What was counted."""
        ...

    def is_retriable(self, error: BaseException) -> bool:
        """Whether `error` may be tried again at all."""
        ...

    def waits_out(self, error: BaseException) -> bool:
        """Whether a rejection in `error` is waited for, rather than the end."""
        ...

    def next_delay(
        self, attempt: int, elapsed: float, previous: float, random: float
    ) -> float | None:
        """Seconds until the next attempt, or None to give up."""
        ...

    def _who_decides(self) -> str:
        """What is in the place of `Retry.next_delay`, "" if nothing is."""
        ...

    def _why_none(self, attempt: int) -> str:
        """Why `next_delay` has given up after this attempt."""
        ...
