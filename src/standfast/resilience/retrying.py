"""The runner of `Retry`: makes the calls, waits between them, and knows when to stop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

from standfast.errors import ConfigurationError, TimedOut
from standfast.resilience.cancellation import cancel_requests, tells_of_cancellation
from standfast.resilience.deadline import caller_is_gone, pause_unless_gone, remaining
from standfast.resilience.functions import FINISHED, finished
from standfast.resilience.functions import delay as checked_delay
from standfast.resilience.in_progress import may_repeat
from standfast.resilience.marks import LATEST, is_marked, let_pass
from standfast.resilience.policy import AsyncCall, Call, Policy
from standfast.resilience.retry_after import retry_after
from standfast.resilience.retry_rules import RetryRules
from standfast.resilience.telemetry import CALLS, Instrument, span_event, watch
from standfast.text import named, qualified_name

INSTRUMENTS = {
    **CALLS,
    "standfast.retry.retries": Instrument("counter", "{retry}", "Attempts after the first"),
    "standfast.retry.exhausted": Instrument(
        "counter", "{call}", "Calls given up: no attempt, time or budget was left"
    ),
    "standfast.retry.budget": Instrument("gauge", "{retry}", "Retries left in the shared budget"),
}


_NOTE = "standfast: not tried again"
_log = logging.getLogger("standfast.resilience")


class Tries:
    """What one call has been through so far. Made at its first failure."""

    __slots__ = ("delay", "made", "retry", "since", "started")

    def __init__(self, retry: RetryRules, started: float, since: int) -> None:
        self.retry = retry
        self.started = started
        self.since = since
        self.made = 0
        self.delay = 0.0

    def failed(self, error: Exception) -> float | None:
        """Seconds until the next attempt after `error`, or None: then it must be raised."""
        self.made += 1
        retry = self.retry
        if (
            isinstance(error, CancelledError)
            or not retry.is_retriable(error)
            or not retry.waits_out(error)
            or is_marked(error, self.since)
        ):
            retry.counts.failed += 1
            return None
        asked = retry_after(error, retry.clock.now())
        why = self._next(asked)
        if why is None:
            span_event(
                "retry", name=retry.name, attempt=self.made, delay=self.delay, error=_kind(error)
            )
            return self.delay
        if retry.attempts != 1:  # who makes one attempt has amplified nothing
            let_pass(error)
            _note(error, f"{_NOTE} after attempt {self.made}: {why}")
        self._gave_up(why, error)
        return None

    def unwanted(self) -> float | None:
        """Seconds until the next attempt after an unwanted result, or None: then it is returned."""
        self.made += 1
        why = self._next(None)
        if why is None:
            span_event("retry", name=self.retry.name, attempt=self.made, delay=self.delay)
            return self.delay
        self._gave_up(why, None)
        return None

    def _next(self, asked: float | None) -> str | None:
        """Set the next `delay`, or tell why there is none."""
        if not may_repeat():
            return "its transport says that it may not be sent again"
        retry = self.retry
        total: float | None = retry.total
        elapsed = 0.0 if total is None else retry.clock.monotonic() - self.started
        try:
            delay = retry.next_delay(self.made, elapsed, self.delay, random.random())  # noqa: S311
            if delay is not None:
                checked_delay(delay)
        except Exception as error:  # noqa: BLE001 - the failure itself is what the caller must see
            who = retry._who_decides()  # noqa: SLF001 - its own
            _log.exception(
                "%s failed, so there is no other attempt", who or f"backoff={retry.backoff!r}"
            )
            return f"{who or 'the backoff'} failed: {named(error)}"
        if delay is None:
            return retry._why_none(self.made)  # noqa: SLF001 - its own
        if asked is not None and asked > delay:
            if asked > retry.max_retry_after:
                return f"asked to wait {asked:g}s, max_retry_after={retry.max_retry_after:g}s"
            if total is not None and elapsed + asked > total:
                return f"asked to wait {asked:g}s, total={total:g}s would pass"
            delay = asked
        left = remaining(retry.clock)
        if left is not None and delay >= left:
            return f"the next would start in {delay:.3g}s, the deadline is in {left:.3g}s"
        if retry.budget is not None and not retry.budget.take():
            return "the retry budget is spent"
        self.delay = delay
        self.since = LATEST[0]  # the next attempt minds its own marks only
        return None

    def pause(self, delay: float) -> None:
        """Wait for the next attempt, in this thread."""
        with self._to_be_made():
            pause_unless_gone(self.retry.clock, delay)

    async def sleep(self, delay: float) -> None:
        """Wait for the next attempt, in the task that awaits it."""
        with self._to_be_made():
            await self.retry.clock.sleep(delay)

    @contextmanager
    def _to_be_made(self) -> Iterator[None]:
        """Count the next attempt, or give it back to the budget if its caller goes before it."""
        try:
            yield
            if caller_is_gone():
                raise TimedOut(
                    f"{self.retry!r}: not tried again, for its caller has stopped waiting"
                )
        except BaseException:  # also a cancellation: the attempt wasn't made
            if self.retry.budget is not None:
                self.retry.budget.give_back()
            raise
        self.retry.counts.retries += 1

    def _gave_up(self, why: str, error: Exception | None) -> None:
        counts = self.retry.counts
        counts.failed += 1
        counts.exhausted += 1
        span_event(
            "retry_exhausted", name=self.retry.name, attempt=self.made, why=why, error=_kind(error)
        )


def _note(error: Exception, text: str) -> None:
    """Tell on the error why it came out, instead of what another retry has told before."""
    try:
        notes = getattr(error, "__notes__", None)
        if notes:
            notes[:] = [note for note in notes if not str(note).startswith(_NOTE)]
        error.add_note(text)
    except Exception:  # noqa: BLE001, S110 - some errors can't be written to; they come out as they are
        pass


def _kind(error: Exception | None) -> str:
    return "" if error is None else qualified_name(error)


def _observed(retry: RetryRules) -> None:
    if not retry.counts.watched:
        retry.counts.watched = True
        watch(cast(Policy, retry), INSTRUMENTS)


def wants_again(unwanted: Callable[[Any], Any], result: Any) -> bool:
    """What `on_result` says. Raises `ConfigurationError` if its answer must be awaited."""
    answer = unwanted(result)
    if type(answer) not in FINISHED:
        finished(unwanted, answer)
    return bool(answer)


def around(retry: RetryRules, call: Call) -> Call:
    """`call`, tried again in this thread."""
    _observed(retry)
    counts, budget, unwanted = retry.counts, retry.budget, retry.on_result
    clock, timed, latest = retry.clock, retry.total is not None, LATEST

    def retried(*args: Any, **kwargs: Any) -> Any:
        started, since = clock.monotonic() if timed else 0.0, latest[0]
        if budget is not None:
            budget.calls += 1
        tries = None
        while True:
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                if tries is None:
                    tries = Tries(retry, started, since)
                delay = tries.failed(error)
                if delay is None:
                    raise
            else:
                if type(result) not in FINISHED:
                    finished(call, result)
                if unwanted is None or not wants_again(unwanted, result):
                    counts.succeeded += 1
                    return result
                if tries is None:
                    tries = Tries(retry, started, since)
                delay = tries.unwanted()
                if delay is None:
                    return result
            tries.pause(delay)

    return retried


def around_async(retry: RetryRules, call: AsyncCall) -> AsyncCall:
    """`call`, tried again in the task that awaits it."""
    _observed(retry)
    counts, budget, unwanted = retry.counts, retry.budget, retry.on_result
    clock, timed, latest = retry.clock, retry.total is not None, LATEST

    async def retried(*args: Any, **kwargs: Any) -> Any:
        started, since = clock.monotonic() if timed else 0.0, latest[0]
        if budget is not None:
            budget.calls += 1
        tries = None
        cancels = cancel_requests()
        while True:
            try:
                result = await call(*args, **kwargs)
            except Exception as error:
                grown = cancel_requests() - cancels
                if grown > 0:
                    if tells_of_cancellation(error, grown):
                        raise  # a library turned our cancellation into an error of its own
                    await asyncio.sleep(0)  # one that is still to be delivered comes out here
                    cancels += grown  # the others are over
                if tries is None:
                    tries = Tries(retry, started, since)
                delay = tries.failed(error)
                if delay is None:
                    raise
            else:
                if unwanted is None or not wants_again(unwanted, result):
                    counts.succeeded += 1
                    return result
                if tries is None:
                    tries = Tries(retry, started, since)
                delay = tries.unwanted()
                if delay is None or cancel_requests() > cancels:
                    return result
            await tries.sleep(delay)

    return retried


class Attempt:
    """One attempt of a block: ``with attempt:``. It swallows an error that will be tried again."""

    __slots__ = ("_block", "number")

    def __init__(self, block: _Block, number: int) -> None:
        self._block = block
        self.number = number
        """Counts from 1."""

    def __enter__(self) -> Attempt:
        self._block.entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._block.ended(error)


class _Block:
    """The attempts of one run through one block."""

    __slots__ = ("cancels", "entered", "next_delay", "retry", "since", "tries")

    def __init__(self, retry: RetryRules) -> None:
        _observed(retry)
        self.retry = retry
        self.tries: Tries | None = None
        self.next_delay: float | None = 0.0
        self.entered = True
        self.cancels = 0
        self.since = LATEST[0]

    def ended(self, error: BaseException | None) -> bool:
        """Take note of how the attempt ended; True if another follows."""
        self.next_delay = None
        if error is None:
            self.retry.counts.succeeded += 1
        elif isinstance(error, Exception) and self.tries is not None and not self.cancelled(error):
            self.next_delay = self.tries.failed(error)
        return self.next_delay is not None

    def cancelled(self, error: Exception) -> bool:
        """Whether `error` means that somebody else has ended the block: nobody can, in a thread."""
        return False

    def attempt(self) -> Attempt:
        """The next attempt, now that its delay has passed."""
        if not self.entered:
            raise ConfigurationError(
                "an attempt was not entered, so nobody knows how it ended: write `with attempt:` "
                "inside the loop"
            )
        self.entered = False
        if self.tries is None:
            self.tries = Tries(self.retry, self.retry.clock.monotonic(), self.since)
            if self.retry.budget is not None:
                self.retry.budget.calls += 1
        return Attempt(self, self.tries.made + 1)


class Attempts(_Block, Iterator[Attempt]):
    """``for attempt in retry``."""

    __slots__ = ()

    def __next__(self) -> Attempt:
        """The next attempt, after its delay."""
        if self.next_delay is None:
            raise StopIteration
        if self.tries is not None and self.entered:
            delay, self.next_delay = self.next_delay, None
            self.tries.pause(delay)
            self.next_delay = delay
        return self.attempt()


class AsyncAttempts(_Block, AsyncIterator[Attempt]):
    """``async for attempt in retry``."""

    __slots__ = ()

    def cancelled(self, error: Exception) -> bool:
        """Whether a library turned the task's cancellation into `error`."""
        grown = cancel_requests() - self.cancels
        return grown > 0 and tells_of_cancellation(error, grown)

    async def __anext__(self) -> Attempt:
        """The next attempt, after its delay."""
        if self.next_delay is None:
            raise StopAsyncIteration
        if self.tries is None:
            self.cancels = cancel_requests()
        elif self.entered:
            delay, self.next_delay = self.next_delay, None
            await self.tries.sleep(delay)
            self.next_delay = delay
            self.cancels = cancel_requests()  # those that are over: others have come out just now
        return self.attempt()
