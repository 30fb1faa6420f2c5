"""`CircuitBreaker`: stop calling what is failing, and find out gently when it works again.

The machine decides (`machine.py`); here are the clock, the lock and the calls. The lock is held for
a transition of the machine, well under a microsecond, and never across a call, a listener or
telemetry. It is an ``RLock`` so that a signal handler or a finalizer that calls through the breaker
can't deadlock. Two hot paths take no lock: a rejection before the wait is over reads one attribute
of the machine, and a success that can open nothing appends its ticket to a list, both of which are
atomic on every build. Whoever changes the machine at the same moment comes just before or just
after. Only the count of rejections could then miss one, on free-threaded builds.
Tasks and threads may share a breaker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import random
from typing import Any, TypeAlias

from standfast.checks import text
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds, time_limit
from standfast.errors import CircuitOpen, ConfigurationError, Refused, Rejected, TimedOut
from standfast.resilience import telemetry
from standfast.resilience.backoff import Backoff
from standfast.resilience.blocks import Blocks, OpenBlocks
from standfast.resilience.breaker.machine import NOTED, REJECTED, Change, Machine, State
from standfast.resilience.breaker.options import Verdict, check
from standfast.resilience.breaker.permit import Permit
from standfast.resilience.breaker.registry import Registry
from standfast.resilience.breaker.verdicts import Errors, Judge, checked_wait
from standfast.resilience.deadline import ThreadDeadline, current
from standfast.resilience.forking import survives_fork, unlock
from standfast.resilience.functions import FINISHED, finished, plain, with_brackets
from standfast.resilience.marks import do_not_retry
from standfast.resilience.policy import AsyncCall, Call, Measure

Listener: TypeAlias = Callable[["CircuitBreaker", Change], None]

_FOR_EVER = float("inf")
_new = CircuitOpen.__new__

logger = logging.getLogger(__name__)


class CircuitRegistry(Registry["CircuitBreaker"]):
    """The breakers that live, by name. It doesn't keep them alive.

    Several breakers may have one name, such as one per client object: whoever looks by name gets
    them all.
    """


circuits: CircuitRegistry = CircuitRegistry()
"""The registry of every breaker that isn't given another."""


class CircuitBreaker(Blocks[Permit]):
    """Rejects calls with `CircuitOpen` while what they call keeps failing.

    What opens it: `failure_rate` (share of the calls in the window), `failure_count` (in the
    window), `consecutive_failures`, `slow_call_rate` (share of the calls that took longer than
    `slow_call_duration`); None leaves one out. The rates need `minimum_calls` in the window (10 by
    default, or as many as a smaller window holds).
    `window` is a number of calls (``100``) or a time (``"60s"``).

    `wait` is how long it stays open before it probes: a duration, or a `Backoff` such as
    ``Exponential("5s", maximum="5m")`` that grows with each opening in a row. If the failure that
    opens it says how long to wait (`retry_after` reads that off an exception or a bad result; by
    default an attribute ``retry_after`` or a header ``Retry-After``), that is taken, up to
    `maximum_retry_after`.

    Half-open, at most `half_open_calls` probes pass. When as many have passed it closes; when the
    share of failed ones reaches `failure_rate` (without one: at the first) or of slow ones
    `slow_call_rate` it opens again. A probe that isn't back after `half_open_timeout` counts as
    failed.

    What a call counts as: an exception of `ignore_on` as nothing (default: `Rejected`, for then
    nothing was called), of `success_on` as success (default: `Refused`, for the other side works),
    of `failure_on` as failure, any other as success. `judge_result` does the same for results.
    Cancellation, and whatever else isn't an ``Exception``, counts as `on_cancellation`: ignored,
    unless you say otherwise. An exception group fails if anything in it does. An ignored probe
    gives its permit back. A call that a `Timeout` around the breaker ended counts as if it had
    raised `TimedOut`, unless a deadline around that one had left it less than half of its time;
    around plain functions, in a `Pipeline` only.

    Each call that is let through is counted once at most, in the state in which it began: what
    comes back after a change of state is dropped. Time is monotonic. Raises `CircuitOpen`, with
    `retry_after` while it waits, and `ConfigurationError` for options that can't be.
    """

    label = "circuit_breaker"

    def __init__(
        self,
        name: str = "",
        *,
        window: int | str | timedelta = 100,
        failure_rate: float | None = 0.5,
        failure_count: int | None = None,
        consecutive_failures: int | None = None,
        slow_call_rate: float | None = None,
        slow_call_duration: Duration | None = None,
        minimum_calls: int | None = None,
        wait: Duration | Backoff = "30s",
        maximum_retry_after: Duration = "10m",
        retry_after: Callable[[Any], float | None] | None = None,
        half_open_calls: int = 3,
        half_open_timeout: Duration = "60s",
        failure_on: Errors = (Exception,),
        success_on: Errors = (Refused,),
        ignore_on: Errors = (Rejected,),
        judge_result: Callable[[Any], Verdict] | None = None,
        on_cancellation: Verdict = "ignored",
        listeners: Iterable[Listener] = (),
        registry: CircuitRegistry = circuits,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        with_brackets(self, name)
        text(name, note="; how many failures open it is failure_count or consecutive_failures")
        settings = check(
            window=window,
            failure_rate=failure_rate,
            failure_count=failure_count,
            consecutive_failures=consecutive_failures,
            slow_call_rate=slow_call_rate,
            slow_call_duration=slow_call_duration,
            minimum_calls=minimum_calls,
            wait=wait,
            maximum_retry_after=maximum_retry_after,
            half_open_calls=half_open_calls,
            half_open_timeout=half_open_timeout,
        )
        settings = replace(settings, wait=checked_wait(settings.wait))
        self._judge = Judge(
            failure_on=failure_on,
            success_on=success_on,
            ignore_on=ignore_on,
            judge_result=judge_result,
            on_cancellation=on_cancellation,
            retry_after=retry_after,
            now=clock.now,
        )
        if slow_call_rate is None and not self._judge.counts_failures:
            raise ConfigurationError(
                f"failure_on={failure_on!r}: all of it is in ignore_on={ignore_on!r} or "
                f"success_on={success_on!r}, so that nothing could open it"
            )
        if not isinstance(registry, CircuitRegistry):
            raise ConfigurationError(f"registry={registry!r}: give a CircuitRegistry()")
        if not isinstance(listeners, Iterable):
            raise ConfigurationError(f"listeners={listeners!r}: give a list of functions")
        self._listeners: list[Listener] = [_listener(one) for one in listeners]
        self._machine = Machine(settings, random())  # noqa: S311
        slow = time_limit(slow_call_duration, name="slow_call_duration")
        self._slow = _FOR_EVER if slow is None else slow
        # Up to this long a call may be noted as a success; if its result is judged, never.
        self._quick = self._slow if judge_result is None else -_FOR_EVER
        # Whether that depends on the clock.
        self._timed = self._quick != _FOR_EVER or not isinstance(window, int)
        self._blocks: OpenBlocks[Permit] = OpenBlocks()
        self._monotonic = clock.monotonic
        self._lock = threading.RLock()
        self.failures: int = 0
        self.ignored: int = 0
        self.rejected: int = 0
        self._transitions: dict[State, int] = dict.fromkeys(State, 0)
        self.name: str = registry.add(self, name)
        self._message = f"circuit {self.name!r} is open: the call was not made"
        telemetry.watch(self, INSTRUMENTS)
        survives_fork(self)

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, {self.state.value})"

    # -- around calls ----------------------------------------------------------------------------

    def around(self, call: Call) -> Call:
        """A function that makes `call` if the circuit lets it."""
        machine, admit, rejection = self._machine, self._admit, self._rejection
        raised, returned = self._raised, self._ok
        monotonic, timed, quick = self._monotonic, self._timed, self._quick
        window, noted, note = machine.window, machine.noted, machine.noted.append

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            ticket = machine.closed
            if not ticket:
                now = monotonic()
                if now < machine.rejects_until or not (ticket := admit(now)):
                    raise rejection(now)
            started = monotonic() if timed else 0.0
            try:
                result = call(*args, **kwargs)
                if type(result) not in FINISHED:
                    finished(call, result)
            except BaseException as error:
                raised(ticket, started, error)
                raise
            if (
                ticket == machine.calm
                and len(noted) < NOTED
                and (not timed or ((now := monotonic()) - started <= quick and now < window.ends))
            ):
                note(ticket)
            else:
                returned(ticket, started, result)
            return result

        return wrapper

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """A coroutine function that awaits `call` if the circuit lets it."""
        machine, admit, rejection = self._machine, self._admit, self._rejection
        raised, returned = self._raised, self._ok
        monotonic, timed, quick = self._monotonic, self._timed, self._quick
        window, noted, note = machine.window, machine.noted, machine.noted.append

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            ticket = machine.closed
            if not ticket:
                now = monotonic()
                if now < machine.rejects_until or not (ticket := admit(now)):
                    raise rejection(now)
            started = monotonic() if timed else 0.0
            try:
                result = await call(*args, **kwargs)
            except BaseException as error:
                raised(ticket, started, error)
                raise
            if (
                ticket == machine.calm
                and len(noted) < NOTED
                and (not timed or ((now := monotonic()) - started <= quick and now < window.ends))
            ):
                note(ticket)
            else:
                returned(ticket, started, result)
            return result

        return wrapper

    def around_under_deadline(self, call: Call) -> Call:
        """As `around`; a call that its caller stops waiting for counts then, as `TimedOut`."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            permit, deadline = self.acquire(), current()
            pending: dict[object, Callable[[], object]] = {}
            if isinstance(deadline, ThreadDeadline) and deadline.telling:
                pending = deadline.on_expiry
            pending[permit] = partial(permit.failure, TimedOut())
            try:
                result = call(*args, **kwargs)
                if type(result) not in FINISHED:
                    finished(call, result)
            except BaseException as error:
                if pending.pop(permit, None) is not None:
                    permit.failure(error)
                raise
            if pending.pop(permit, None) is not None:
                permit.settled = True
                self._ok(*permit.begun, result)
            return result

        return wrapper

    def acquire(self) -> Permit:
        """A permit for one call, to be settled by hand. Raises `CircuitOpen`.

        A probe's permit that is never settled counts as failed after `half_open_timeout`.
        """
        now = self._monotonic()
        if now < self._machine.rejects_until or not (ticket := self._admit(now)):
            raise self._rejection(now)
        return Permit(self, ticket, now)

    def block(self) -> Permit:
        """As `acquire`, for a ``with`` or ``async with`` block, in which the permit begins."""
        return Permit(self, REJECTED, 0.0)

    # -- to look at and to operate ---------------------------------------------------------------

    @property
    def state(self) -> State:
        """The state now, with what time alone has brought about."""
        with self._lock:
            state = self._machine.look(self._monotonic())
        self._tell()
        return state

    @property
    def successes(self) -> int:
        """Calls that counted as success."""
        with self._lock:
            self._machine.count_noted()
            return self._machine.successes

    @property
    def retry_after(self) -> float | None:
        """Seconds until a call may pass: 0 if one may now, None if unknown."""
        with self._lock:
            if self._machine.closed:
                return 0.0
            return self._machine.retry_after(self._monotonic())

    def on_change(self, listener: Listener) -> None:
        """Call ``listener(breaker, change)`` after every change of state.

        It runs in the thread that caused the change, outside the lock; what it raises is logged
        and goes no further. Changes made by two threads at once may be told in either order.
        """
        self._listeners.append(_listener(listener))

    def forget(self, listener: Listener) -> None:
        """Call `listener` no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def open(self) -> None:
        """Open it now, as if calls had failed; it probes after the usual wait."""
        self._force(State.OPEN)

    def force_open(self) -> None:
        """Reject every call until `reset`."""
        self._force(State.FORCED_OPEN)

    def metrics_only(self) -> None:
        """Let every call pass and count it, until `reset`."""
        self._force(State.METRICS_ONLY)

    def disable(self) -> None:
        """Let every call pass and count nothing, until `reset`."""
        self._force(State.DISABLED)

    def reset(self) -> None:
        """Close it and let it decide for itself again, with an empty window."""
        self._force(State.CLOSED)

    def alert(self, duration: Duration = "30s") -> None:
        """For `duration` let half the usual evidence be enough to open it."""
        until = self._monotonic() + seconds(duration)
        with self._lock:
            self._machine.alert(until)

    def probe_early(self) -> None:
        """If it is open, let the next call be a probe, unless a Retry-After holds it open."""
        with self._lock:
            self._machine.probe_early(self._monotonic())

    def _force(self, state: State, reason: str = "by hand") -> None:
        with self._lock:
            self._machine.force(state, self._monotonic(), reason)
        self._tell()

    def after_fork(self) -> None:
        """Go on as the parent's breaker stood; a thread of the parent may have held the lock."""
        unlock(self._lock)

    # -- inside ----------------------------------------------------------------------------------

    def _admit(self, now: float) -> int:
        """A ticket, or `REJECTED`."""
        with self._lock:
            ticket = self._machine.acquire(now)
        self._tell()
        return ticket

    def _rejection(self, now: float) -> CircuitOpen:
        """The exception for the caller to raise and not to keep: each frame in it costs.

        A variable in the frame that raises it would close a cycle through its traceback, which
        only the garbage collector could break.
        """
        self.rejected += 1
        if telemetry.context():  # an empty one has no span, and is cheaper to ask for
            telemetry.span_event("circuit_breaker.rejected", name=self.name)
        left = self._machine.rejects_until - now
        # A new exception each time: one that is kept would collect the tracebacks of all callers.
        # Made without its __init__, a Python function that costs as much as all the rest.
        rejection = _new(CircuitOpen, self._message)
        rejection.retry_after = left if 0 < left < _FOR_EVER else None
        return rejection

    def _ok(self, ticket: int, started: float, result: Any) -> None:
        try:
            verdict = self._judge.of_result(result)
        except BaseException as error:  # the user's function: the call is over, whatever it says
            self._settle(ticket, started, "ignored", None)
            do_not_retry(error)  # the call has worked
            raise
        self._settle(ticket, started, verdict, result)

    def _raised(self, ticket: int, started: float, error: BaseException) -> None:
        self._settle(ticket, started, self._judge.of_error(error), error)

    def _settle(self, ticket: int, started: float, verdict: Verdict, outcome: Any) -> None:
        wait = self._judge.wait(outcome) if verdict == "failure" else None
        with self._lock:
            now = self._monotonic()
            slow = now - started > self._slow
            if verdict == "success":
                self._machine.succeed(ticket, now, slow)
            elif verdict == "failure":
                self.failures += 1
                self._machine.fail(ticket, now, slow, wait)
            else:
                self.ignored += 1
                self._machine.ignore(ticket, now)
        self._tell()

    def _tell(self) -> None:
        machine = self._machine
        if not machine.changes:
            return
        with self._lock:
            changes, machine.changes = machine.changes, []
            machine.chance = random()  # noqa: S311
            for change in changes:
                self._transitions[change.new] += 1
        for change in changes:
            telemetry.span_event(
                "circuit_breaker.changed",
                name=self.name,
                old=change.old.value,
                new=change.new.value,
                reason=change.reason,
            )
            for listener in list(self._listeners):
                try:
                    listener(self, change)
                except Exception:  # whoever makes a call has no part in what a listener does
                    logger.exception("a listener of circuit %r failed", self.name)

    def measures(self) -> Iterable[Measure]:
        """Calls by outcome, the state, and how often it changed."""
        name = {"name": self.name}
        for outcome, count in (
            ("success", self.successes),
            ("failure", self.failures),
            ("ignored", self.ignored),
            ("rejected", self.rejected),
        ):
            labels = {"policy": self.label, "outcome": outcome, **name}
            yield "standfast.resilience.calls", count, labels
        yield "standfast.circuit_breaker.rejected", self.rejected, name
        with self._lock:  # what time alone changed is told with the next call, not to a collector
            now = self._machine.look(self._monotonic())
        for state in State:
            labels = {"state": state.value, **name}
            yield "standfast.circuit_breaker.state", int(state is now), labels
        for state, count in list(self._transitions.items()):
            labels = {"to": state.value, **name}
            yield "standfast.circuit_breaker.transitions", count, labels


INSTRUMENTS = {
    **telemetry.CALLS,
    "standfast.circuit_breaker.state": telemetry.Instrument(
        "gauge", "{circuit_breaker}", "How many breakers of the name are in the state"
    ),
    "standfast.circuit_breaker.transitions": telemetry.Instrument(
        "counter", "{transition}", "Changes of state, by the state it came to"
    ),
    "standfast.circuit_breaker.rejected": telemetry.Instrument(
        "counter", "{call}", "Calls that the breaker didn't let through"
    ),
}


def _listener(listener: Listener) -> Listener:
    return plain(listener, name="listener", wanted="a function of the breaker and the change")
