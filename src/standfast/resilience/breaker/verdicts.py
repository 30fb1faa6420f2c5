"""What a call counts as for a circuit breaker, and how long it asks to be left alone."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from standfast.errors import ConfigurationError, TimedOut
from standfast.groups import leaves
from standfast.resilience.backoff import Backoff, Constant, Decorrelated, Exponential
from standfast.resilience.breaker.options import Verdict
from standfast.resilience.deadline import current
from standfast.resilience.functions import delay, exceptions, plain
from standfast.resilience.retry_after import retry_after as asked_wait

Errors: TypeAlias = tuple[type[BaseException], ...]

_WORST_FIRST: tuple[Verdict, ...] = ("failure", "success", "ignored")

logger = logging.getLogger(__name__)


class Judge:
    """The filters and hooks of one breaker, checked. What users' functions do wrong ends here."""

    __slots__ = (
        "_failure_on",
        "_ignore_on",
        "_judge_result",
        "_now",
        "_on_cancellation",
        "_retry_after",
        "_success_on",
        "counts_failures",
        "judges_results",
    )

    def __init__(
        self,
        *,
        failure_on: Errors,
        success_on: Errors,
        ignore_on: Errors,
        judge_result: Callable[[Any], Verdict] | None,
        on_cancellation: Verdict,
        retry_after: Callable[[Any], float | None] | None,
        now: Callable[[], float],
    ) -> None:
        self._failure_on = exceptions(failure_on, name="failure_on")
        self._success_on = exceptions(success_on, name="success_on")
        self._ignore_on = exceptions(ignore_on, name="ignore_on")
        if judge_result is not None:
            plain(
                judge_result,
                name="judge_result",
                wanted='a function of the result that says "success", "failure" or "ignored"',
            )
        if retry_after is not None:
            plain(
                retry_after,
                name="retry_after",
                wanted="a function of an exception or result that says how many seconds to wait",
            )
        if on_cancellation not in _WORST_FIRST:
            raise ConfigurationError(
                f'on_cancellation={on_cancellation!r}: choose "success", "failure" or "ignored"'
            )
        self.counts_failures: bool = (
            judge_result is not None
            or on_cancellation == "failure"
            or not all(issubclass(one, (*ignore_on, *success_on)) for one in failure_on)
        )
        """Whether there can be a failure at all."""
        self._judge_result = judge_result
        self.judges_results: bool = judge_result is not None
        self._on_cancellation: Verdict = on_cancellation
        self._retry_after = retry_after
        self._now = now

    def of_result(self, result: Any) -> Verdict:
        """What a result counts as. Raises what `judge_result` does, or `ConfigurationError`."""
        if self._judge_result is None:
            return "success"
        verdict = self._judge_result(result)
        if verdict not in _WORST_FIRST:
            raise ConfigurationError(
                f"judge_result={self._judge_result!r} answered {verdict!r}: it must answer "
                '"success", "failure" or "ignored"'
            )
        return verdict

    def of_error(self, error: BaseException) -> Verdict:
        """What an exception counts as; a group, as the worst that is in it."""
        return min(map(self._of_one, leaves(error)), key=_WORST_FIRST.index)

    def _of_one(self, error: BaseException) -> Verdict:
        if isinstance(error, self._ignore_on):
            return "ignored"
        if isinstance(error, self._success_on):
            return "success"
        if isinstance(error, Exception) and not isinstance(error, asyncio.CancelledError):
            return "failure" if isinstance(error, self._failure_on) else "success"
        deadline = current() if isinstance(error, asyncio.CancelledError) else None
        if deadline is not None and deadline.expired and deadline.telling:
            # The `Timeout` around gave it the time that it was meant to have, and it hung.
            return self._of_one(TimedOut())
        return self._on_cancellation

    def wait(self, outcome: Any) -> float | None:
        """Seconds that a failure asks to be left alone, or None if it doesn't say."""
        if self._retry_after is None:
            return asked_wait(outcome, self._now())
        try:
            asked = self._retry_after(outcome)
            if isinstance(asked, (int, float)) and asked > sys.float_info.max:
                return math.inf  # the breaker has a longest wait of its own
            return None if asked is None else delay(asked)
        except Exception:  # the call's own error is what its caller must see
            logger.exception(
                "retry_after=%r failed, so the breaker waits as usual", self._retry_after
            )
            return None


class CheckedWait:
    """A user's `Backoff` for a breaker, which must open whatever that does."""

    def __init__(self, backoff: Backoff, instead: float = 30.0) -> None:
        self._backoff = backoff
        self._instead = instead

    def delay(self, attempt: int, previous: float, random: float) -> float:
        """Seconds to wait, as the backoff says, or 30 if it fails."""
        try:
            return delay(self._backoff.delay(attempt, previous, random))
        except Exception:  # in the midst of an opening, which must not be left undone
            logger.exception("wait=%r failed: %g s are taken", self._backoff, self._instead)
            return self._instead


def checked_wait(backoff: Backoff) -> Backoff:
    """`backoff`, made safe unless it is one of our own. Raises `ConfigurationError`."""
    plain(backoff.delay, name="wait.delay", wanted="a function that gives seconds")
    ours = type(backoff) in (Constant, Exponential, Decorrelated)
    return backoff if ours else CheckedWait(backoff)
