"""What must hold in every run, whatever goes wrong.

Judged by the stored facts and by the calls that were made, not by the machine's own state: so a
wrong machine is found as well as a wrong saga.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from standfast.errors import ConfigurationError
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.plan import StepPlan
from standfast.saga.saga import Saga
from standfast.testing.ledger import Ledger
from standfast.testing.simulation.call import Call

_BRANCH_PARTS = (
    "state",
    "undo",
    "attempt",
    "forgiven",
    "retry_at",
    "delay",
    "error",
    "result",
    "completed_at",
    "begun_at",
    "opened_at",
    "undone_at",
    "child",
    "asked_child",
    "unsettled_items",
    "until",
    "live",
)
_PARTS = (
    "signals",
    "outcome",
    "undoing",
    "undoing_at",
    "reopened",
    "closing",
    "unsettled",
    "waiting_for",
    "cause",
    "failed_step",
    "cancel",
    "sequence",
)


class Violation(Exception):
    """Something didn't hold. `rule` tells one from another while shrinking."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(text)
        self.rule = rule


@dataclass(slots=True)
class World:
    """What a check sees: the saga with all that it acts on, and what came of it so far.

    `saga` is this run's own object, so ``world.saga.stock`` is the fake that it used; `sagas` are
    all of them, children included. `status` is one of `standfast.saga.STATUSES`, and `cause` says
    why it failed or parked. `calls` are all calls of steps and
    compensations so far, and `time` is in virtual seconds since the start. `rows(sql, …)` reads the
    tables that transactional steps wrote.
    """

    saga: Any
    sagas: Sequence[Saga[Any]]
    input: Any
    status: str
    cause: str
    calls: list[Call]
    time: float
    sql: Any = field(default=None, repr=False)
    find_results: Callable[[], dict[str, Any]] = field(default=dict, repr=False)

    @property
    def results(self) -> dict[str, Any]:
        """What the steps returned, by name; steps without a result are left out."""
        return self.find_results()

    @property
    def completed(self) -> bool:
        """Whether it ended well."""
        return self.status == "completed"

    @property
    def compensated(self) -> bool:
        """Whether it ended undone."""
        return self.status == "compensated"

    def rows(self, sql: str, *args: Any) -> list[Any]:
        """The rows that a query finds (``$1, $2 …``), readable by column name or position."""
        if self.sql is None:
            raise ConfigurationError("there are no tables: give schema='CREATE TABLE …'")
        found: list[Any] = self.sql.run(sql, args).fetchall()
        return found


class Observed:
    """What the journal of one instance says. `label` leads the names of a child saga's branches."""

    def __init__(self, id: UUID, definition: Definition, label: str) -> None:
        self.id = id
        self.definition = definition
        self.plan = definition.plan
        self.label = label
        self.facts: list[fx.AnyFact] = []
        self.done: set[str] = set()
        self.completed: set[str] = set()
        self.refused: set[str] = set()
        self.undone: set[str] = set()
        self.begun: dict[str, UUID] = {}
        self.excused: set[str] = set()
        self.called: set[str] = set()
        self.items: dict[str, int] = {}
        self.sleeps: dict[str, float] = {}
        self.going: dict[str, set[str]] = {}
        self.undoing = False
        self.by_hand = False

    def note(self, fact: fx.AnyFact) -> None:
        """Take one stored fact in. Raises `Violation`."""
        self.facts.append(fact)
        if isinstance(fact, (fx.StepCompleted, fx.StepSkipped, fx.StepFailed, fx.StepParked)):
            self.going.get(self.step(fact.branch).name, set()).discard(fact.branch)
        if isinstance(fact, fx.Begun):
            started = self.facts[0]
            if isinstance(started, fx.Started) and fact.at < started.due_at:
                raise Violation("early", "the saga began before its time")
        elif isinstance(fact, fx.SleepStarted):
            self.sleeps[fact.branch] = fact.until
        elif isinstance(fact, fx.StepCompleted):
            if fact.at < self.sleeps.get(fact.branch, fact.at):
                raise Violation("early", f"{fact.branch!r} ended before its time")
            self.done.add(fact.branch)
            self.completed.add(fact.branch)
        elif isinstance(fact, fx.StepSkipped):
            self.done.add(fact.branch)
        elif isinstance(fact, fx.StepFailed):
            if fact.refused:
                self.refused.add(fact.branch)
        elif isinstance(fact, fx.FannedOut):
            self.items[fact.branch] = len(fact.items)
        elif isinstance(fact, fx.ChildStarted):
            self.begun[fact.branch] = fact.child
            self._check_limit(fact.branch)
        elif isinstance(fact, fx.CompensationStarted):
            self.undoing = True
        elif isinstance(fact, (fx.CompensationCompleted, fx.CompensationSkipped)):
            self.undone.add(fact.branch)
            if isinstance(fact, fx.CompensationSkipped):
                self.excused.add(fact.branch)
        elif isinstance(fact, fx.Resolved):
            self.by_hand = True

    def _check_limit(self, branch: str) -> None:
        """Whether no more child sagas of a step go on than its limit allows."""
        step = self.step(branch)
        going = self.going.setdefault(step.name, set())
        going.add(branch)
        if step.limit is not None and len(going) > step.limit:
            raise Violation("limit", f"{len(going)} child sagas of {step.name!r} go on at once")

    def is_done(self, step: str) -> bool:
        """Whether a step as a whole is done."""
        count = self.items.get(step)
        if step in self.done or count is None:
            return step in self.done
        return all(f"{step}[{index}]" in self.done for index in range(count))

    def step(self, branch: str) -> StepPlan:
        """The step that a branch belongs to."""
        return self.plan.steps[branch.partition("[")[0]]

    def check_call(self, call: Call, branch: str) -> None:
        """Whether this call may begin. Raises `Violation`."""
        step = self.step(branch)
        if call.operation == "action":
            self.called.add(branch)
            self.refused.discard(branch)
            if self.undoing:
                raise Violation("order", f"{call} began after compensation had begun")
            for before in step.after:
                if not self.is_done(before):
                    raise Violation("order", f"{call} began before {before!r} was done")
            return
        if not self.undoing:
            raise Violation("order", f"{call} began, but compensation hasn't")
        if self.plan.pivot in self.completed:
            raise Violation("pivot", f"{call} began, though the pivot {self.plan.pivot!r} is done")
        for other in self.called | self.begun.keys():
            if self.step(other).name in self.plan.descendants[step.name] and self.left(other):
                raise Violation(
                    "order", f"{call} began before {other!r}, which builds on it, was undone"
                )

    def left(self, branch: str) -> bool:
        """Whether a branch may have had an effect, should have been undone, and hasn't been."""
        step = self.step(branch)
        undoable = not step.no_compensation if step.form == "child" else step.undo
        return undoable and branch not in self.refused and branch not in self.undone


def check_end(
    observed: Observed, status: str, calls: Sequence[Call], statuses: Mapping[UUID, str]
) -> None:
    """What must hold for an instance when all is quiet. Raises `Violation`.

    `statuses` are those of all instances, for its children.
    """
    own = [c for c in calls if c.instance == str(observed.id) and not c.late]
    if observed.by_hand:
        return
    if status == "compensated":
        for branch in observed.called | observed.begun.keys():
            if observed.left(branch):
                raise Violation("left", f"the saga is compensated, but {branch!r} wasn't undone")
        for branch, child in observed.begun.items():
            stands = statuses.get(child, "unknown")
            excused = branch in observed.excused or observed.step(branch).no_compensation
            if stands != "compensated" and not excused:
                raise Violation("left", f"the child saga of {branch!r} is {stands}, not undone")
        for branch in observed.refused:
            if observed.step(branch).transactional:
                continue  # what was refused was rolled back
            if any(c.returned and c.operation == "action" for c in own if _is(c, observed, branch)):
                raise Violation(
                    "left",
                    f"{branch!r} had taken effect and was refused when it was tried again, so it "
                    "wasn't undone: let the participant answer a repeated request as the first",
                )
        for branch in observed.undone - observed.excused:
            if observed.step(branch).form == "action":
                undos = [c for c in own if _is(c, observed, branch) and c.operation != "action"]
                if not any(c.returned for c in undos):
                    raise Violation("left", f"{branch!r} counts as undone, but no undo of it ended")
    elif status == "completed":
        for branch in observed.completed:
            if observed.step(branch).form == "action" and not any(
                c.returned and c.operation == "action" for c in own if _is(c, observed, branch)
            ):
                raise Violation("left", f"{branch!r} counts as done, but no call of it ended")
        for call in own:
            if call.operation == "compensation":
                raise Violation("undone", f"the saga is completed, but {call} was called")
        for name in observed.plan.steps:
            if not observed.is_done(name):
                raise Violation("left", f"the saga is completed, but {name!r} isn't done")
    keys: dict[tuple[str, str], str] = {}
    for call in own:
        if keys.setdefault((call.branch, call.operation), call.key) != call.key:
            raise Violation("key", f"{call} had another idempotency key than before")
    if len(set(keys.values())) != len(keys):
        raise Violation("key", "two branches share an idempotency key")


def _is(call: Call, observed: Observed, branch: str) -> bool:
    return call.branch == observed.label + branch


def check_ledgers(ledgers: Iterable[Ledger], observed: Observed, status: str) -> None:
    """What must hold for the participants, as far as they are ledgers. Raises `Violation`."""
    if observed.by_hand:
        return
    for ledger in ledgers:
        for key, entry in ledger.entries.items():
            instance, _, branch = key.partition(":")
            if instance != str(observed.id) or branch.partition("[")[0] not in observed.plan.steps:
                continue
            where = f"{ledger.name}: {observed.label}{branch}"
            if entry.posted > 1 and status in ("completed", "compensated"):
                raise Violation("twice", f"{where} took effect {entry.posted} times")
            undoable = observed.step(branch).undo
            if status == "compensated" and undoable and entry.posted != entry.reversed:
                how = f"posted {entry.posted} times, reversed {entry.reversed} times"
                if branch not in observed.excused:
                    raise Violation("left", f"{where} isn't undone: {how}")
            if status == "completed" and entry.reversed:
                raise Violation("undone", f"{where} was undone, but the saga is completed")


def difference(live: Machine, copy: Machine) -> str:
    """Where a machine differs from one that was folded from its journal; "" if nowhere."""
    for part in _PARTS:
        mine, its = getattr(live, part), getattr(copy, part)
        if mine != its:
            return f"{part} is {mine!r}, but the journal says {its!r}"
    if list(live.open) != list(copy.open):
        return f"open are {list(live.open)}, but the journal says {list(copy.open)}"
    if live.branches.keys() != copy.branches.keys():
        return f"it has {list(live.branches)}, but the journal has {list(copy.branches)}"
    for branch in live.branches.values():
        other = copy.branches[branch.id]
        for part in _BRANCH_PARTS:
            mine, its = getattr(branch, part), getattr(other, part)
            if mine != its:
                return f"{branch.id}.{part} is {mine!r}, but the journal says {its!r}"
    return ""
