"""The saga machine: pure decisions, no I/O.

One `Machine` is one instance: a `SagaState` that can decide. `handle(event, now, random)` decides
what an event means, applies it and answers with the facts to store; `commands(now)` says what ought
to be started next. The caller must store the facts before it carries out any command: then, after
a crash, a fold of the journal leads to the same decisions.

Guarantees: an action is commanded only when all before it are done; a branch that may have had an
effect is undone before the saga ends compensated, unless an operator says otherwise; nothing is
undone before what builds on it; nothing is undone past the pivot; an action that was refused is not
undone. Not guaranteed: that an action runs once (it runs at least once, with one idempotency key).

The saga is due to Garcia-Molina and Salem, "Sagas", SIGMOD 1987; pivot and retriable steps to
Mehrotra et al., "A Transaction Model for Multidatabase Systems", ICDCS 1992.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias
from uuid import UUID, uuid5

import msgspec
from msgspec import Raw

from standfast.durations import human
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.next_attempt import Next, next_attempt
from standfast.saga.plan import Plan
from standfast.saga.state import RESUME, SagaState

ID_TIME = (1 << 48) - 1 << 80
"""The bits of a UUIDv7 that hold its time."""


class Run(msgspec.Struct):
    """Run a branch's action. `transactional`: in a transaction that commits with its facts."""

    branch: Branch
    attempt: int
    transactional: bool


class Undo(msgspec.Struct):
    """Run a branch's compensation (for a child saga: ask it to undo itself)."""

    branch: Branch
    attempt: int
    transactional: bool


class Resolve(msgspec.Struct):
    """Ask the definition about a branch: its condition, items, child's input, or end of sleep."""

    branch: Branch
    transactional: Literal[False] = False


Command: TypeAlias = Run | Undo | Resolve


Misfit: TypeAlias = Callable[[str, Raw], str]
"""Why the wait of that name can't take a payload; "" if it can."""


def _takes_all(wait: str, payload: Raw) -> str:
    return ""


class Machine(SagaState):
    """One saga instance, and every decision about it."""

    __slots__ = ("_misfit", "_out")
    reports: bool

    def __init__(self, id: UUID, plan: Plan, misfit: Misfit = _takes_all) -> None:
        super().__init__(id, plan)
        self._misfit = misfit
        self._out: list[fx.Fact] = []

    # -- what to do --------------------------------------------------------------------------

    def commands(self, now: float) -> list[Command]:
        """What ought to start now; each is marked as running until its event comes in."""
        if self.outcome:
            return []
        out: list[Command] = []
        if self.undoing:
            out.extend(
                Undo(branch, branch.attempt + 1, branch.step.undo_transactional)
                for branch in self.undo_ready()
                if branch.retry_at <= now
            )
        else:
            for branch in self.open.values():
                if branch.id in self.running or branch.retry_at > now:
                    continue
                plain = branch.step.is_plain and branch.state == "open"
                asks = not plain and branch.needs_answer
                if not (plain or asks or branch.is_runnable):
                    continue
                if branch.step.limit is not None:
                    if not self.has_room(branch):
                        continue
                    self.running.add(branch.id)  # so that `has_room` counts it
                if asks:
                    out.append(Resolve(branch))
                else:
                    branch.touched = True
                    out.append(Run(branch, branch.attempt + 1, branch.step.transactional))
        for command in out:
            branch = command.branch
            self.running.add(branch.id)
            if not branch.since:
                branch.since = now
        return out

    def child_id(self, branch: Branch) -> UUID:
        """The id of the child saga that a branch starts; a new one after it was parked.

        It begins with its parent's time, so that it is listed beside it.
        """
        hash = uuid5(self.id, f"{branch.id}#{branch.attempt}" if branch.attempt else branch.id)
        return UUID(int=self.id.int & ID_TIME | hash.int & ~ID_TIME)

    # -- what happened -----------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float, random: float = 0.5) -> list[fx.Fact]:
        """Decide what `event` means at `now`, apply it, and answer with the facts to store.

        `random` in [0, 1) draws the jitter of a retry.
        """
        self._out = []
        branch_id = getattr(event, "branch", None)
        if branch_id is not None:
            self.running.discard(branch_id)
        if not self.outcome or isinstance(event, ev.Mailed):
            self._handlers[type(event)](self, event, now, random)
            self._settle(now)
        return self._out

    def _emit(self, fact: fx.Fact) -> None:
        self._out.append(fact)
        self.apply(fact)

    def _ignore(self, now: float, act: str, why: str) -> None:
        self._emit(fx.Ignored(at=now, act=act, why=why))

    def _succeeded(self, event: ev.Succeeded, now: float, random: float) -> None:
        branch = self.branches[event.branch]
        self._emit(
            fx.StepCompleted(
                at=now, branch=branch.id, result=event.result, attempt=branch.action_attempt
            )
        )

    def _failed(self, event: ev.Failed, now: float, random: float) -> None:
        branch = self.branches[event.branch]
        attempt, error = branch.action_attempt, event.error
        told: dict[str, Any] = {"at": now, "branch": branch.id, "attempt": attempt}
        told["traceback"] = event.traceback
        if event.refused:
            if self.plan.pivot and self.plan.is_before(self.plan.pivot, branch.step.name):
                self._emit(fx.StepParked(**told, error=error))
                return
            self._emit(fx.StepFailed(**told, error=error, refused=True))
            self._compensate(now, f"{branch.id} refused: {error}", branch.step.name)
            return
        if event.park and not self.undoing:
            self._emit(fx.StepParked(**told, error=error))
            return
        untouched = not branch.touched  # its condition or its items failed: it never ran
        if self.undoing:
            self._emit(fx.StepFailed(**told, error=error, refused=untouched))
            return
        next = self._next(event, branch, attempt, now, random)
        if next.delay is not None:
            self._emit(
                fx.AttemptFailed(
                    **told,
                    error=error,
                    retry_at=now + next.delay,
                    since=branch.since or now,
                    delay=next.delay,
                    rejected=next.rejected,
                )
            )
            return
        error += next.why
        if branch.step.on_exhausted == "park":
            self._emit(fx.StepParked(**told, error=error))
        else:
            self._emit(fx.StepFailed(**told, error=error, refused=untouched))
            self._compensate(now, f"{branch.id} failed: {error}", branch.step.name)

    def _next(
        self,
        event: ev.Failed | ev.UndoFailed,
        branch: Branch,
        attempt: int,
        now: float,
        random: float,
    ) -> Next:
        return next_attempt(
            event,
            branch.step.retry if type(event) is ev.Failed else branch.step.undo_retry,
            attempt=attempt,
            forgiven=branch.forgiven,
            elapsed=now - (branch.since or now),
            previous=branch.delay,
            random=random,
        )

    def _answered(self, event: ev.Answered, now: float, random: float) -> None:
        if self.undoing:
            return
        branch = self.branches[event.branch]
        branch.answered = True
        if event.skip:
            self._emit(fx.StepSkipped(at=now, branch=branch.id))
        elif event.items is not None:
            self._emit(fx.FannedOut(at=now, branch=branch.id, items=event.items))
        elif branch.step.form == "child":
            child = self.child_id(branch)
            self._emit(fx.ChildStarted(at=now, branch=branch.id, child=child))
        elif event.until is not None:
            self._emit(fx.SleepStarted(at=now, branch=branch.id, until=event.until))

    def _undone(self, event: ev.Undone, now: float, random: float) -> None:
        branch = self.branches[event.branch]
        if branch.step.form == "child":
            self._emit(fx.ChildUndoRequested(at=now, branch=branch.id))
        else:
            self._emit(
                fx.CompensationCompleted(at=now, branch=branch.id, attempt=branch.attempt + 1)
            )

    def _undo_failed(self, event: ev.UndoFailed, now: float, random: float) -> None:
        branch = self.branches[event.branch]
        attempt, error = branch.attempt + 1, event.error
        told: dict[str, Any] = {"at": now, "branch": branch.id, "attempt": attempt}
        told["traceback"] = event.traceback
        next = self._next(event, branch, attempt, now, random)
        if next.delay is None:
            self._emit(fx.CompensationFailed(**told, error=error + next.why))
        else:
            self._emit(
                fx.CompensationAttemptFailed(
                    **told,
                    error=error,
                    retry_at=now + next.delay,
                    since=branch.since or now,
                    delay=next.delay,
                    rejected=next.rejected,
                )
            )

    def _signalled(self, event: ev.Signalled, now: float, random: float) -> None:
        if self.outcome:
            self._ignore(now, f"signal {event.name}", f"the saga has already {self._ended}")
            return
        waits = [step.name for step in self.plan.steps.values() if step.signal == event.name]
        problems = [self._misfit(wait, event.payload) for wait in waits]
        if problems and all(problems):
            self._ignore(now, f"signal {event.name}", problems[0])
            return
        self._emit(fx.SignalReceived(at=now, name=event.name, payload=event.payload))
        for branch in self._resumed_by(event.name):
            self._emit(fx.Resumed(at=now, branch=branch.id, by="signal"))

    def _resumed_by(self, signal: str) -> list[Branch]:
        """What is parked and goes on with a signal: everything, or a wait that was given up."""
        parked = [b for b in self.open.values() if b.state == "parked"]
        if signal == RESUME:
            return parked
        if any(wait.step.signal == signal for wait in self.open_waits()):
            return []  # an open wait takes it
        return [b for b in parked if b.step.signal == signal][:1]

    def _cancelled(self, event: ev.CancelAsked, now: float, random: float) -> None:
        if self.outcome or self.undoing:
            state = self._ended if self.outcome else "begun to compensate"
            self._ignore(now, "cancel", f"the saga has already {state}")
        elif self.past_pivot:
            self._ignore(now, "cancel", f"the pivot {self.plan.pivot!r} is done: no way back")
        else:
            self._emit(
                fx.CancelRequested(at=now, reason=event.reason, by=event.by, force=event.force)
            )

    def _retried(self, event: ev.RetryAsked, now: float, random: float) -> None:
        stuck = self._stuck(event.step) or self._unanswered(event.step)
        if not stuck:
            self._ignore(now, "retry", self._nothing_stuck(event.step))
        for branch in stuck:
            self._emit(fx.Resumed(at=now, branch=branch.id, by=event.by))

    def _skipped(self, event: ev.SkipAsked, now: float, random: float) -> None:
        stuck = self._stuck(event.step)
        if not stuck:
            self._ignore(now, "skip", self._nothing_stuck(event.step))
        for branch in stuck:
            kind = fx.CompensationSkipped if self.undoing else fx.StepSkipped
            self._emit(kind(at=now, branch=branch.id, reason=event.reason, by=event.by))

    def _stuck(self, step: str) -> list[Branch]:
        if self.outcome:
            return []
        return [
            b
            for b in self.branches.values()
            if (b.undo == "failed" if self.undoing else b.state == "parked")
            and step in ("", b.id, b.step.name)
        ]

    def _unanswered(self, step: str) -> list[Branch]:
        """The child sagas that were asked to undo themselves, and may be asked once more."""
        if self.outcome or not self.undoing:
            return []
        asked = [b for b in self.branches.values() if b.asked_child and b.undo == "due"]
        return [b for b in asked if step in ("", b.id, b.step.name)]

    def _nothing_stuck(self, step: str) -> str:
        return f"step {step!r} isn't parked" if step else f"nothing is parked ({self.status})"

    def _resolved(self, event: ev.ResolveAsked, now: float, random: float) -> None:
        if self.outcome:
            self._ignore(now, "resolve", f"the saga has already {self._ended}")
        elif not self._is_at_rest(now):
            self._ignore(now, "resolve", f"the saga is {self.status}: only one at rest can be")
        else:
            self._emit(
                fx.Resolved(
                    at=now,
                    outcome=event.outcome,
                    reason=event.reason,
                    by=event.by,
                    children=self.live_children(),
                )
            )

    def _is_at_rest(self, now: float) -> bool:
        """Whether nothing is under way: what goes on waits for mail, for time, or an operator."""
        if self.running:
            return False
        if self.undoing:
            return all(b.retry_at > now for b in self.undo_ready())
        # What waits under a condition asks it anew after a reload: it rests all the same.
        return all(b.is_passive or b.needs_answer or b.retry_at > now for b in self.open.values())

    def _child_finished(self, event: ev.ChildFinished, now: float, random: float) -> None:
        branch = self.branches.get(self.names.current(event.child))
        if (
            branch is None
            or self.outcome
            or branch.undo in ("done", "skipped")
            or (branch.state != "open" and not branch.undo)
        ):
            self._ignore(now, f"end of child {event.child}", "nothing waits for it any more")
        elif self.undoing and event.outcome != "compensated":
            if branch.asked_child and event.undoable:
                self._ignore(now, f"end of child {branch.id}", "it was asked to undo itself")
            elif branch.asked_child:
                why = f"child saga {branch.child} can't be undone: "
                why += event.cause or "it is past its pivot"
                self._emit(fx.CompensationFailed(at=now, branch=branch.id, error=why))
            else:
                self._emit(fx.StepCompleted(at=now, branch=branch.id, result=event.result))
        elif self.undoing and branch.undo:
            self._emit(fx.CompensationCompleted(at=now, branch=branch.id))
        elif event.outcome == "completed":
            self._emit(fx.StepCompleted(at=now, branch=branch.id, result=event.result))
        else:
            error = f"child saga compensated: {event.cause}"
            self._failed(ev.Failed(branch.id, error, refused=True), now, random)

    def _undo_asked(self, event: ev.UndoAsked, now: float, random: float) -> None:
        if self.outcome == "completed" and self.past_pivot:
            self._ignore(now, "undo", f"the pivot {self.plan.pivot!r} is done: no way back")
            self.reports = True
        elif self.outcome == "compensated":
            self._ignore(now, "undo", "the saga is compensated")
            self.reports = True
        elif self.outcome == "completed":
            self._compensate(now, "undone by its parent saga", "", reopen=True)
        else:
            self._cancelled(ev.CancelAsked("undone by its parent saga", "parent"), now, random)

    def _migrated(self, event: ev.MigrateAsked, now: float, random: float) -> None:
        if self.outcome:
            self._ignore(now, "migrate", f"the saga has already {self._ended}")
        elif event.problem:
            self._ignore(now, "migrate", event.problem)
        elif event.version == self.started.version:
            self._ignore(now, "migrate", f"the saga is at version {event.version} already")
        else:
            self._emit(
                fx.Migrated(
                    at=now,
                    version=event.version,
                    input=event.input,
                    renamed=event.renamed,
                    by=event.by,
                )
            )

    def _died(self, event: ev.Died, now: float, random: float) -> None:
        """Run nothing of what would run now: it may be what its processes died of."""
        error = (
            f"its process died {event.times} times in a row while it ran (killed, out of memory, "
            "or crashed in native code): find out why before you retry"
        )
        for command in self.commands(now):
            branch = command.branch
            self.running.discard(branch.id)
            if type(command) is not Undo:
                attempt = branch.action_attempt
                self._emit(fx.StepParked(at=now, branch=branch.id, error=error, attempt=attempt))
            elif branch.step.form != "child":  # the undo of a child is a mail, and no code
                attempt = branch.attempt + 1
                self._emit(
                    fx.CompensationFailed(at=now, branch=branch.id, error=error, attempt=attempt)
                )

    def _ticked(self, event: ev.Tick, now: float, random: float) -> None:
        """Time passed: `_settle` does the rest."""

    @property
    def _ended(self) -> str:
        return "been compensated" if self.outcome == "compensated" else "completed"

    # -- what follows by itself --------------------------------------------------------------

    def _settle(self, now: float) -> None:
        if self.outcome or self.undoing:
            return
        if not self.branches and now >= self.started.due_at:
            self._emit(fx.Begun(at=now))
        if self.plan.has_waits or self.plan.has_sleeps:
            while any(self._settle_wait(branch, now) for branch in self.open_waits()) or any(
                self._settle_sleep(branch, now) for branch in self.open_sleeps()
            ):
                pass
        if (self.deadline_at is None and self.cancel is None) or self.past_pivot:
            return
        if self.cancel is not None and (self.cancel.force or not self.pivot_in_doubt):
            reason = f": {self.cancel.reason}" if self.cancel.reason else ""
            self._compensate(now, f"cancelled{reason}", "")
            return
        due_by = self.due_by
        if due_by is not None and now >= due_by:
            assert self.started.deadline_at is not None
            spent = human(self.started.deadline_at - self.started.due_at)
            self._compensate(now, f"the deadline of {spent} passed", "")

    def _settle_wait(self, branch: Branch, now: float) -> bool:
        if self.undoing:
            return False
        signal = self.signal_for(branch)
        while signal is not None and (why := self._misfit(branch.step.name, signal.payload)):
            act = f"signal {signal.name}"  # that came when another release waited for it
            self._emit(fx.Ignored(at=now, act=act, why=why, signal=signal.name))
            signal = self.signal_for(branch)
        if signal is not None:
            self._emit(fx.StepCompleted(at=now, branch=branch.id, result=signal.payload))
            return True
        timeout = branch.step.timeout
        if timeout is None or now < branch.opened_at + timeout:
            return False
        error = f"no signal {branch.step.signal!r} within {human(timeout)}"
        if branch.step.on_timeout == "continue":
            self._emit(fx.StepSkipped(at=now, branch=branch.id, reason=error))
        elif branch.step.on_timeout == "park":
            self._emit(fx.StepParked(at=now, branch=branch.id, error=error))
        else:
            self._emit(fx.StepFailed(at=now, branch=branch.id, error=error, refused=True))
            self._compensate(now, f"{branch.id}: {error}", branch.step.name)
        return True

    def _settle_sleep(self, branch: Branch, now: float) -> bool:
        if self.undoing:
            return False
        if not branch.until:
            until = branch.opened_at + (branch.step.duration or 0.0)
            self._emit(fx.SleepStarted(at=now, branch=branch.id, until=until))
        if now < branch.until:
            return False
        self._emit(fx.StepCompleted(at=now, branch=branch.id))
        return True

    def _compensate(self, now: float, cause: str, step: str, *, reopen: bool = False) -> None:
        if (self.undoing or self.outcome) and not reopen:
            return
        in_doubt = [b.id for b in self.open.values() if b.may_need_undo]
        self._emit(fx.CompensationStarted(at=now, cause=cause, step=step, in_doubt=in_doubt))

    _handlers: ClassVar[dict[type, Callable[..., None]]] = {
        ev.Succeeded: _succeeded,
        ev.Failed: _failed,
        ev.Answered: _answered,
        ev.Undone: _undone,
        ev.UndoFailed: _undo_failed,
        ev.Signalled: _signalled,
        ev.CancelAsked: _cancelled,
        ev.RetryAsked: _retried,
        ev.SkipAsked: _skipped,
        ev.ResolveAsked: _resolved,
        ev.ChildFinished: _child_finished,
        ev.UndoAsked: _undo_asked,
        ev.MigrateAsked: _migrated,
        ev.Tick: _ticked,
        ev.Died: _died,
    }
