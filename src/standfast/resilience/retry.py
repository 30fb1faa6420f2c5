"""Retry: which failures are tried again, how often, and after what delay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from standfast.checks import flag, text, whole
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds, time_limit
from standfast.errors import ConfigurationError, Refused, Rejected
from standfast.groups import every, leaves, some
from standfast.resilience.backoff import Backoff, Exponential
from standfast.resilience.budget import RetryBudget
from standfast.resilience.functions import differing, exceptions, plain, with_brackets
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.retry_rules import Counts

if TYPE_CHECKING:
    from standfast.resilience.retrying import Attempt


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Retry(Policy):
    """A retry policy, as an immutable value that any number of callers can share.

    `attempts` counts calls, the first included (None: no limit). `total` bounds the time from the
    first attempt to the start of the last (seconds or text). `on` are the retriable exceptions and
    `never_on` those that aren't, which wins; `Refused` and cancellation are never retried. An
    exception group is retriable if all that is in it is. A result for which `on_result` says True
    is retried like an exception.

    Every attempt gets the same arguments: a generator is used up after the first.

    A failure may say when to come back, by its attribute ``retry_after`` (seconds) or the header
    ``Retry-After`` of its ``response.headers``: the next attempt waits at least so long. If that is
    longer than `max_retry_after`, there is none.

    A `Rejected` (an open breaker, a full bulkhead, a rate limit) ends it at once, for to try again
    is just what was said no to. Name it in `on` to wait instead, ``on=(Exception, RateLimited)``:
    then it is a failure like any other, whose `retry_after` must fit.

    `budget` bounds the retries of all policies that share it. With ``idempotent=False`` only calls
    that were certainly not made are tried again: the exceptions in `unsent`, and what `on` names of
    `Rejected`.

    There is no attempt that would start after the deadline of a `Timeout` around. When attempts,
    time or budget are used up, the last error comes out as it is (or the last result), with a note
    why, and retries around this one let it pass (but not those of a saga's step). A backoff that
    fails, or gives something else than seconds, ends it too, and is logged.

    Use it as a decorator, with `call`, in a `Pipeline`, or around a block (which can't judge
    results)::

        for attempt in retry:  # or: async for
            with attempt:
                ...
    """

    label: ClassVar[str] = "retry"

    attempts: int | None = 3
    backoff: Backoff = field(default_factory=Exponential)
    total: Duration | None = None
    on: tuple[type[BaseException], ...] = (Exception,)
    never_on: tuple[type[BaseException], ...] = ()
    on_result: Callable[[Any], bool] | None = None
    max_retry_after: Duration = 60.0
    budget: RetryBudget | None = None
    idempotent: bool = True
    unsent: tuple[type[BaseException], ...] = (ConnectionRefusedError,)
    name: str = ""
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False, compare=False)
    counts: Counts = field(default_factory=Counts, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return differing(self)

    def __post_init__(self) -> None:
        with_brackets(self, self.attempts)
        text(self.name)
        if self.attempts is not None:
            whole(self.attempts, name="attempts")
        object.__setattr__(self, "total", time_limit(self.total, name="total"))
        longest = seconds(self.max_retry_after, name="max_retry_after", positive=False)
        object.__setattr__(self, "max_retry_after", longest)
        if not isinstance(self.backoff, Backoff):
            raise ConfigurationError(
                f"backoff={self.backoff!r}: give Exponential(...), Constant(...) or an object "
                "with delay(attempt, previous, random)"
            )
        plain(self.backoff.delay, name="backoff.delay", wanted="a function that gives seconds")
        flag(self.idempotent, name="idempotent")
        for option in ("on", "never_on", "unsent"):
            exceptions(getattr(self, option), name=option)
        for one in self.on:
            retriable = issubclass(one, Exception) or issubclass(Exception, one)
            if not retriable and not issubclass(one, BaseExceptionGroup):
                raise ConfigurationError(
                    f"on={self.on!r}: {one.__name__} is no Exception, and never tried again; leave "
                    "it out"
                )
            if issubclass(one, Refused):
                raise ConfigurationError(
                    f"on={self.on!r}: {one.__name__} is a Refused, a final answer, and never tried "
                    "again; leave it out"
                )
        if self.on_result is None and all(issubclass(one, self.never_on) for one in self.on):
            raise ConfigurationError(
                f"on={self.on!r}, never_on={self.never_on!r}: nothing would be tried again"
            )
        if self.on_result is not None:
            plain(
                self.on_result,
                name="on_result",
                wanted="a function of the result that says True when it should be tried again",
            )
        if self.budget is not None and not isinstance(self.budget, RetryBudget):
            raise ConfigurationError(f"budget={self.budget!r}: give a RetryBudget(...), or None")

    # -- the decision: pure ------------------------------------------------------------------

    def is_retriable(self, error: BaseException) -> bool:
        """Whether `error` may be tried again at all; a group, if all that is in it may."""
        return (
            isinstance(error, Exception)
            and every(error, self.on)
            and not some(error, (Refused, *self.never_on))
            and (self.idempotent or every(error, (Rejected, *self.unsent)))
        )

    def waits_out(self, error: BaseException) -> bool:
        """Whether every `Rejected` in `error` is of a class that `on` names, below `Rejected`."""
        named = tuple(one for one in self.on if issubclass(one, Rejected))
        return all(isinstance(one, named) for one in leaves(error) if isinstance(one, Rejected))

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

    def _who_decides(self) -> str:
        own = type(self).next_delay is Retry.next_delay
        return "" if own else f"next_delay() of {type(self).__name__}"

    def _why_none(self, attempt: int) -> str:
        if who := self._who_decides():
            return f"{who} gave none"
        if self.attempts is not None and attempt >= self.attempts:
            return f"attempts={self.attempts}"
        return f"total={self.total:g}s would pass"

    # -- the runners, which are loaded when they are first needed ----------------------------

    def around(self, call: Call) -> Call:
        """`call`, tried again as this policy says."""
        from standfast.resilience import retrying

        return retrying.around(self, call)

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call`, tried again as this policy says."""
        from standfast.resilience import retrying

        return retrying.around_async(self, call)

    def __iter__(self) -> Iterator[Attempt]:
        """Attempts of a block; waits between them by blocking the thread."""
        from standfast.resilience import retrying

        return retrying.Attempts(self)

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """Attempts of a block; waits between them in the event loop."""
        from standfast.resilience import retrying

        return retrying.AsyncAttempts(self)

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome, retries, exhaustions and what is left of the budget."""
        counts, name = self.counts, {"name": self.name}
        calls = {"policy": self.label, "name": self.name}
        yield "standfast.resilience.calls", counts.succeeded, {**calls, "outcome": "success"}
        yield "standfast.resilience.calls", counts.failed, {**calls, "outcome": "failure"}
        yield "standfast.retry.retries", counts.retries, name
        yield "standfast.retry.exhausted", counts.exhausted, name
        if self.budget is not None and self.budget.is_told_by(self):
            budget = self.budget.name or self.name
            yield "standfast.retry.budget", self.budget.left(), {"name": budget}
