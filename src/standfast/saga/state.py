"""The state of a saga instance, as a fold of its journal's facts. No decisions are made here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, cast
from uuid import UUID

import msgspec

from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.names import NEVER_RENAMED, Names
from standfast.saga.plan import Plan
from standfast.saga.status import Outcome, Status

RESUME = "resume"


class SagaState:
    """What is known of one instance: its branches, and whether it goes forwards or backwards.

    `branches` are all that ever opened, `open` those whose forward work isn't settled, `running`
    those being run by this process right now, the one part that isn't in the journal. `closing`
    counts the undos that aren't settled. `reports`: a parent saga must be told how it stands.
    `deadline_at` is the deadline as it stands, in seconds since the epoch: it moves by the time for
    which something was parked, as `parked` branches are since `parked_at`. `undoing_at` is when it
    began to compensate, and `reopened` counts how often that was after it had ended. `names`: what
    its branches were called before it moved to this version.
    `failed_step` and `cause` tell where and why it waits for an operator, or else why it was undone
    (`undoing_for`).
    """

    __slots__ = (
        "branches",
        "cancel",
        "cause",
        "closing",
        "deadline_at",
        "failed_step",
        "id",
        "names",
        "open",
        "outcome",
        "parked",
        "parked_at",
        "plan",
        "reopened",
        "reports",
        "running",
        "sequence",
        "signals",
        "started",
        "undoing",
        "undoing_at",
        "undoing_for",
        "unsettled",
        "waiting_for",
    )

    def __init__(self, id: UUID, plan: Plan) -> None:
        self.id: UUID = id
        self.plan: Plan = plan
        self.names: Names = NEVER_RENAMED
        self.started: fx.Started = None  # type: ignore[assignment]
        self.sequence: int = -1
        self.branches: dict[str, Branch] = {}
        self.open: dict[str, Branch] = {}
        self.running: set[str] = set()
        self.deadline_at: float | None = None
        self.parked: int = 0
        self.parked_at: float = 0.0
        self.unsettled: int = len(plan.steps)
        self.waiting_for: dict[str, int] = plan.waiting_for.copy()
        self.signals: list[fx.SignalReceived] = []
        self.undoing: bool = False
        self.undoing_at: float = 0.0
        self.reopened: int = 0
        self.undoing_for: fx.CompensationStarted | None = None
        self.closing: int = 0
        self.outcome: Outcome = ""
        self.cause: str = ""
        self.failed_step: str = ""
        self.cancel: fx.CancelRequested | None = None
        self.reports: bool = False

    @property
    def past_pivot(self) -> bool:
        """Whether the point of no return is behind; ended well by hand counts as that."""
        if self.plan.pivot is None:
            return False
        pivot = self.branches.get(self.plan.pivot)
        done = pivot is not None and pivot.state in ("completed", "skipped")
        return done or self.outcome == "completed"

    @property
    def pivot_in_doubt(self) -> bool:
        """Whether the pivot may or may not have happened."""
        pivot = self.branches.get(self.plan.pivot) if self.plan.pivot else None
        return pivot is not None and (
            pivot.state in ("failed", "parked") or (pivot.is_open and pivot.touched)
        )

    @property
    def due_by(self) -> float | None:
        """When the deadline undoes it, as things stand; None if it doesn't.

        It doesn't past the pivot, nor while the pivot is in doubt; nor what waits for an operator,
        unless the saga asks for that.
        """
        if self.deadline_at is None or self.past_pivot or self.pivot_in_doubt:
            return None
        if self.parked and not self.plan.deadline_ends_parked:
            return None
        return self.deadline_at

    @property
    def status(self) -> Status:
        """How it stands."""
        if self.outcome:
            return self.outcome
        if self.undoing:
            stuck = any(b.undo == "failed" for b in self.branches.values())
            busy = self.running or any(b.undo == "due" for b in self.undo_ready())
            return "compensation_failed" if stuck and not busy else "compensating"
        if self.running:
            return "running"
        parked = False
        for branch in self.open.values():
            if branch.state == "parked":
                parked = True
            elif branch.step.is_plain or (not branch.is_passive and self.has_room(branch)):
                return "running"
        return "parked" if parked else "waiting"

    def open_waits(self) -> list[Branch]:
        """The waits that a signal or a timeout would settle."""
        return [b for b in self.open.values() if b.is_wait]

    def open_sleeps(self) -> list[Branch]:
        """The sleeps that time alone will settle."""
        return [b for b in self.open.values() if b.is_sleep]

    def live_children(self) -> list[UUID]:
        """The child sagas that it waits for: they go on, or are to undo themselves."""
        return [
            b.child
            for b in self.branches.values()
            if b.child is not None and (b.undo == "due" if b.asked_child else b.is_open)
        ]

    def signal_for(self, wait: Branch) -> fx.SignalReceived | None:
        """The oldest signal that an open wait would take."""
        return next((s for s in self.signals if s.name == wait.step.signal), None)

    def wake_at(self) -> float | None:
        """When time alone will change something: the earliest timer, in epoch seconds."""
        if self.outcome:
            return None
        times: list[float] = []
        if self.undoing:
            times = [b.retry_at for b in self.undo_ready() if b.retry_at]
        elif not self.branches:
            return self.started.begins_at
        else:
            for b in self.open.values():
                if b.id in self.running or not self.has_room(b):
                    continue
                if b.is_open and b.retry_at:
                    times.append(b.retry_at)
                if b.is_wait and b.step.timeout is not None:
                    times.append(b.opened_at + b.step.timeout)
                if b.until and b.is_sleep:
                    times.append(b.until)
            due_by = self.due_by
            if due_by is not None:
                times.append(due_by)
        return min(times, default=None)

    def has_room(self, branch: Branch) -> bool:
        """Whether its step's limit on parallel items, or child sagas, allows one more."""
        limit = branch.step.limit
        if limit is None:
            return True
        busy = self.branches[branch.step.name].live
        return busy + sum(self.branches[b].step is branch.step for b in self.running) < limit

    def undo_ready(self) -> list[Branch]:
        """The branches whose undo may go on: nothing that builds on them is left to undo."""
        due = [b for b in self.branches.values() if b.undo in ("due", "failed")]
        held = {b.step.name for b in due}
        held.update(self.branches[b].step.name for b in self.running)
        return [
            b
            for b in due
            if b.undo == "due"
            and b.id not in self.running
            and not b.asked_child
            and held.isdisjoint(self.plan.descendants[b.step.name])
        ]

    def undo_began_at(self, branch: Branch) -> float:
        """When nothing that builds on a branch was left to undo, so that its own undo could begin.

        It may have begun a little later, if an attempt that came to nothing was still in flight.
        """
        later = self.plan.descendants[branch.step.name]
        undone = [b.undone_at for b in self.branches.values() if b.step.name in later]
        return max(self.undoing_at, branch.completed_at, *undone)

    # -- the fold ----------------------------------------------------------------------------

    def apply(self, fact: fx.Fact) -> None:
        """Fold one fact into the state."""
        self.sequence += 1
        fold = self._folds.get(type(fact))
        if fold is not None:
            fold(self, fact)
        if self.undoing and not self.outcome and not self.closing:
            self.outcome = "compensated"
            self.reports = True

    def _fold_started(self, fact: fx.Started) -> None:
        self.started = fact
        self.deadline_at = fact.deadline_at
        if fact.begins_at is None:
            self._begin(fact)

    def _begin(self, fact: fx.Fact) -> None:
        for step in self.plan.steps.values():
            if not step.after:
                self._open(Branch(step.name, step, fact.at))

    def _open(self, branch: Branch) -> None:
        self.branches[branch.id] = branch
        self.open[branch.id] = branch

    def _close(self, branch: Branch, state: str, at: float) -> None:
        """A forward branch is settled; when its step is done, its successors open."""
        if branch.child is not None:
            self._left(branch)
        if branch.state == "parked":
            self._unpark(at)
        branch.state = state
        self.open.pop(branch.id, None)
        if self.undoing:
            # It was in flight when compensation began: now its outcome is known.
            was_due = branch.undo == "due"
            branch.undo = "due" if branch.undoable and state in ("completed", "failed") else ""
            branch.restart()
            self.closing += (branch.undo == "due") - was_due
            return
        if branch.item is not None:
            parent = self.branches[branch.step.name]
            parent.unsettled_items -= state in ("completed", "skipped")
            if not parent.unsettled_items and parent.is_open:
                self._close(parent, "completed", at)
            return
        if state not in ("completed", "skipped"):
            return
        self.unsettled -= 1
        for name in self.plan.successors[branch.step.name]:
            self.waiting_for[name] -= 1
            if not self.waiting_for[name]:
                self._open(Branch(name, self.plan.steps[name], at))
        if not self.unsettled:
            self.outcome = "completed"
            self.reports = True

    def _left(self, branch: Branch) -> None:
        """A child saga goes on no more, so that another of its step has room."""
        if branch.item is not None and branch.child is not None and branch.is_open:
            self.branches[branch.step.name].live -= 1

    def _fold_completed(self, fact: fx.StepCompleted) -> None:
        branch = self.branches[fact.branch]
        branch.attempt = fact.attempt
        branch.result = fact.result
        branch.completed_at = fact.at
        if branch.step.form == "wait":
            signal = self.signal_for(branch)
            if signal is not None:
                self.signals.remove(signal)
        self._close(branch, "completed", fact.at)

    def _fold_attempt_failed(self, fact: fx.AttemptFailed | fx.CompensationAttemptFailed) -> None:
        branch = self.branches[fact.branch]
        branch.attempt = fact.attempt
        branch.forgiven += fact.rejected
        branch.error = fact.error
        branch.retry_at = fact.retry_at
        branch.since = fact.since
        branch.delay = fact.delay
        branch.touched = True

    def _fold_failed(self, fact: fx.StepFailed) -> None:
        branch = self.branches[fact.branch]
        branch.attempt = fact.attempt
        branch.error = fact.error
        self._close(branch, "refused" if fact.refused else "failed", fact.at)

    def _fold_skipped(self, fact: fx.StepSkipped) -> None:
        branch = self.branches[fact.branch]
        if branch.fans_out:
            branch.unsettled_items = 0
        # Skipped by its condition it never ran; skipped by an operator it may have.
        branch.touched = branch.state == "parked"
        self._close(branch, "skipped", fact.at)
        if branch.touched:
            self._tell_why()

    def _fold_fanned_out(self, fact: fx.FannedOut) -> None:
        parent = self.branches[fact.branch]
        parent.answered = True
        parent.unsettled_items = len(fact.items)
        parent.children = [
            Branch(f"{parent.id}[{index}]", parent.step, fact.at, index, item)
            for index, item in enumerate(fact.items)
        ]
        for child in parent.children:
            self._open(child)
        if not fact.items:
            self._close(parent, "completed", fact.at)

    def _fold_child_started(self, fact: fx.ChildStarted) -> None:
        branch = self.branches[fact.branch]
        branch.answered = True
        branch.touched = True
        branch.child = fact.child
        if branch.item is not None:
            self.branches[branch.step.name].live += 1

    def _fold_sleep(self, fact: fx.SleepStarted) -> None:
        branch = self.branches[fact.branch]
        branch.answered = True
        branch.until = fact.until

    def _fold_parked(self, fact: fx.StepParked) -> None:
        branch = self.branches[fact.branch]
        if self.undoing:
            self._close(branch, "failed", fact.at)
            return
        self._left(branch)
        branch.attempt = fact.attempt
        branch.error = fact.error
        branch.state = "parked"
        branch.touched = True
        if not self.parked:
            self.parked_at = fact.at
        self.parked += 1
        self._tell_why()

    def _unpark(self, at: float) -> None:
        """A branch is parked no more: the deadline has stood still for as long as one was."""
        self.parked -= 1
        if not self.parked and self.deadline_at is not None and not self.plan.deadline_ends_parked:
            self.deadline_at += max(0.0, at - self.parked_at)

    def _fold_resumed(self, fact: fx.Resumed) -> None:
        branch = self.branches[fact.branch]
        branch.resume(fact.at)
        if branch.undo:
            branch.undo = "due"
            branch.asked_child = False
        else:
            self._unpark(fact.at)
            branch.state = "open"
        self._tell_why()

    def _tell_why(self) -> None:
        """Let `failed_step` and `cause` tell of a branch that waits for an operator, if any."""
        began = self.undoing_for
        for branch in self.branches.values():
            if self.undoing and branch.undo == "failed":
                self.failed_step = branch.step.name
                self.cause = f"undo of {branch.id}: {branch.error}"
                if began is not None:
                    self.cause += f" (compensating, for {began.cause})"
                return
            if not self.undoing and branch.state == "parked":
                self.failed_step = branch.step.name
                self.cause = f"{branch.id}: {branch.error}"
                return
        self.failed_step, self.cause = ("", "") if began is None else (began.step, began.cause)

    def _fold_signal(self, fact: fx.SignalReceived) -> None:
        if fact.name != RESUME:
            self.signals.append(fact)

    def _fold_ignored(self, fact: fx.Ignored) -> None:
        dropped = next((one for one in self.signals if one.name == fact.signal), None)
        if dropped is not None:
            self.signals.remove(dropped)

    def _fold_cancel(self, fact: fx.CancelRequested) -> None:
        self.cancel = fact

    def _fold_compensation(self, fact: fx.CompensationStarted) -> None:
        self.undoing = True
        self.undoing_at = fact.at
        self.reopened += bool(self.outcome)
        self.outcome = ""
        self.undoing_for = fact
        self.cause = fact.cause
        self.failed_step = fact.step
        doubt = set(fact.in_doubt)
        self.closing = 0
        for branch in self.branches.values():
            happened = branch.state in ("completed", "failed") or branch.id in doubt
            by_hand = branch.state == "skipped" and branch.touched
            # It was to be undone before, until an operator ended the saga by hand.
            left = branch.undo in ("due", "failed")
            settled = branch.undo in ("done", "skipped")
            if branch.undoable and (happened or by_hand or left) and not settled:
                branch.undo = "due"
                branch.asked_child = False
                branch.restart()
                self.closing += 1
            branch.retry_at = 0.0
        self.open.clear()

    def _fold_undone(self, fact: fx.CompensationCompleted) -> None:
        branch = self.branches[fact.branch]
        branch.attempt = fact.attempt
        self._undo_settled(branch, "done", fact.at)

    def _fold_undo_skipped(self, fact: fx.CompensationSkipped) -> None:
        self._undo_settled(self.branches[fact.branch], "skipped", fact.at)

    def _undo_settled(self, branch: Branch, undo: str, at: float) -> None:
        was_stuck = branch.undo == "failed"
        if was_stuck or branch.undo == "due":
            self.closing -= 1
        branch.undo = undo
        branch.undone_at = at
        if was_stuck:
            self._tell_why()

    def _fold_undo_failed(self, fact: fx.CompensationFailed) -> None:
        branch = self.branches[fact.branch]
        branch.attempt = fact.attempt
        branch.error = fact.error
        branch.undo = "failed"
        self._tell_why()

    def _fold_child_undo(self, fact: fx.ChildUndoRequested) -> None:
        self.branches[fact.branch].asked_child = True

    def _fold_resolved(self, fact: fx.Resolved) -> None:
        self.outcome = cast(Outcome, fact.outcome)  # as it was checked when it was asked for
        self.cause = fx.by_hand(fact.reason)
        self.reports = True

    def _fold_migrated(self, fact: fx.Migrated) -> None:
        self.started = msgspec.structs.replace(self.started, version=fact.version, input=fact.input)

    _folds: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        fx.Started: _fold_started,
        fx.Begun: _begin,
        fx.StepCompleted: _fold_completed,
        fx.AttemptFailed: _fold_attempt_failed,
        fx.StepFailed: _fold_failed,
        fx.StepSkipped: _fold_skipped,
        fx.FannedOut: _fold_fanned_out,
        fx.ChildStarted: _fold_child_started,
        fx.SleepStarted: _fold_sleep,
        fx.SignalReceived: _fold_signal,
        fx.StepParked: _fold_parked,
        fx.CancelRequested: _fold_cancel,
        fx.CompensationStarted: _fold_compensation,
        fx.CompensationCompleted: _fold_undone,
        fx.CompensationAttemptFailed: _fold_attempt_failed,
        fx.CompensationFailed: _fold_undo_failed,
        fx.CompensationSkipped: _fold_undo_skipped,
        fx.ChildUndoRequested: _fold_child_undo,
        fx.Resumed: _fold_resumed,
        fx.Resolved: _fold_resolved,
        fx.Migrated: _fold_migrated,
        fx.Ignored: _fold_ignored,
    }
