"""Rate limits in memory: the contract, and what is kept."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.conformance import RateLimitSuite
from standfast.errors import ConfigurationError
from standfast.rates import Decision, Rate
from standfast.resilience.ratelimit import MemoryRateLimits
from standfast.testing.manual_clock import ManualClock

ALGORITHMS = pytest.mark.parametrize("algorithm", ["gcra", "sliding_window"])


class TestMemory(RateLimitSuite):
    @pytest.fixture
    def store(self):
        return MemoryRateLimits()


@pytest.mark.slow
@ALGORITHMS
def test_a_million_keys_stay_bounded(algorithm):
    """Each used once, over time: about twice as many are kept as are in use."""
    clock = ManualClock()
    limits = MemoryRateLimits(clock=clock)
    rate = Rate(1, 1.0, algorithm=algorithm)
    most = 0
    for n in range(1_000_000):
        assert limits.take(f"client-{n}", rate).allowed
        if n % 10 == 9:
            clock.advance(0.01)  # 1,000 new keys a second, of which each lives 1 s or 2 s.
            most = max(most, len(limits))
    assert most <= 4 * 1000 * 2 / 2 + 1000


@pytest.mark.slow
def test_a_million_keys_in_use_are_bounded_by_max_keys():
    limits = MemoryRateLimits(max_keys=100_000)
    rate = Rate(1, "1h")
    for n in range(1_000_000):
        limits.take(str(n), rate)
    assert len(limits) == 100_000
    assert not limits.take("999999", rate).allowed
    assert limits.take("0", rate).allowed, "the oldest was forgotten"


@ALGORITHMS
def test_few_are_kept_beyond_those_in_use(algorithm):
    clock = ManualClock()
    limits = MemoryRateLimits(max_keys=5, clock=clock)
    rate = Rate(1, 1.0, algorithm=algorithm)
    for n in range(7):
        limits.take(f"{n}", rate)
    assert len(limits) == 5
    assert not limits.take("6", rate).allowed
    clock.advance(10)
    for n in range(3):
        limits.take(f"later-{n}", rate)
    assert len(limits) == 3, "each new one looks at two old ones"


@ALGORITHMS
def test_keys_in_use_are_kept(algorithm):
    clock = ManualClock()
    limits = MemoryRateLimits(clock=clock)
    rate = Rate(10, 10.0, algorithm=algorithm)
    limits.take("busy", rate, 10)
    for n in range(1000):
        limits.take(f"other-{n}", rate)
    assert not limits.take("busy", rate).allowed


def test_threads_take_exactly_the_limit():
    limits = MemoryRateLimits()
    rate = Rate(1000, "1h")
    allowed = []

    def work():
        allowed.append(sum(limits.take("k", rate).allowed for _ in range(500)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) in (1000, 1001)  # One unit comes back in 3.6 s.


@ALGORITHMS
def test_setting_the_system_clock_back_or_forward_changes_nothing(algorithm):
    clock = ManualClock()
    limits = MemoryRateLimits(clock=clock)
    rate = Rate(2, 10.0, algorithm=algorithm)
    limits.take("k", rate, 2)
    for wall in (0.0, 4e9, 1_700_000_000.0):
        clock.set_wall(wall)
        denied = limits.take("k", rate)
        assert not denied.allowed
        assert denied.retry_after == (5.0 if algorithm == "gcra" else 15.0)


@ALGORITHMS
@given(
    limit=st.integers(1, 20),
    waits=st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.05, 0.3, 5.0]), max_size=80),
)
def test_the_quick_way_agrees_with_the_machine(algorithm, limit, waits):
    """Whatever passes by it would have passed, and leaves the same state; it never lets more."""
    clock = ManualClock()
    quick, slow = MemoryRateLimits(clock=clock), MemoryRateLimits(clock=clock)
    rate = Rate(limit, 1.0, algorithm=algorithm)
    passes = quick.gate(rate)
    for wait in waits:
        clock.advance(wait)
        decision = slow.take("k", rate)
        assert (passes("k") or quick.take("k", rate).allowed) == decision.allowed
        assert quick._full_at == slow._full_at
        assert quick._windows == slow._windows


def test_the_quick_way_is_taken():
    limits = MemoryRateLimits(clock=ManualClock())
    rate = Rate(3, 1.0)
    passes = limits.gate(rate)
    assert not passes("k"), "a new key is the machine's affair"
    limits.take("k", rate)
    assert [passes("k") for _ in range(3)] == [True, True, False]


def test_max_keys_is_checked():
    with pytest.raises(ConfigurationError, match="max_keys=0: must be a whole number, 1 or more"):
        MemoryRateLimits(max_keys=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 0}, "limit=0: must be a whole number, 1 or more"),
        ({"limit": 1.5}, "limit=1.5: must be a whole number"),
        ({"limit": 1, "per": 0}, "per=0: a duration must be finite and more than zero"),
        ({"limit": 1, "burst": 0}, "burst=0: must be a whole number, 1 or more"),
        ({"limit": 1, "algorithm": "leaky"}, "algorithm='leaky': choose"),
        ({"limit": 1, "burst": 2, "algorithm": "sliding_window"}, "burst=2: a sliding window has"),
        ({"limit": True}, "limit=True: must be a whole number"),
        ({"limit": 2**53 + 1, "per": "36500d"}, "limit=9.01e.15: can't be counted; at most"),
        ({"limit": 1, "burst": 2**53 + 1}, "burst=9.01e.15: can't be counted"),
        ({"limit": 1_000_001}, "limit=1000001 per 1.0: more than 1,000,000 a second"),
        ({"limit": 3_000_000, "per": "2s"}, "limit=3000000 per '2s': more than 1,000,000 a second"),
    ],
)
def test_a_bad_rate_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        Rate(**given)


def test_what_a_rate_comes_to():
    rate = Rate(4, "2s", burst=6)
    assert (rate.window, rate.interval, rate.capacity, rate.refill) == (2.0, 0.5, 6, 3.0)
    rate = Rate(4, "2s", algorithm="sliding_window")
    assert (rate.window, rate.interval, rate.capacity, rate.refill) == (2.0, 0.5, 4, 2.0)
    assert Rate(1_000_000).interval == 1e-6
    assert Rate(1, burst=2**53).capacity == 2**53
    assert [bool(Decision(allowed, 0, 0.0, 0.0)) for allowed in (True, False)] == [True, False]
