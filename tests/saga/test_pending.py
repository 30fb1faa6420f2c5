"""What an instance does or waits for, by its journal."""

from typing import Any
from uuid import UUID

import msgspec
import pytest

from standfast import Context, Saga, child, step, wait
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.pending import AT_ONCE, in_short, pending
from standfast.saga.plan import Plan, StepPlan
from standfast.saga.registry import JSON
from standfast.saga.state import SagaState

NULL = msgspec.Raw(b"null")


class Part(Saga[int]):
    @step(no_compensation="nothing to undo")
    async def do(self, input: int, ctx: Context) -> None: ...


class Whole(Saga[int]):
    @step
    async def pay(self, input: int, ctx: Context) -> None: ...

    @pay.compensation
    async def refund(self, input: int, ctx: Context) -> None: ...

    @step(after="pay", each=lambda saga, order, ctx: range(5), no_compensation="nothing to undo")
    async def pack(self, order: int, ctx: Context, item: int) -> None: ...

    part = child(Part, lambda saga, order, ctx: 1, after="pay")
    approval = wait("approved", timeout="1h", after="pay")


ID, CHILD = new_id(), new_id()
STARTED = fx.Started(at=100.0, input=NULL, version=1, key="k", correlation_id="k")
PAID = fx.StepCompleted(at=110.0, branch="pay")


def seen(*facts: fx.AnyFact, now: float = 120.0, **options: Any):
    state = SagaState(ID, Definition(Whole(), JSON).plan)
    for fact in (STARTED, *facts):
        state.apply(fact)
    return pending(state, now=now, **options)


def test_the_first_attempt_runs_on_its_worker_or_is_due():
    (one,) = seen(worker="host:1")
    assert (one.kind, one.branch, one.attempt, one.since, one.worker) == (
        "attempt",
        "pay",
        1,
        100.0,
        "host:1",
    )
    assert one.told(120.0) == "pay: attempt 1 runs for 20s on host:1"
    (one,) = seen()
    assert one.told(120.0) == "pay: attempt 1 is due for 20s"
    (one,) = seen(wake_at=500.0)
    assert (one.kind, one.until) == ("time", 500.0)


def test_a_retry_is_told_with_its_time_and_why():
    failed = fx.AttemptFailed(
        at=110.0, branch="pay", attempt=2, error="OSError:\naway", retry_at=150.0, since=100.0
    )
    (one,) = seen(failed, worker="host:1")
    assert (one.kind, one.until, one.attempt, one.error) == ("retry", 150.0, 3, "OSError:\naway")
    assert one.told(120.0) == "pay: attempt 3 in 30s, after OSError: away"
    (one,) = seen(failed, worker="host:1", now=160.0)
    assert (one.kind, one.since) == ("attempt", 150.0)
    assert one.told(160.0) == "pay: attempt 3 runs for 10s on host:1, after OSError: away"


TAKEN = "3 of max_in_flight=3 are taken"


def test_what_is_due_and_has_no_slot_waits_for_one():
    (one,) = seen(full=TAKEN)
    assert (one.kind, one.slots, one.since, one.attempt) == ("slot", TAKEN, 100.0, 1)
    assert one.told(120.0) == f"pay: waits for a slot for 20s: {TAKEN}"
    assert one.as_json()["slots"] == TAKEN
    failed = fx.AttemptFailed(
        at=101.0, branch="pay", attempt=1, error="away", retry_at=110.0, since=100.0
    )
    (one,) = seen(failed, full=TAKEN)
    assert one.told(120.0) == f"pay: waits for a slot for 10s: {TAKEN}, after away"
    (undo,) = seen(PAID, fx.CompensationStarted(at=115.0, cause="cancelled"), full=TAKEN)
    assert undo.told(120.0) == f"undo of pay: waits for a slot: {TAKEN}"


def test_what_would_wait_anyhow_isnt_told_to_wait_for_a_slot():
    found = {one.branch: one.kind for one in seen(PAID, full=TAKEN)}
    assert found == {"approval": "signal", "pack": "slot", "part": "slot"}


def test_waits_children_and_items_are_told_together():
    facts = [
        PAID,
        fx.FannedOut(at=111.0, branch="pack", items=[NULL] * 5),
        fx.ChildStarted(at=112.0, branch="part", child=CHILD),
        fx.StepCompleted(at=113.0, branch="pack[0]"),
    ]
    found = {one.branch: one for one in seen(*facts, worker="w")}
    assert set(found) == {"part", "approval", "pack[1]", "pack[2]", "pack[3]", "pack[4]"}
    assert (found["approval"].signal, found["approval"].since) == ("approved", 110.0)
    assert found["approval"].until == 110.0 + 3600
    told = found["approval"].told(120.0)
    assert told == "approval: waits for signal 'approved' for 10s, until 1970-01-01 01:01:50Z"
    assert found["part"].child == CHILD
    assert found["part"].as_json()["child"] == str(CHILD)
    line = in_short(list(found.values()), 120.0)
    assert line.count(";") == AT_ONCE
    assert line.endswith("; and 3 more")


@pytest.mark.parametrize("worker", ["", "w"])
def test_undoing_is_told(worker):
    began = [PAID, fx.CompensationStarted(at=115.0, cause="cancelled")]
    (one,) = seen(*began, worker=worker)
    assert (one.kind, one.branch, one.operation) == ("attempt", "pay", "compensation")
    failed = fx.CompensationAttemptFailed(
        at=116.0, branch="pay", attempt=1, error="away", retry_at=130.0, since=115.0
    )
    (one,) = seen(*began, failed, worker=worker)
    assert one.told(120.0) == "undo of pay: attempt 2 in 10s, after away"
    gone = fx.CompensationFailed(at=131.0, branch="pay", error="away", attempt=2)
    (one,) = seen(*began, failed, gone, worker=worker)
    assert (one.kind, one.told(120.0)) == (
        "operator",
        "undo of pay: waits for an operator, after away",
    )
    undone = fx.CompensationCompleted(at=132.0, branch="pay")
    assert seen(*began, undone) == []


def test_a_child_that_was_asked_to_undo_itself_is_waited_for():
    (one,) = seen(
        PAID,
        fx.ChildStarted(at=112.0, branch="part", child=CHILD),
        fx.StepCompleted(at=113.0, branch="part", result=NULL),
        fx.CompensationStarted(at=115.0, cause="cancelled"),
        fx.ChildUndoRequested(at=116.0, branch="part"),
        worker="w",
    )[:1]
    assert (one.kind, one.branch, one.operation) == ("child", "part", "compensation")
    assert one.told(120.0) == f"undo of part: waits for saga {CHILD}"


def test_what_is_parked_waits_for_an_operator():
    (one,) = seen(fx.StepParked(at=110.0, branch="pay", error="[red]\x1b away", attempt=3))
    assert one.told(120.0) == "pay: waits for an operator, after [red]\\x1b away"


def test_a_sleep_and_a_start_that_is_delayed_wait_for_a_time():
    plan = Plan("nap", 1, [StepPlan("nap", form="sleep", duration=60.0)])
    for begins_at, told in ((None, [("time", "nap", 1060.0)]), (1500.0, [("time", "", 1500.0)])):
        machine = Machine(UUID(int=1), plan)
        machine.apply(
            fx.Started(
                at=1000.0,
                input=msgspec.Raw(b"null"),
                version=1,
                key="k",
                correlation_id="k",
                begins_at=begins_at,
            )
        )
        machine.handle(ev.Tick(), 1000.0)
        found = pending(machine, now=1000.0)
        assert [(one.kind, one.branch, one.until) for one in found] == told
        # What is over and has no slot waits for one from then on.
        ((_, branch, until),) = told
        assert pending(machine, now=until - 1, full=TAKEN) == found
        for late in (0.0, 5.0):
            (one,) = pending(machine, now=until + late, full=TAKEN)
            assert (one.kind, one.branch, one.since, one.until) == ("slot", branch, until, None)
    assert one.told(1505.0) == f"its beginning: waits for a slot for 5s: {TAKEN}"


class Fleet(Saga[int]):
    ships = child(Part, lambda self, n, ctx, item: item, each=lambda self, n, ctx: n, limit=2)


def test_a_child_that_has_no_room_yet_isnt_told():
    """Nothing goes on there, and no attempt is due."""
    state = SagaState(ID, Definition(Fleet(), JSON).plan)
    other = new_id()
    for fact in (
        STARTED,
        fx.FannedOut(at=111.0, branch="ships", items=[NULL] * 5),
        fx.ChildStarted(at=112.0, branch="ships[0]", child=CHILD),
        fx.ChildStarted(at=112.0, branch="ships[1]", child=other),
    ):
        state.apply(fact)
    found = pending(state, now=120.0, worker="w")
    assert [(one.kind, one.branch, one.child) for one in found] == [
        ("child", "ships[0]", CHILD),
        ("child", "ships[1]", other),
    ]
