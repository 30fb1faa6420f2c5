"""The pure machines against naive models: a log of what was taken, and a bucket of fractions."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from standfast.rates import Rate
from standfast.resilience.ratelimit.machine import Window, gcra, sliding_window

TICK = Fraction(1, 64)  # Exact in floats, so that the models agree to the last unit.
COSTS = st.integers(1, 12)
RATES = st.builds(
    lambda limit, interval, burst: Rate(limit, float(interval * limit * TICK), burst),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 40),
    st.integers(1, 10),
)


class GcraMachine(RuleBasedStateMachine):
    """A bucket that is filled unit by unit, in exact fractions."""

    @initialize(rate=RATES, start=st.integers(-1000, 100_000))
    def begin(self, rate, start):
        self.rate = rate
        self.start = self.now = start * TICK
        self.interval = Fraction(rate.window) / rate.limit
        self.level = Fraction(rate.capacity)
        self.state = None
        self.taken = []

    @rule(ticks=st.integers(0, 200))
    def wait(self, ticks):
        self.now += ticks * TICK
        self.level = min(Fraction(self.rate.capacity), self.level + ticks * TICK / self.interval)

    @rule(cost=COSTS)
    def take(self, cost):
        before = self.state
        self.state, decision = gcra(self.state, self.rate, cost, float(self.now))
        assert decision.allowed == (cost <= self.level)
        if decision.allowed:
            self.level -= cost
            self.taken.append((self.now, cost))
            assert decision.retry_after == 0
        else:
            assert before is None or self.state == max(before, float(self.now))
            assert decision.retry_after == float((cost - self.level) * self.interval)
        assert decision.remaining == int(self.level)
        assert decision.reset_after == float((self.rate.capacity - self.level) * self.interval)

    @rule(cost=COSTS)
    def give_back(self, cost):
        self.state, decision = gcra(self.state, self.rate, -cost, float(self.now))
        self.level = min(Fraction(self.rate.capacity), self.level + cost)
        self.taken.append((self.now, -cost))
        assert decision.allowed
        assert decision.remaining == int(self.level)

    @rule(cost=COSTS)
    def retry_after_is_exact(self, cost):
        _, decision = gcra(self.state, self.rate, cost, float(self.now))
        if not decision.allowed and cost <= self.rate.capacity:
            then = float(self.now) + decision.retry_after
            assert gcra(self.state, self.rate, cost, then)[1].allowed
            assert not gcra(self.state, self.rate, cost, then - 1 / 64)[1].allowed

    @rule(back=st.integers(1, 10_000))
    def a_clock_set_back_blocks_no_longer_than_a_refill(self, back):
        earlier = float(self.now) - back
        _, decision = gcra(self.state, self.rate, self.rate.capacity, earlier)
        assert decision.retry_after <= self.rate.capacity * self.rate.interval + 1e-6

    @invariant()
    def never_more_than_burst_and_rate(self):
        if any(cost < 0 for _, cost in self.taken[-30:]):
            return  # What was given back may be taken again.
        for index, (begin, _) in enumerate(self.taken[-30:]):
            passed = sum(cost for _, cost in self.taken[-30:][index:])
            assert passed <= self.rate.capacity + (self.now - begin) / self.interval


class SlidingWindowMachine(RuleBasedStateMachine):
    """All that was taken is kept in a log, and counted per window of the clock."""

    @initialize(limit=st.integers(1, 12), ticks=st.sampled_from([16, 64, 256]))
    def begin(self, limit, ticks):
        self.rate = Rate(limit, float(ticks * TICK), algorithm="sliding_window")
        self.per = ticks * TICK
        self.now = Fraction(0)
        self.state = None
        self.log = {}

    def weighted(self):
        number, passed = divmod(self.now, self.per)
        return self.log.get(number, 0) + self.log.get(number - 1, 0) * (1 - passed / self.per)

    @rule(ticks=st.integers(0, 300))
    def wait(self, ticks):
        self.now += ticks * TICK

    @rule(cost=COSTS)
    def take(self, cost):
        allowed = self.weighted() + cost <= self.rate.limit
        self.state, decision = sliding_window(self.state, self.rate, cost, float(self.now))
        assert decision.allowed == allowed
        if allowed:
            number = self.now // self.per
            self.log[number] = self.log.get(number, 0) + cost
        assert decision.remaining == max(0, int(self.rate.limit - self.weighted()))
        assert (decision.retry_after == 0) == allowed

    @rule(cost=COSTS)
    def give_back(self, cost):
        self.state, decision = sliding_window(self.state, self.rate, -cost, float(self.now))
        number = self.now // self.per
        self.log[number] = max(0, self.log.get(number, 0) - cost)
        assert decision.allowed

    @rule(cost=COSTS)
    def retry_after_is_exact(self, cost):
        _, decision = sliding_window(self.state, self.rate, cost, float(self.now))
        if not decision.allowed and cost <= self.rate.limit:
            then = float(self.now) + decision.retry_after
            assert sliding_window(self.state, self.rate, cost, then + 1e-9)[1].allowed
            if decision.retry_after > 0.02:
                assert not sliding_window(self.state, self.rate, cost, then - 0.01)[1].allowed

    @rule()
    def reset_after_is_exact(self):
        _, decision = sliding_window(self.state, self.rate, -1, float(self.now))
        after, _ = sliding_window(self.state, self.rate, -1, float(self.now))
        then = float(self.now) + decision.reset_after
        assert sliding_window(after, self.rate, self.rate.limit, then)[1].allowed

    @rule(back=st.integers(1, 10_000))
    def a_clock_set_back_blocks_no_longer_than_two_windows(self, back):
        earlier = float(self.now) - back
        _, decision = sliding_window(self.state, self.rate, self.rate.limit, earlier)
        assert decision.retry_after <= 2 * self.rate.window

    @invariant()
    def never_more_than_the_limit_in_a_window_of_the_clock(self):
        assert all(taken <= self.rate.limit for taken in self.log.values())


TestGcra = pytest.mark.slow(GcraMachine.TestCase)
TestSlidingWindow = pytest.mark.slow(SlidingWindowMachine.TestCase)
TestGcra.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestSlidingWindow.settings = TestGcra.settings


def test_a_third_of_a_second_is_no_trouble():
    """0.1 * 3 != 0.3: a unit that is back is given, however the floats fall."""
    rate = Rate(3, 1.0, 1)
    state, now = None, 86_400.1
    for _ in range(10_000):
        state, decision = gcra(state, rate, 1, now)
        assert decision.allowed
        now += rate.interval


@pytest.mark.parametrize("limit", [3, 7, 10, 1000])
@pytest.mark.parametrize("start", [0.0, 12_345.678, 1_000_000.1])
def test_a_unit_comes_back_when_it_is_due_and_not_before(limit, start):
    """To half a microsecond, by which what adding floats loses is forgiven."""
    rate = Rate(limit, 1.0)
    state, _ = gcra(None, rate, limit, start)
    for turn in range(1, 200):
        due = start + turn * rate.interval
        assert not gcra(state, rate, 1, due - 1e-6)[1].allowed
        assert gcra(state, rate, 1, due)[1].remaining == 0
        state, decision = gcra(state, rate, 1, due)
        assert decision.allowed


@pytest.mark.parametrize("limit", [3, 7, 10])
@pytest.mark.parametrize("start", [0.0, 12_345.0])
def test_a_window_gives_its_units_back_when_they_are_due_and_not_before(limit, start):
    rate = Rate(limit, 1.0, algorithm="sliding_window")
    state, _ = sliding_window(None, rate, limit, start)
    for back in range(1, limit):
        due = start + 1 + back / limit
        assert not sliding_window(state, rate, back, due - 1e-6)[1].allowed
        assert sliding_window(state, rate, back, due)[1].allowed
        assert sliding_window(state, rate, -1, due)[1].remaining >= back


def test_windows_forget():
    state = Window(5, 3, 2, 7.0)
    rate = Rate(3, 1.0, algorithm="sliding_window")
    assert sliding_window(state, rate, 3, 7.0)[1].allowed
