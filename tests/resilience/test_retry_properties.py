"""Retry against a model: however it is set, its calls, waits and outcome follow the rules."""

from hypothesis import given
from hypothesis import strategies as st

from standfast.resilience import Constant, Retry, RetryBudget, within
from standfast.resilience.budget import is_marked
from standfast.testing import ManualClock

# Eighths of a second, so that sums of floats are exact.
eighths = st.integers(1, 80).map(lambda n: n / 8)


class Fatal(Exception): ...


@given(
    attempts=st.none() | st.integers(1, 8),
    total=st.none() | eighths,
    deadline=st.none() | eighths,
    delay=eighths,
    tokens=st.none() | st.integers(1, 8),
    script=st.lists(st.tuples(st.sampled_from(["bad", "fine", "fatal", "unwanted"]), eighths)),
)
def test_a_retry_follows_its_rules(attempts, total, deadline, delay, tokens, script):
    clock = ManualClock()
    budget = None if tokens is None else RetryBudget(0, per_second=0, burst=tokens, clock=clock)
    retry = Retry(
        attempts,
        Constant(delay),
        total=total,
        never_on=(Fatal,),
        on_result=lambda answer: answer == "unwanted",
        budget=budget,
        clock=clock,
    )
    outcomes = iter(script)
    starts = []

    def call():
        starts.append(clock.monotonic())
        what, lasts = next(outcomes, ("fine", 0.125))
        clock.advance(lasts)
        if what == "bad":
            raise OSError
        if what == "fatal":
            raise Fatal
        return what

    # The model: walk through the script by the rules.
    now, wanted, left, ended = 0.0, [], tokens, ""
    for what, lasts in [*script, ("fine", 0.125)]:
        wanted.append(now)
        now += lasts
        if what in ("fine", "fatal"):
            ended = what
            break
        out_of_attempts = attempts is not None and len(wanted) >= attempts
        out_of_time = total is not None and now + delay > total
        too_late = deadline is not None and now + delay >= deadline
        if out_of_attempts or out_of_time or too_late or left == 0:
            ended = f"{what}, exhausted"
            break
        left = None if left is None else left - 1
        now += delay

    marked = False
    try:
        if deadline is None:
            told = retry.call(call)
        else:
            with within(deadline, clock=clock):
                told = retry.call(call)
        if told == "unwanted":
            told = "unwanted, exhausted"
    except Fatal as error:
        told, marked = "fatal", is_marked(error)
    except OSError as error:
        told, marked = "bad, exhausted", is_marked(error)
    assert starts == wanted
    assert told == ended
    assert marked == (told == "bad, exhausted" and attempts != 1)
    assert clock.slept == [delay] * (len(wanted) - 1)
    assert retry.counts.retries == len(wanted) - 1
    assert retry.counts.exhausted == ended.endswith("exhausted")
    assert retry.counts.succeeded == (ended == "fine")
    assert retry.counts.failed == (ended != "fine")
    if budget is not None:
        assert budget.left() == left
