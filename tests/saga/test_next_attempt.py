"""Whether another attempt follows on one that failed, and when."""

import math
from typing import Any
from uuid import UUID

import pytest

from standfast import Constant, Context, Retry, Saga, step
from standfast.errors import BulkheadFull, CircuitOpen, RateLimited
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.machine import Machine
from standfast.saga.next_attempt import PATIENCE, next_attempt
from standfast.saga.plan import Plan, StepPlan
from standfast.saga.step import DURABLE_RETRY
from standfast.testing import run_saga
from tests.saga.engine.world import Order, Trip, World


def following(failed: ev.Failed | ev.UndoFailed, policy: Retry, **options: Any) -> Any:
    given = {"attempt": 1, "forgiven": 0, "elapsed": 0.0, "previous": 0.0, "random": 0.5}
    return next_attempt(failed, policy, **{**given, **options})


def failed(**options: Any) -> ev.Failed:
    return ev.Failed("a", "down", **options)


def test_a_wait_that_is_asked_for_never_shortens_the_backoff():
    ten = Retry(backoff=Constant(10))
    assert following(failed(retry_after=1), ten).delay == 10
    assert following(failed(retry_after=30), ten).delay == 30
    assert following(ev.UndoFailed("a", "down", retry_after=1), ten).delay == 10
    assert following(failed(rejected=True, retry_after=1), ten).delay == 10


def test_a_wait_that_is_too_long_ends_an_action_and_shortens_itself_for_an_undo():
    answer = following(failed(retry_after=61), Retry(backoff=Constant(1)))
    assert answer.delay is None
    assert answer.why == " (asked to wait 1m1s, max_retry_after=1m)"
    undo = following(ev.UndoFailed("a", "down", retry_after=61), Retry(backoff=Constant(1)))
    assert undo.delay == 60


@pytest.mark.parametrize("kind", [ev.Failed, ev.UndoFailed])
def test_a_rejection_costs_nothing_and_waits_as_long_as_it_was_told(kind):
    once = Retry(attempts=1, backoff=Constant(1))
    answer = following(kind("a", "open", rejected=True, retry_after=600), once, attempt=7)
    assert (answer.delay, answer.rejected) == (600, True)


def test_rejections_are_ever_further_apart_whatever_they_ask_and_the_policy_says():
    """Each is told in the journal: an hour of them must not be a hundred thousand facts."""
    hasty = Retry(backoff=Constant(0.001))
    waits = [
        following(
            failed(rejected=True, retry_after=0.01), hasty, attempt=n + 1, forgiven=n, random=0.0
        ).delay
        for n in (0, 3, 20)
    ]
    assert waits == [0.05, 0.4, 15]
    slow = Retry(backoff=Constant(20))
    assert following(failed(rejected=True), slow, random=0.0).delay == 20


def test_rejections_cost_attempts_after_an_hour_so_that_they_end_some_time():
    policy = Retry(attempts=3, backoff=Constant(10))
    late = {"elapsed": PATIENCE - 5, "attempt": 101, "forgiven": 100}
    assert following(failed(rejected=True), policy, **late) == (10, False, "")
    assert following(failed(rejected=True), policy, **{**late, "attempt": 103}).delay is None
    assert following(failed(rejected=True, retry_after=2 * PATIENCE), policy).delay is None


def test_a_total_of_the_users_bounds_rejections_too():
    policy = Retry(total="1m", backoff=Constant(10))
    assert following(failed(rejected=True), policy, elapsed=40).rejected
    assert following(failed(rejected=True), policy, elapsed=55).delay is None


def test_what_isnt_retriable_isnt_put_off_either():
    assert following(failed(rejected=True, retriable=False), Retry()).delay is None


@pytest.mark.parametrize("answer", [math.nan, math.inf, -1.0, ValueError("?")])
def test_a_backoff_that_is_no_time_is_replaced(answer):
    class Broken:
        def delay(self, attempt: int, previous: float, random: float) -> float:
            if isinstance(answer, Exception):
                raise answer
            return answer

    for rejected in (False, True):
        delay = following(failed(rejected=rejected), Retry(backoff=Broken())).delay
        assert 0 <= delay < 60
    assert following(failed(), Retry(attempts=1, backoff=Broken())).delay is None


def test_the_default_lasts_through_an_outage_of_five_minutes_at_any_luck():
    """As the documentation says: from five to eleven minutes."""

    def lasts(random: float) -> float:
        elapsed, previous, attempt = 0.0, 0.0, 1
        while True:
            options = {"attempt": attempt, "elapsed": elapsed, "previous": previous}
            delay = following(failed(), DURABLE_RETRY, **options, random=random).delay
            if delay is None:
                return elapsed
            elapsed, previous, attempt = elapsed + delay, delay, attempt + 1

    assert lasts(0.0) > 300
    assert lasts(0.999999) < 11 * 60


def test_the_fold_forgives_what_was_rejected_and_what_wasnt_counts():
    retry = Retry(attempts=2, backoff=Constant(1))
    plan = Plan("p", 1, [StepPlan("a", retry=retry, no_compensation="a test")])
    machine = Machine(UUID(int=1), plan)
    started = fx.Started(at=0.0, input=fx.EMPTY, version=1, key="k", correlation_id="k")
    machine.apply(started)
    now = 0.0
    facts: list[fx.Fact] = []
    for rejected in (True, True, False, True, False):
        (command,) = machine.commands(now)
        facts += machine.handle(failed(rejected=rejected), now)
        assert command.branch.id == "a"
        now += 5
    kinds = [(type(fact).__name__, getattr(fact, "rejected", None)) for fact in facts[:5]]
    assert kinds == [
        ("AttemptFailed", True),
        ("AttemptFailed", True),
        ("AttemptFailed", False),
        ("AttemptFailed", True),
        ("StepFailed", None),
    ]
    again = [fx.decode(fx.encode(fact), 1) for fact in facts]
    assert again == facts


@pytest.mark.parametrize("error", [CircuitOpen("open"), RateLimited("limit"), BulkheadFull("full")])
@pytest.mark.parametrize("name", ["charge", "undo charge"])
def test_rejections_are_outlasted_in_steps_and_undos(name, error):
    """`Trip` tries three times; here are ten rejections of 30 s each."""
    error.retry_after = 30.0
    raises: dict[str, Any] = {name: [error] * 10}
    if name != "charge":
        raises["note"] = [OSError("down")] * 3
    run = run_saga(Trip(World()), Order("1"), raises=raises)
    assert run.status == ("completed" if name == "charge" else "compensated")
    assert run.trace.count(f"{name} failed") == 10
    assert 300 <= run.time < 320


def test_rejections_for_ever_end_by_themselves():
    run = run_saga(Trip(World()), Order("1"), raises={"charge": CircuitOpen})
    assert run.status == "compensated"
    assert run.cause == "charge failed: CircuitOpen: told to"
    assert PATIENCE - 60 < run.time < PATIENCE + 60
    assert run.trace.count("charge failed") < 300


def test_ones_that_a_narrow_policy_names_none_of_arent_put_off():
    class Narrow(Saga[Order]):
        @step(no_compensation="a test", retry=Retry(on=(ConnectionError,)))
        async def only(self, order: Order, ctx: Context) -> None: ...

    run = run_saga(Narrow(), Order("1"), raises={"only": CircuitOpen})
    assert run.trace == ["only failed"]
