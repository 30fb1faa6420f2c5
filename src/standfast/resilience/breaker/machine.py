"""The circuit breaker as a pure machine: tickets go out, outcomes come in, the state follows.

A call first asks to `acquire` a ticket and then gives it back with exactly one of `succeed`, `fail`
and `ignore`. In CLOSED the ticket is the state's generation, a number that every change of state
replaces; in HALF_OPEN each probe has a number of its own. A ticket that no longer matches is late:
it belongs to a state that has passed, and its outcome is dropped.

Time (monotonic seconds) comes in as a value, and so does chance: `chance` is the random number that
the next wait will use, and the runner puts a new one there after each change.

Sources: Michael Nygard, *Release It!* (2007), for the pattern; resilience4j for the windows, the
rates and the special states; Polly for the wait that grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import ceil

from standfast.resilience.backoff import Backoff
from standfast.resilience.breaker.window import FAILED, SLOW, Window

REJECTED = 0
"""The ticket of a call that must not be made."""

NOTED = 256
"""So many successes may be noted before they are counted, for they take memory."""


class State(Enum):
    """Where a circuit breaker is. The last three last until an operator says otherwise."""

    CLOSED = "closed"
    """Calls pass and are counted."""
    OPEN = "open"
    """Calls are rejected until the wait is over."""
    HALF_OPEN = "half_open"
    """A few probes pass, the rest is rejected."""
    FORCED_OPEN = "forced_open"
    """Every call is rejected."""
    METRICS_ONLY = "metrics_only"
    """Every call passes and is counted, and nothing opens."""
    DISABLED = "disabled"
    """Every call passes and nothing is counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a breaker's state, and why."""

    old: State
    new: State
    reason: str
    wait: float | None = None
    """Seconds until the next probe, when it opened."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a machine goes by, checked. Times in seconds; a threshold of None isn't watched."""

    window: Callable[[], Window]
    failure_rate: float | None
    failure_count: int | None
    consecutive_failures: int | None
    slow_call_rate: float | None
    minimum_calls: int
    wait: Backoff
    maximum_retry_after: float
    probes: int
    probe_timeout: float


class Machine:
    """One breaker's state. Not safe by itself: the runner lets in one caller at a time.

    Some attributes spare a runner the usual way, for each can be read at once and needs no lock.
    `closed` is the generation while calls may pass without asking, else `REJECTED`: take it as the
    ticket. Until `rejects_until`, every `acquire` would be rejected. While `calm` equals a ticket,
    before `window.ends`, its success, unless slow, can open nothing: append the ticket to `noted`
    instead of calling `succeed`. What is noted is counted before anything that depends on it.
    Once there are `NOTED`, call `succeed`, which clears them away.

    `changes` are those the runner has yet to tell.
    """

    __slots__ = (
        "_alert_until",
        "_from_server",
        "_openings",
        "_probe_failures",
        "_probe_passes",
        "_probe_slow",
        "_probes",
        "_settings",
        "_waited",
        "calm",
        "chance",
        "changes",
        "closed",
        "consecutive",
        "generation",
        "noted",
        "rejects_until",
        "state",
        "successes",
        "window",
    )

    def __init__(self, settings: Settings, chance: float = 0.5) -> None:
        self._settings = settings
        self.window = settings.window()
        self.state = State.CLOSED
        self.generation = self.closed = self.calm = 1
        self.noted: list[int] = []
        self.successes = 0  # of all tickets, also late ones; without those in `noted`
        self.consecutive = 0
        self.chance = chance
        self.changes: list[Change] = []
        self._openings = 0  # in a row, with no closing between them
        self._waited = 0.0
        self.rejects_until = float("-inf")
        self._from_server = False
        self._alert_until = float("-inf")
        self._forget_probes()

    # -- two phases ------------------------------------------------------------------------------

    def acquire(self, now: float) -> int:
        """A ticket for one call, or `REJECTED`."""
        if not self.closed:
            self._pass_time(now)
        if self.closed:
            return self.closed
        if self.state is not State.HALF_OPEN:
            return REJECTED
        taken = len(self._probes) + self._probe_passes + self._probe_failures
        if taken >= self._settings.probes:
            return REJECTED
        self.generation += 1
        self._probes[self.generation] = now + self._settings.probe_timeout
        return self.generation

    def succeed(self, ticket: int, now: float = 0.0, slow: bool = False) -> None:
        """The call answered. Late tickets change nothing."""
        self.count_noted()
        self.successes += 1
        if ticket == self.closed:
            self._count(SLOW if slow else 0, now)
        elif self._settle(ticket, now):
            self._probe_passes += 1
            self._probe_slow += slow
            self._judge_probes(now)

    def fail(
        self, ticket: int, now: float, slow: bool = False, retry_after: float | None = None
    ) -> None:
        """The call failed; `retry_after` is how long the other side asked to be left alone."""
        self.count_noted()
        if ticket == self.closed:
            self._count(FAILED | SLOW if slow else FAILED, now, retry_after)
        elif self._settle(ticket, now):
            self._probe_failures += 1
            self._probe_slow += slow
            self._judge_probes(now, retry_after)

    def ignore(self, ticket: int, now: float) -> None:
        """The call says nothing about the other side. A probe's permit is free again."""
        if ticket != self.closed:
            self._settle(ticket, now)

    def count_noted(self) -> None:
        """Count the successes that were only noted."""
        # Others may append meanwhile, at the end. Late tickets are dropped here as anywhere.
        count = len(self.noted)
        tickets = self.noted[:count]
        del self.noted[:count]
        self.successes += count
        on_time = tickets.count(self.closed)
        if on_time and self.state is not State.DISABLED:
            self.window.add_successes(on_time)
            self.consecutive = 0

    def _count(self, outcome: int, now: float, retry_after: float | None = None) -> None:
        if self.state is State.DISABLED:
            return
        self.window.record(outcome, now)
        self.consecutive = self.consecutive + 1 if outcome & FAILED else 0
        self._judge(now, retry_after)

    # -- from outside ----------------------------------------------------------------------------

    def force(self, state: State, now: float, reason: str) -> None:
        """Go to `state` and, unless that is CLOSED, OPEN or HALF_OPEN, stay there."""
        if state is State.OPEN:
            self._open(now, reason)
        elif state is not self.state:
            self._enter(state, reason)

    def alert(self, until: float) -> None:
        """Until then half the usual evidence is enough to open."""
        self._alert_until = max(self._alert_until, until)
        if self.state is State.CLOSED:
            self.calm = REJECTED  # the next success, too, is judged by that

    def probe_early(self, now: float) -> None:
        """End the wait in OPEN now, unless the other side itself asked for it."""
        if self.state is State.OPEN and not self._from_server:
            self.rejects_until = min(self.rejects_until, now)

    def retry_after(self, now: float) -> float | None:
        """Seconds until a call may pass; None if that depends on an operator or on probes."""
        return max(0.0, self.rejects_until - now) if self.state is State.OPEN else None

    def look(self, now: float) -> State:
        """The state at `now`, with what time alone has brought about."""
        self._pass_time(now)
        return self.state

    # -- time ------------------------------------------------------------------------------------

    def _pass_time(self, now: float) -> None:
        if self.state is State.HALF_OPEN:
            # A probe that never came back counts as failed at the moment when it expired, so that
            # a hanging dependency opens the breaker again instead of leaving it half-open for ever.
            for ticket, expires in list(self._probes.items()):
                if expires <= now and self._probes.pop(ticket, None) is not None:
                    self._probe_failures += 1
                    self._judge_probes(expires, expired=True)
        if self.state is State.OPEN and now >= self.rejects_until:
            self._enter(State.HALF_OPEN, "the wait is over")

    def _settle(self, ticket: int, now: float) -> bool:
        """Take a probe's permit back. False if it is late."""
        if self._probes:
            self._pass_time(now)
        return self._probes.pop(ticket, None) is not None

    # -- judgement -------------------------------------------------------------------------------

    def _judge(self, now: float, retry_after: float | None = None) -> None:
        if self.state is not State.CLOSED:
            self.calm = self.closed
            return
        settings, window = self._settings, self.window
        share = 0.5 if now < self._alert_until else 1.0
        reason = ""
        in_a_row, count = settings.consecutive_failures, settings.failure_count
        if in_a_row is not None and self.consecutive >= in_a_row * share:
            reason = f"{self.consecutive} failures in a row"
        if count is not None and window.failures >= count * share:
            reason = f"{window.failures} failures among the last {window.calls} calls"
        enough, calm = window.calls >= settings.minimum_calls * share, self.closed
        for what, bad, rate in (
            ("failed", window.failures, settings.failure_rate),
            ("were slow", window.slow, settings.slow_call_rate),
        ):
            if rate is not None and bad and bad >= rate * share * window.calls:
                if enough:
                    reason = f"{bad} of {window.calls} calls {what}"
                else:
                    calm = REJECTED  # a success, too, can complete the minimum
        self.calm = calm
        if reason:
            self._open(now, reason + (", on alert" if share < 1 else ""), retry_after)

    def _judge_probes(
        self, now: float, retry_after: float | None = None, expired: bool = False
    ) -> None:
        settings = self._settings
        for what, count, rate in (
            ("failed", self._probe_failures, settings.failure_rate),
            ("were slow", self._probe_slow, settings.slow_call_rate),
        ):
            if rate is None and what == "were slow":
                continue
            # Without a failure rate the first failed probe is enough.
            if count >= max(1, ceil((rate or 0) * settings.probes)):
                reason = f"{count} of {settings.probes} probes {what}"
                self._open(now, "a probe never returned" if expired else reason, retry_after)
                return
        if self._probe_passes + self._probe_failures >= settings.probes:
            self._enter(State.CLOSED, f"{self._probe_passes} of {settings.probes} probes passed")

    # -- changes ---------------------------------------------------------------------------------

    def _open(self, now: float, reason: str, retry_after: float | None = None) -> None:
        self._openings += 1
        self._from_server = bool(retry_after)
        if retry_after:
            self._waited = min(retry_after, self._settings.maximum_retry_after)
        else:
            wait = self._settings.wait
            self._waited = wait.delay(self._openings, self._waited, self.chance)
        self.rejects_until = now + self._waited
        self._enter(State.OPEN, reason, self._waited)

    def _enter(self, state: State, reason: str, wait: float | None = None) -> None:
        self.changes.append(Change(self.state, state, reason, wait))
        self.state = state
        self.generation += 1
        if state is not State.OPEN:
            forced = state is State.FORCED_OPEN
            self.rejects_until = float("inf") if forced else float("-inf")
        passes = state in (State.CLOSED, State.METRICS_ONLY, State.DISABLED)
        self.closed = self.calm = self.generation if passes else REJECTED
        self._forget_probes()
        if passes:
            self.window.clear()
            self.consecutive = 0
            self._openings = 0
            self._waited = 0.0

    def _forget_probes(self) -> None:
        self._probes: dict[int, float] = {}  # a probe's ticket and when it expires
        self._probe_passes = self._probe_failures = self._probe_slow = 0
