"""Attempts are counted over everything that may happen in between."""

from uuid import uuid4

import msgspec
import pytest

from standfast import Retry
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.machine import Machine, Undo
from standfast.saga.plan import Plan, StepPlan

RAW = msgspec.Raw(b"1")


@pytest.mark.parametrize("undo", [True, False])
@pytest.mark.parametrize("end", [ev.Succeeded("pay", RAW), ev.Failed("pay", "away")])
def test_an_attempt_in_flight_keeps_its_number_when_a_cancel_comes(undo, end):
    nothing = "" if undo else "it has no effect"
    step = StepPlan("pay", undo=undo, no_compensation=nothing, retry=Retry(attempts=9))
    other = StepPlan("other", undo=True)  # so that the saga is still there to hear of the end
    machine = Machine(uuid4(), Plan("shop", 1, [step, other]))
    machine.apply(fx.Started(at=0, input=RAW, version=1, key="k", correlation_id="k"))
    machine.commands(0)
    machine.handle(ev.Succeeded("other", RAW), 0)
    for attempt in (1, 2):
        machine.commands(100 * attempt)
        (failed,) = machine.handle(ev.Failed("pay", "away"), 100 * attempt)
        assert failed.attempt == attempt
    machine.commands(300)
    machine.handle(ev.CancelAsked("enough", ""), 300)
    (ended,) = machine.handle(end, 301)
    assert ended.attempt == 3
    undos = machine.commands(301)
    assert [(type(u), u.attempt) for u in undos] == [(Undo, 1)] * (1 + undo)
