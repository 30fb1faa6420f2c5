"""How a service stands: every event in every state, and a model of it that Hypothesis walks."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from standfast.coordination.lifecycle import (
    STEADY_AFTER,
    ServiceEvent,
    ServiceState,
    ServiceStatus,
    after,
)
from standfast.errors import ConfigurationError

STATES = get_args(ServiceState)
EVENTS = get_args(ServiceEvent)

# What each event makes of each state; "-" can't be.
TABLE = """
              begin     stand_by     ready    lost        fail        drain     end
starting      starting  standing_by  running  restarting  restarting  draining  stopped
standing_by   starting  -            -        restarting  restarting  draining  stopped
running       -         -            -        restarting  restarting  draining  stopped
restarting    starting  standing_by  -        restarting  restarting  draining  stopped
draining      -         -            draining  stopped     stopped     -         stopped
stopped       -         -            -        -           -           -         -
"""


def table() -> dict[tuple[str, str], str]:
    heads, *rows = (line.split() for line in TABLE.strip().splitlines())
    return {
        (row[0], event): state for row in rows for event, state in zip(heads, row[1:], strict=True)
    }


NEXT = table()
SOUND = {pair: state for pair, state in NEXT.items() if state != "-"}


def status(state: ServiceState, **fields: object) -> ServiceStatus:
    return ServiceStatus("relay", state, 100.0, **fields)  # type: ignore[arg-type]


def test_the_table_has_every_event_in_every_state():
    assert NEXT.keys() == {(state, event) for state in STATES for event in EVENTS}


@pytest.mark.parametrize(("state", "event"), NEXT)
def test_an_event_in_a_state(state: ServiceState, event: ServiceEvent):
    before = status(state, restarts=3, failures=2, error="OSError: full")
    if NEXT[state, event] == "-":
        with pytest.raises(ConfigurationError, match=f"'relay' is {state}: '{event}' can't be"):
            after(before, event, 200.0)
        return
    found = after(before, event, 200.0, error="ValueError: odd")
    assert found.name == "relay"
    assert found.state == NEXT[state, event]
    assert found.since == (100.0 if found.state == state else 200.0)
    again = state == "restarting" and event == "begin"
    assert found.restarts == (4 if again else 3)
    if event == "fail":
        assert found.failures == (1 if state == "running" else 3), "after 100 s it ran steadily"
    else:
        assert found.failures == 2
    assert found.error == ("ValueError: odd" if event == "fail" else "OSError: full")
    assert before == status(state, restarts=3, failures=2, error="OSError: full"), "it is a value"


@pytest.mark.parametrize(("ran", "failures"), [(0.0, 3), (59.0, 3), (60.0, 1), (999.0, 1)])
def test_what_ran_steadily_fails_for_the_first_time(ran: float, failures: int):
    assert after(status("running", failures=2), "fail", 100.0 + ran).failures == failures


@pytest.mark.parametrize("state", STATES)
def test_up_is_what_works_or_waits_its_turn(state: ServiceState):
    assert status(state).is_up == (state in {"running", "standing_by"})


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
@settings(deadline=None)
def test_from_the_start_whatever_comes(events: list[ServiceEvent]):
    """What is refused changes nothing, and the counts are those of the events that were taken."""
    current, began, failed, in_a_row = status("starting"), 0, 0, 0
    for now, event in enumerate(events, 200):
        if (current.state, event) not in SOUND:
            with pytest.raises(ConfigurationError):
                after(current, event, float(now))
            continue
        began += current.state == "restarting" and event == "begin"
        failed += event == "fail"
        in_a_row += event == "fail"  # it never runs for long enough to be sound
        current = after(current, event, float(now), error=f"error {failed}")
        assert (current.restarts, current.failures) == (began, in_a_row)
        assert current.error == (f"error {failed}" if failed else "")


class Life(RuleBasedStateMachine):
    """A service as its process treats it: which states can be reached, and whence."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.status = status("starting")
        self.seen: list[ServiceStatus] = [self.status]

    @rule(event=st.sampled_from(EVENTS), passed=st.floats(0.0, 40.0))
    def happens(self, event: ServiceEvent, passed: float) -> None:
        self.now += passed
        try:
            self.status = after(self.status, event, self.now, error=f"at {self.now}")
        except ConfigurationError:
            assert (self.status.state, event) not in SOUND
        else:
            self.seen.append(self.status)

    @invariant()
    def an_end_is_an_end(self) -> None:
        states = [one.state for one in self.seen]
        if "stopped" in states:
            assert set(states[states.index("stopped") :]) == {"stopped"}
        if "draining" in states:
            assert set(states[states.index("draining") :]) <= {"draining", "stopped"}

    @invariant()
    def it_runs_only_after_it_was_begun(self) -> None:
        for before, now in zip(self.seen, self.seen[1:], strict=False):
            if now.state == "running":
                assert before.state in {"starting", "running"}

    @invariant()
    def since_tells_when_it_came_to_this(self) -> None:
        came = next((one for one in reversed(self.seen) if one.state != self.status.state), None)
        assert self.status.since <= self.now
        if came is not None:
            assert self.status.since >= came.since

    @invariant()
    def counts_only_grow_until_it_ran_steadily(self) -> None:
        for before, now in zip(self.seen, self.seen[1:], strict=False):
            assert 0 <= now.restarts - before.restarts <= 1
            steady = before.state == "running" and now.since - before.since >= STEADY_AFTER
            assert now.failures >= before.failures or (steady and now.failures == 1)
            assert now.error or not before.error


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
