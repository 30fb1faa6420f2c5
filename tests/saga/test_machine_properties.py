"""Random plans, random events in random order, crashes at any point: what must hold always."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from standfast.resilience import backoff, retry
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.machine import Machine, Resolve, Run, Undo
from standfast.saga.plan import Plan, StepPlan
from standfast.saga.state import STATUSES, replay

MAX = 150
ID = UUID(int=7)
T0 = 1_000_000.0


def _retry(attempts: int, total: float | None = None) -> retry.Retry:
    return retry.Retry(attempts=attempts, backoff=backoff.Constant(2.0), total=total)


@st.composite
def _step(draw: Any, index: int, before: list[str], past_pivot: bool) -> StepPlan:
    name = f"s{index}"
    if past_pivot and "pivot" not in before:
        before = ["pivot", *before]
    after = draw(st.lists(st.sampled_from(before), unique=True, max_size=3)) if before else []
    if past_pivot and "pivot" not in after:
        after = ["pivot", *after]
    kind = draw(st.sampled_from(["action", "action", "action", "wait", "child"]))
    forward = past_pivot
    common: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "after": tuple(after),
        "conditional": draw(st.booleans()) and draw(st.booleans()),
        "on_exhausted": "park" if forward or draw(st.booleans()) else "compensate",
    }
    if kind == "wait":
        return StepPlan(
            **common,
            signal=draw(st.sampled_from(["a", "b"])),
            timeout=draw(st.sampled_from([None, 5.0])),
            on_timeout=draw(
                st.sampled_from(["park", "continue"] + ([] if forward else ["compensate"]))
            ),
        )
    if kind == "child":
        return StepPlan(**common, no_compensation=draw(st.sampled_from(["", "why not"])))
    fans_out = draw(st.booleans()) and draw(st.booleans())
    undo = not forward and draw(st.sampled_from([True, True, False]))
    return StepPlan(
        **common,
        fans_out=fans_out,
        limit=draw(st.sampled_from([None, 1, 2])) if fans_out else None,
        retry=_retry(draw(st.integers(1, 3)), draw(st.sampled_from([None, 3.0]))),
        undo=undo,
        no_compensation="" if undo else "none needed",
        undo_retry=_retry(draw(st.integers(1, 2))),
    )


@st.composite
def plans(draw: Any) -> Plan:
    steps: list[StepPlan] = []
    for index in range(draw(st.integers(0, 4))):
        steps.append(draw(_step(index, [s.name for s in steps], False)))
    if draw(st.booleans()) or not steps:
        before = tuple(s.name for s in steps)
        steps.append(
            StepPlan(
                "pivot",
                after=before,
                pivot=True,
                on_exhausted="park",
                conditional=draw(st.booleans()),
                retry=_retry(draw(st.integers(1, 2))),
            )
        )
        past: list[str] = []
        for index in range(10, 10 + draw(st.integers(0, 2))):
            steps.append(draw(_step(index, past, True)))
            past.append(f"s{index}")
    return Plan("random", 1, steps, draw(st.sampled_from([None, None, 12.0])))


def shape(machine: Machine) -> dict[str, Any]:
    """All that is in the journal, read off a machine."""
    branch_parts = (
        "state",
        "undo",
        "attempt",
        "forgiven",
        "retry_at",
        "delay",
        "error",
        "result",
        "completed_at",
        "opened_at",
        "child",
        "asked_child",
        "unsettled_items",
    )
    return {
        "branches": {
            b.id: {p: getattr(b, p) for p in branch_parts} for b in machine.branches.values()
        },
        "open": list(machine.open),
        "signals": machine.signals,
        "outcome": machine.outcome,
        "undoing": machine.undoing,
        "closing": machine.closing,
        "unsettled": machine.unsettled,
        "waiting_for": machine.waiting_for,
        "cause": machine.cause,
        "failed_step": machine.failed_step,
        "cancel": machine.cancel,
        "sequence": machine.sequence,
    }


class SagaRules(RuleBasedStateMachine):
    @initialize(plan=plans())
    def begin(self, plan: Plan) -> None:
        note("\n".join(map(str, plan.steps.values())))
        self.plan = plan
        self.now = T0
        self.journal: list[str] = []
        self.busy: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.effects: set[str] = set()
        self.ran: set[str] = set()
        self.refused: set[str] = set()
        self.excused: set[str] = set()
        self.by_hand = False
        self.forced = False
        self.ended = ""
        self.machine = Machine(ID, plan)
        deadline = None if plan.deadline is None else T0 + plan.deadline
        started = fx.Started(
            at=T0,
            input=msgspec.Raw(b"1"),
            version=1,
            key="k",
            correlation_id="c",
            deadline_at=deadline,
        )
        self.machine.apply(started)
        self.journal.append(fx.encode(started))
        self.tell(ev.Tick())

    # -- the world ---------------------------------------------------------------------------

    def tell(self, event: ev.Event, random: float = 0.5) -> list[fx.Fact]:
        was_past_pivot = self.machine.past_pivot
        before = self.machine.outcome
        facts = self.machine.handle(event, self.now, random)
        note(f"{self.now - T0:g}: {event} -> {facts}")
        for fact in facts:
            text = fx.encode(fact)
            assert fx.decode(text, 1) == fact
            self.journal.append(text)
            if isinstance(fact, fx.CompensationStarted):
                assert not was_past_pivot, "compensation began past the pivot"
            elif isinstance(fact, fx.CompensationSkipped):
                self.excused.add(fact.branch)
            elif isinstance(fact, fx.Resolved):
                self.by_hand = True
            elif isinstance(fact, fx.ChildStarted):
                self.effects.add(fact.branch)
                self.ran.add(fact.branch)
        if before and self.machine.outcome != before:
            assert isinstance(event, ev.UndoAsked), "a terminal state was left"
            assert before == "completed"
            self.by_hand = False
        return facts

    def replica(self) -> Machine:
        copy = Machine(ID, self.plan)
        replay(copy, [fx.decode(text, n) for n, text in enumerate(self.journal)])
        return copy

    def answer(self, branch: Any, data: st.DataObject) -> ev.Answered:
        """The definition always answers alike, as it must."""
        if branch.id not in self.answers:
            if branch.step.conditional and data.draw(st.booleans()):
                self.answers[branch.id] = "skip"
            elif branch.step.fans_out:
                self.answers[branch.id] = data.draw(st.integers(0, 3))
            else:
                self.answers[branch.id] = "go"
        found = self.answers[branch.id]
        if found == "skip":
            return ev.Answered(branch.id, skip=True)
        if found == "go":
            return ev.Answered(branch.id)
        return ev.Answered(branch.id, items=[msgspec.Raw(b"%d" % i) for i in range(found)])

    # -- rules -------------------------------------------------------------------------------

    @rule()
    def carry_on(self) -> None:
        machine = self.machine
        for command in machine.commands(self.now):
            branch = command.branch
            assert branch.id not in self.busy, "commanded while it runs"
            self.busy[branch.id] = command
            if isinstance(command, Undo):
                below = self.plan.descendants[branch.step.name]
                for other in machine.branches.values():
                    if other.step.name in below:
                        assert other.undo not in ("due", "failed"), f"{branch.id} before {other.id}"
                        assert not isinstance(self.busy.get(other.id), Run)
                assert branch.id in self.ran, "undone, but never ran"
                assert branch.id not in self.refused, "undone, but refused"
            else:
                for name in branch.step.after:
                    assert machine.branches[name].state in ("completed", "skipped")
                if isinstance(command, Run):
                    assert branch.step.kind == "action"
                    self.ran.add(branch.id)
                    self.refused.discard(branch.id)
                    if branch.step.limit is not None:
                        same = [c for c in self.busy.values() if c.branch.step is branch.step]
                        assert len(same) <= branch.step.limit
        wake_at = machine.wake_at()
        assert wake_at is None or wake_at > self.now or self.overdue(), "would spin"

    def overdue(self) -> bool:
        """Whether time has passed that the machine wasn't told of."""
        return bool(self.tell(ev.Tick()))

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.busy)))
        command = self.busy.pop(name)
        if isinstance(command, Resolve):
            self.tell(self.answer(command.branch, data))
        elif isinstance(command, Undo):
            if command.branch.step.kind == "child":
                self.tell(ev.Undone(name))
            elif data.draw(st.booleans()):
                self.effects.discard(name)
                self.tell(ev.Undone(name))
            else:
                self.tell(ev.UndoFailed(name, "undo broke", data.draw(st.booleans())))
        else:
            how = data.draw(st.sampled_from(["ok", "ok", "unknown", "fatal", "refused"]))
            if how == "refused" and name in self.effects:
                how = "ok"  # an honest participant refuses only what it hasn't done
            if how == "refused":
                self.refused.add(name)
                self.tell(ev.Failed(name, "no", refused=True))
            elif how == "ok":
                self.effects.add(name)
                self.tell(ev.Succeeded(name, msgspec.Raw(b'"r"')))
            else:
                if data.draw(st.booleans()):
                    self.effects.add(name)
                after = data.draw(st.sampled_from([0.0, 7.0]))
                event = ev.Failed(name, "broke", retriable=how == "unknown", retry_after=after)
                self.tell(event, data.draw(st.floats(0, 0.99)))

    @rule(data=st.data())
    def pass_time(self, data: st.DataObject) -> None:
        wake_at = self.machine.wake_at()
        if wake_at is not None and data.draw(st.booleans()):
            self.now = max(self.now, wake_at)
        else:
            self.now += data.draw(st.sampled_from([0.5, 2.0, 6.0]))
        self.tell(ev.Tick())

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        for name, command in self.busy.items():
            if isinstance(command, Run) and data.draw(st.booleans()):
                self.effects.add(name)
            elif (
                isinstance(command, Undo)
                and command.branch.step.kind != "child"
                and data.draw(st.booleans())
            ):
                self.effects.discard(name)
        # A crash loses what was never started too: such a branch counts as one that may have run.
        if not self.machine.undoing:
            self.ran |= {b.id for b in self.machine.open.values() if b.step.kind == "action"}
        self.busy.clear()
        self.machine = self.replica()
        self.tell(ev.Tick())

    @rule(name=st.sampled_from(["a", "b", "resume"]))
    def signal(self, name: str) -> None:
        self.tell(ev.Signalled(name, msgspec.Raw(b'"%s"' % name.encode())))

    @rule(force=st.booleans())
    def cancel(self, force: bool) -> None:
        self.forced |= force
        self.tell(ev.CancelAsked("changed my mind", "me", force))

    @precondition(lambda self: self.machine.status in ("parked", "compensation_failed"))
    @rule(act=st.sampled_from(["retry", "skip"]))
    def operate(self, act: str) -> None:
        if act == "retry":
            self.tell(ev.RetryAsked(by="me"))
        else:
            self.tell(ev.SkipAsked(reason="by phone", by="me"))

    @rule(outcome=st.sampled_from(["completed", "compensated"]), wanted=st.integers(0, 5))
    def resolve(self, outcome: str, wanted: int) -> None:
        if not wanted:
            self.tell(ev.ResolveAsked(outcome, "by hand", "me"))

    @precondition(lambda self: self.children())
    @rule(data=st.data())
    def end_child(self, data: st.DataObject) -> None:
        branch = data.draw(st.sampled_from(self.children()))
        outcome = data.draw(st.sampled_from(["completed", "compensated"]))
        if branch.asked_child:
            undoable = False
        else:
            undoable = data.draw(st.booleans())
        if outcome == "compensated":
            self.effects.discard(branch.id)
            self.refused.add(branch.id)
        self.tell(ev.ChildFinished(branch.id, outcome, msgspec.Raw(b"{}"), "why", undoable))
        if outcome == "compensated" and branch.state == "parked":
            self.ran.discard(branch.id)

    def children(self) -> list[Any]:
        return [
            b
            for b in self.machine.branches.values()
            if b.child is not None
            and not self.machine.outcome
            and (b.state == "open" or b.asked_child)
            and b.undo not in ("done", "skipped")
        ]

    @rule(wanted=st.integers(0, 3))
    def parent_asks(self, wanted: int) -> None:
        if not wanted:
            self.tell(ev.UndoAsked())

    # -- what must hold ----------------------------------------------------------------------

    @invariant()
    def folds_alike(self) -> None:
        live, copy = self.machine, self.replica()
        assert shape(live) == shape(copy)
        same = all(
            b.touched == copy.branches[b.id].touched and b.answered == copy.branches[b.id].answered
            for b in live.open.values()
        )
        if same and not live.running:
            assert live.status == copy.status
            assert live.wake_at() == copy.wake_at()
            assert live.past_pivot == copy.past_pivot
            if not live.undoing:
                assert live.pivot_in_doubt == copy.pivot_in_doubt
            probe = self.replica()
            again = self.replica()
            assert [(type(c), c.branch.id) for c in probe.commands(self.now)] == [
                (type(c), c.branch.id) for c in again.commands(self.now)
            ]

    @invariant()
    def running_is_known(self) -> None:
        assert self.machine.running == set(self.busy)

    @invariant()
    def counts_are_right(self) -> None:
        machine = self.machine
        assert machine.status in STATUSES
        left = sum(b.undo in ("due", "failed") for b in machine.branches.values())
        if machine.undoing and not self.by_hand:
            assert machine.closing == left
            assert (machine.outcome == "compensated") == (left == 0)
        done = [
            n
            for n in self.plan.steps
            if n in machine.branches and machine.branches[n].state in ("completed", "skipped")
        ]
        if not machine.undoing:
            assert machine.unsettled == len(self.plan.steps) - len(done)
            if machine.outcome == "completed" and not self.by_hand:
                assert len(done) == len(self.plan.steps)

    @invariant()
    def nothing_is_left_behind(self) -> None:
        machine = self.machine
        if machine.outcome != "compensated" or self.by_hand:
            return
        for name in self.effects - self.excused:
            branch = machine.branches[name]
            if branch.step.undo or (branch.step.kind == "child" and branch.undoable):
                raise AssertionError(f"{name} had an effect and was left: {branch.undo!r}")

    @invariant()
    def never_stuck(self) -> None:
        machine = self.replica()
        if machine.outcome:
            return
        machine.handle(ev.Tick(), self.now)
        if machine.outcome or machine.commands(self.now):
            return
        wake_at = machine.wake_at()
        if wake_at is not None:
            assert wake_at > self.now, "would spin"
            return
        status = machine.status
        if status in ("parked", "compensation_failed"):
            return
        if status == "compensating":
            assert any(b.asked_child and b.undo == "due" for b in machine.branches.values())
            return
        assert status == "waiting", f"stuck as {status}"
        assert any(b.is_wait or b.child is not None for b in machine.open.values())

    def teardown(self) -> None:
        """With everything going well from here on, it ends."""
        if not hasattr(self, "machine"):
            return
        for _ in range(300):
            machine = self.machine
            if machine.outcome:
                break
            self.carry_on()
            if self.busy:
                name, command = next(iter(self.busy.items()))
                del self.busy[name]
                if isinstance(command, Resolve):
                    known = self.answers.get(name, 1 if command.branch.step.fans_out else "go")
                    self.tell(
                        ev.Answered(name, skip=True)
                        if known == "skip"
                        else ev.Answered(
                            name,
                            items=[msgspec.Raw(b"0")] * known if isinstance(known, int) else None,
                        )
                    )
                elif isinstance(command, Undo):
                    if command.branch.step.kind != "child":
                        self.effects.discard(name)
                    self.tell(ev.Undone(name))
                else:
                    self.effects.add(name)
                    self.tell(ev.Succeeded(name))
            elif machine.status == "parked" or machine.status == "compensation_failed":
                self.tell(ev.RetryAsked())
            elif self.children():
                branch = self.children()[0]
                outcome = "compensated" if branch.asked_child else "completed"
                if branch.asked_child:
                    self.effects.discard(branch.id)
                self.tell(ev.ChildFinished(branch.id, outcome))
            elif machine.open_waits():
                self.signal(machine.open_waits()[0].step.signal)
            else:
                wake_at = machine.wake_at()
                assert wake_at is not None
                self.now = max(self.now, wake_at)
                self.tell(ev.Tick())
            self.folds_alike()
            self.counts_are_right()
            self.nothing_is_left_behind()
        assert self.machine.outcome, f"never ends: {self.machine.status}"


SagaRules.TestCase.settings = settings(
    max_examples=MAX,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSagaRules = SagaRules.TestCase
