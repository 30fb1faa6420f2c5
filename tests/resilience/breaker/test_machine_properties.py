"""The pure machine against a naive model: every outcome is kept and counted again each time."""

from collections import deque
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from standfast.resilience.backoff import Constant
from standfast.resilience.breaker.machine import REJECTED, Machine, Settings, State
from standfast.resilience.breaker.window import CountWindow, TimeWindow

OUTCOMES = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 3)), max_size=200)


@given(st.integers(1, 20), OUTCOMES)
def test_a_count_window_counts_the_last_calls(size: int, outcomes: list[tuple[int, float]]) -> None:
    window, model = CountWindow(size), deque[int](maxlen=size)
    for outcome, _ in outcomes:
        window.record(outcome, 0.0)
        model.append(outcome)
        assert window.calls == len(model)
        assert window.failures == sum(one & 1 for one in model)
        assert window.slow == sum(one >> 1 for one in model)


@given(OUTCOMES)
def test_a_time_window_counts_the_last_seconds(outcomes: list[tuple[int, float]]) -> None:
    window, now, model = TimeWindow(10.0), 1e6, list[tuple[float, int]]()
    for outcome, later in outcomes:
        now += later
        window.record(outcome, now)
        model.append((now, outcome))
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
        wait=st.sampled_from([None, None, 3.0, 1000.0]),
    )
    def end(self, data: st.DataObject, failed: bool, slow: bool, wait: float | None) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        ticket, era = self.tickets.pop(index)
        if failed:
            self.machine.fail(ticket, self.now, slow, wait)
        elif self.machine.steady == ticket and not slow:
            # The short cut says that this success changes nothing: hold it to that.
            before = (self.machine.state, self.machine.window.calls, self.machine.window.failures)
            self.machine.succeed(ticket, self.now, slow)
            after = (self.machine.state, self.machine.window.calls, self.machine.window.failures)
            assert before == after
        else:
            self.machine.succeed(ticket, self.now, slow)
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
        assert self.machine.window.calls == min(len(self.outcomes), self.SIZE)

    @invariant()
    def at_most_so_many_probes(self) -> None:
        assert len(self.probes) + len(self.verdicts) <= self.PROBES

    @invariant()
    def rejecting_early_is_rejecting(self) -> None:
        if self.now < self.machine.rejects_until:
            assert self.state in (State.OPEN, State.FORCED_OPEN)


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
