"""The pure permits against a naive model: a list of holders and a list of waiters."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from standfast.resilience.bulkhead.machine import Permits, place_call


class PermitsModel(RuleBasedStateMachine):
    PLACES = 4

    def __init__(self) -> None:
        super().__init__()
        self.permits: Permits[object] = Permits(2, self.PLACES)
        self.limit, self.holders = 2, 0
        self.waiting: list[object] = []

    @rule()
    def call(self) -> None:
        waiter = object()
        taken = self.permits.take()
        assert taken is (self.holders < self.limit)
        if taken:
            self.holders += 1
        else:
            queued = self.permits.wait(waiter)
            assert queued is (len(self.waiting) < self.PLACES)
            if queued:
                self.waiting.append(waiter)

    @precondition(lambda self: self.holders)
    @rule()
    def release(self) -> None:
        served = self.permits.release(0.0)
        self.holders -= 1
        expected = None
        if self.waiting and self.holders < self.limit:
            expected = self.waiting.pop(0)
            self.holders += 1
        assert served is expected

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        assert self.permits.withdraw(waiter)
        assert not self.permits.withdraw(waiter)
        self.waiting.remove(waiter)

    @rule(limit=st.integers(1, 5))
    def resize(self, limit: int) -> None:
        self.limit = limit
        expected = []
        while self.waiting and self.holders < limit:
            expected.append(self.waiting.pop(0))
            self.holders += 1
        assert self.permits.resize(limit) == expected

    @invariant()
    def agree(self) -> None:
        assert self.permits.active == self.holders
        assert list(self.permits.waiting) == self.waiting
        assert not self.waiting or self.holders >= self.limit, "nobody waits beside a free permit"


TestPermitsModel = PermitsModel.TestCase
TestPermitsModel.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_the_estimate_is_the_mean_gap_between_releases_times_those_ahead() -> None:
    permits: Permits[object] = Permits(2)
    assert permits.estimate(5.0) is None
    permits.take()
    permits.take()
    permits.filled(10.0)
    permits.wait(object())
    permits.wait(object())
    permits.release(11.0)
    permits.release(12.0)
    permits.wait(object())
    assert permits.estimate(12.0) == 2.0, "one release a second, one waiter ahead"


def test_a_pool_fills_core_threads_then_the_queue_then_more_threads() -> None:
    limits = {"core": 2, "maximum": 4, "capacity": 3}
    assert place_call(threads=1, idle=0, queued=0, **limits) == "thread"
    assert place_call(threads=1, idle=1, queued=0, **limits) == "queue"
    assert place_call(threads=2, idle=0, queued=2, **limits) == "queue"
    assert place_call(threads=2, idle=0, queued=3, **limits) == "thread"
    assert place_call(threads=4, idle=0, queued=3, **limits) == "reject"
    assert place_call(threads=4, idle=1, queued=3, **limits) == "queue"
