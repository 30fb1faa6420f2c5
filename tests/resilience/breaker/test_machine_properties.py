"""The pure machine against a naive model: every outcome is kept and counted again each time."""

from collections import deque
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from standfast.resilience.backoff import Constant
from standfast.resilience.breaker.machine import REJECTED, Machine, Settings, State
from standfast.resilience.breaker.window import CountWindow, TimeWindow, Window

# What a call was, how long after the one before, and how many successes follow it at once.
OUTCOMES = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3), st.integers(0, 5)), max_size=200)


@given(st.integers(1, 20), OUTCOMES)
def test_a_count_window_counts_the_last_calls(
    size: int, outcomes: list[tuple[int, float, int]]
) -> None:
    window, model = CountWindow(size), deque[int](maxlen=size)
    for outcome, _, successes in outcomes:
        window.record(outcome, 0.0)
        window.add_successes(successes)
        model.extend([outcome] + successes * [0])
        assert window.calls == len(model)
        assert window.failures == sum(one & 1 for one in model)
        assert window.slow == sum(one >> 1 for one in model)


@given(OUTCOMES)
def test_a_time_window_counts_the_last_seconds(outcomes: list[tuple[int, float, int]]) -> None:
    window, now, model = TimeWindow(10.0), 1e6, list[tuple[float, int]]()
    for outcome, later, successes in outcomes:
        now += later
        window.record(outcome, now)
        assert now < window.ends
        window.add_successes(successes)
        model += [(now, outcome), *successes * [(now, 0)]]
        # Buckets of one second: the current one and the nine before it.
        inside = [one for at, one in model if int(at) > int(now) - 10]
        assert window.calls == len(inside)
        assert window.failures == sum(one & 1 for one in inside)
        assert window.slow == sum(one >> 1 for one in inside)


class BreakerModel(RuleBasedStateMachine):
    """Calls begin and end in any order, time passes, operators and other instances interfere."""

    SIZE, RATE, SLOW_RATE, MINIMUM, IN_A_ROW = 8, 0.5, 0.75, 4, 6
    WAIT, PROBES, TIMEOUT = 10.0, 3, 5.0

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(
            Settings(
                window=lambda: CountWindow(self.SIZE),
                failure_rate=self.RATE,
                failure_count=None,
                consecutive_failures=self.IN_A_ROW,
                slow_call_rate=self.SLOW_RATE,
                minimum_calls=self.MINIMUM,
                wait=Constant(self.WAIT),
                maximum_retry_after=60.0,
                probes=self.PROBES,
                probe_timeout=self.TIMEOUT,
            )
        )
        self.now = 100.0
        self.state = State.CLOSED
        self.until = self.alert_until = 0.0
        self.outcomes: list[tuple[bool, bool]] = []  # failed, slow; since it closed
        self.probes: dict[int, float] = {}
        self.verdicts: list[tuple[bool, bool]] = []  # of this half-open time
        self.tickets: list[tuple[int, int]] = []  # ticket, era
        self.era = 0
        self.successes = 0

    # -- the model ------------------------------------------------------------------------------

    def _go(self, state: State) -> None:
        self.state, self.era = state, self.era + 1
        self.probes, self.verdicts = {}, []
        if state not in (State.OPEN, State.HALF_OPEN, State.FORCED_OPEN):
            self.outcomes = []

    def _open(self, at: float, wait: float | None = None) -> None:
        self._go(State.OPEN)
        self.until = at + min(60.0, wait or self.WAIT)
        self.asked = wait is not None

    def _verdict(self, failed: bool, slow: bool, at: float, wait: float | None = None) -> None:
        self.verdicts.append((failed, slow))
        failures, late = (sum(bits) for bits in zip(*self.verdicts, strict=True))
        too_many = failures >= ceil(self.RATE * self.PROBES)
        if too_many or late >= ceil(self.SLOW_RATE * self.PROBES):
            self._open(at, wait)
        elif len(self.verdicts) == self.PROBES:
            self._go(State.CLOSED)

    def _time(self) -> None:
        if self.state is State.HALF_OPEN:
            for ticket, expires in sorted(self.probes.items(), key=lambda one: one[1]):
                if expires <= self.now and self.state is State.HALF_OPEN:
                    del self.probes[ticket]
                    self._verdict(True, False, expires)
        if self.state is State.OPEN and self.now >= self.until:
            self._go(State.HALF_OPEN)

    def _end(self, ticket: int, era: int, failed: bool, slow: bool, wait: float | None) -> None:
        if self.state is State.HALF_OPEN and self.probes:
            self._time()
        if era != self.era:
            return
        if self.state is State.HALF_OPEN:
            if self.probes.pop(ticket, None) is not None:
                self._verdict(failed, slow, self.now, wait)
            return
        if self.state is State.DISABLED:
            return
        self.outcomes.append((failed, slow))
        if self.state is not State.CLOSED:
            return
        share = 0.5 if self.now < self.alert_until else 1
        window = self.outcomes[-self.SIZE :]
        bad, late = sum(f for f, _ in window), sum(s for _, s in window)
        in_a_row = 0
        for one, _ in self.outcomes:
            in_a_row = in_a_row + 1 if one else 0
        enough = len(window) >= self.MINIMUM * share
        if (
            in_a_row >= self.IN_A_ROW * share
            or (enough and bad and bad / len(window) >= self.RATE * share)
            or (enough and late and late / len(window) >= self.SLOW_RATE * share)
        ):
            self._open(self.now, wait)

    # -- what happens ---------------------------------------------------------------------------

    @rule()
    def begin(self) -> None:
        ticket = self.machine.acquire(self.now)
        self._time()
        if self.state is State.HALF_OPEN:
            allowed = len(self.probes) + len(self.verdicts) < self.PROBES
            if allowed:
                self.probes[ticket] = self.now + self.TIMEOUT
        else:
            allowed = self.state not in (State.OPEN, State.FORCED_OPEN)
        assert (ticket != REJECTED) is allowed
        if allowed:
            self.tickets.append((ticket, self.era))

    @precondition(lambda self: self.tickets)
    @rule(
        data=st.data(),
        failed=st.booleans(),
        slow=st.booleans(),
        note=st.booleans(),
        wait=st.sampled_from([None, None, 3.0, 1000.0]),
    )
    def end(
        self, data: st.DataObject, failed: bool, slow: bool, note: bool, wait: float | None
    ) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        ticket, era = self.tickets.pop(index)
        if failed:
            self.machine.fail(ticket, self.now, slow, wait)
        elif note and not slow and self.machine.calm == ticket:
            self.machine.noted.append(ticket)  # it can open nothing, the machine says
        else:
            self.machine.succeed(ticket, self.now, slow)
        self.successes += not failed
        self._end(ticket, era, failed, slow, wait if failed else None)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def ignore(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        ticket, era = self.tickets.pop(index)
        self.machine.ignore(ticket, self.now)
        if self.state is State.HALF_OPEN and self.probes:
            self._time()
        if era == self.era:
            self.probes.pop(ticket, None)

    @rule(seconds=st.sampled_from([0.5, 3.0, 5.0, 10.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(state=st.sampled_from(list(State)))
    def operate(self, state: State) -> None:
        self.machine.force(state, self.now, "by hand")
        if state is State.OPEN:
            self._open(self.now)
        elif state is not self.state:
            self._go(state)

    @rule()
    def alert(self) -> None:
        self.machine.alert(self.now + 20)
        self.alert_until = max(self.alert_until, self.now + 20)

    @rule()
    def probe_early(self) -> None:
        self.machine.probe_early(self.now)
        if self.state is State.OPEN and not self.asked:
            self.until = min(self.until, self.now)

    @invariant()
    def states_agree(self) -> None:
        assert self.machine.state is self.state
        noted = self.machine.noted
        if self.machine.closed:
            counted = self.machine.window.calls
            if self.state is not State.DISABLED:
                counted += noted.count(self.machine.closed)
            assert min(counted, self.SIZE) == min(len(self.outcomes), self.SIZE)
        assert self.machine.successes + len(noted) == self.successes

    @invariant()
    def at_most_so_many_probes(self) -> None:
        assert len(self.probes) + len(self.verdicts) <= self.PROBES

    @invariant()
    def rejecting_early_is_rejecting(self) -> None:
        if self.now < self.machine.rejects_until:
            assert self.state in (State.OPEN, State.FORCED_OPEN)


OUTCOME = st.sampled_from(["fast", "fast", "slow", "failed", "both", "ignored"])


class NotedModel(RuleBasedStateMachine):
    """Two machines see the same; one is told every success, the other only notes what it may."""

    @initialize(
        size=st.integers(1, 8),
        timed=st.booleans(),
        rates=st.tuples(*2 * [st.sampled_from([None, 0.3, 0.5, 1.0])]),
        failures=st.sampled_from([None, 1, 2, 5]),
        in_a_row=st.sampled_from([None, 1, 2, 5]),
        minimum=st.integers(1, 6),
    )
    def make(
        self,
        size: int,
        timed: bool,
        rates: tuple[float | None, float | None],
        failures: int | None,
        in_a_row: int | None,
        minimum: int,
    ) -> None:
        def window() -> Window:
            return TimeWindow(10.0) if timed else CountWindow(size)

        settings = Settings(
            window=window,
            failure_rate=rates[0],
            failure_count=failures,
            consecutive_failures=in_a_row,
            slow_call_rate=rates[1],
            minimum_calls=minimum,
            wait=Constant(10.0),
            maximum_retry_after=60.0,
            probes=2,
            probe_timeout=5.0,
        )
        self.told, self.noting = Machine(settings), Machine(settings)
        self.now = 100.0
        self.tickets: list[int] = []

    @rule(begun=st.integers(1, 5))
    def begin(self, begun: int) -> None:
        for _ in range(begun):
            ticket = self.told.acquire(self.now)
            assert self.noting.acquire(self.now) == ticket
            if ticket != REJECTED:
                self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), outcome=OUTCOME, note=st.booleans())
    def end(self, data: st.DataObject, outcome: str, note: bool) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        self._end(self.tickets.pop(index), outcome, note)

    @rule(outcomes=st.lists(st.tuples(OUTCOME, st.booleans()), max_size=8))
    def call(self, outcomes: list[tuple[str, bool]]) -> None:
        for outcome, note in outcomes:
            ticket = self.told.acquire(self.now)
            assert self.noting.acquire(self.now) == ticket
            if ticket != REJECTED:
                self._end(ticket, outcome, note)

    def _end(self, ticket: int, outcome: str, note: bool) -> None:
        noting, now = self.noting, self.now
        if note and outcome == "fast" and ticket == noting.calm and now < noting.window.ends:
            self.told.succeed(ticket, now)
            noting.noted.append(ticket)
            return
        for machine in (self.told, noting):
            if outcome in ("fast", "slow"):
                machine.succeed(ticket, now, outcome == "slow")
            elif outcome == "ignored":
                machine.ignore(ticket, now)
            else:
                machine.fail(ticket, now, outcome == "both")

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, 10.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(state=st.sampled_from(list(State)), reset=st.booleans())
    def operate(self, state: State, reset: bool) -> None:
        for one in (state, State.CLOSED) if reset else (state,):
            self.told.force(one, self.now, "by hand")
            self.noting.force(one, self.now, "by hand")

    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def alert(self, seconds: float) -> None:
        self.told.alert(self.now + seconds)
        self.noting.alert(self.now + seconds)

    @rule()
    def count(self) -> None:
        self.noting.count_noted()
        told, noting = self.told, self.noting
        assert told.successes == noting.successes
        if told.closed:  # else the window is out of use, and emptied before it is used again
            assert told.consecutive == noting.consecutive
            for totals in ("calls", "failures", "slow"):
                assert getattr(told.window, totals) == getattr(noting.window, totals)

    @invariant()
    def they_agree(self) -> None:
        told, noting = self.told, self.noting
        assert told.changes == noting.changes
        assert told.generation == noting.generation
        assert told.rejects_until == noting.rejects_until
        assert told.calm == noting.calm

    def teardown(self) -> None:
        if hasattr(self, "told"):
            self.count()


TestNotedModel = pytest.mark.slow(NotedModel.TestCase)
TestNotedModel.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)

TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
