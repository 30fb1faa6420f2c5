"""Whether today's code can go on with what is stored: journals are replayed, no step is run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from standfast.checks import plain_answer
from standfast.durations import moment
from standfast.errors import CodecError, CorruptRecord
from standfast.ports.journal import Filter, Instance, Loaded
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.context import Context
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.move import fold
from standfast.saga.operations import Operations
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.replay import replay
from standfast.saga.state import SagaState
from standfast.saga.status import STUCK
from standfast.text import named

AT_ONCE = 100
"""How many journals are in memory at once."""
AT_LEAST = 1.0
"""Seconds by which what is stored must be later to count: stores may round times."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What would break, and where.

    `aspect` is "journal" (unreadable), "version" (not registered: the text says whether `standfast
    sagas migrate` would move it), "step" (gone), "order" (a step that couldn't have begun there, or
    has another form now), "input", "result" or "signal" (doesn't decode), or "due" (it could go on,
    but is stored as one that waits, so that no worker looks at it).
    """

    aspect: str
    text: str


async def check(
    operations: Operations, filter: Filter, *, after: UUID | None = None
) -> AsyncIterator[tuple[Instance, list[Problem]]]:
    """Each instance that matches, with its problems; an empty list means that all is well.

    Newest first; with `after` those below that id.
    """
    some: list[Instance] = []
    async for instance in operations.each(filter, after=after):
        some.append(instance)
        if len(some) == AT_ONCE:
            for found in await _check_some(operations, some):
                yield found
            some = []
    for found in await _check_some(operations, some):
        yield found


async def _check_some(
    operations: Operations, instances: Sequence[Instance]
) -> list[tuple[Instance, list[Problem]]]:
    definitions = operations.sagas.definitions
    loaded = await operations.sagas.journal.load([instance.id for instance in instances])
    now = operations.sagas.clock.now()
    return [(one.instance, problems(definitions, one, now)) for one in loaded]


def problems(definitions: Definitions, loaded: Loaded, now: float) -> list[Problem]:
    """What would break if this instance were run by `definitions`."""
    try:
        facts = [fx.decode(text, number) for number, text in enumerate(loaded.facts)]
    except CorruptRecord as error:
        return [Problem("journal", str(error))]
    if not facts:
        return [Problem("journal", "it has no facts")]
    name, version = loaded.instance.name, loaded.instance.version
    for fact in facts:
        if isinstance(fact, (fx.Started, fx.Migrated)):
            version = fact.version
    definition = definitions.by_kind.get((PATTERN, name, version))
    if definition is None:
        return [_unregistered(definitions, loaded, facts, version)]
    gone = _gone(definition, facts)
    if gone is not None:
        return [gone]
    state = Machine(loaded.instance.id, definition.plan, definition.misfit)
    try:
        replay(state, facts)
    except CorruptRecord as error:
        return [Problem("order", str(error))]
    except Exception as error:  # noqa: BLE001 - whatever breaks here would break the worker too
        return [Problem("order", f"the replay ends with {named(error)}")]
    changed = _changed(state)
    if changed:
        return changed
    found = _undecodable(definition, state)
    if loaded.instance.finished_at is not None and not state.outcome:
        left = ", ".join(n for n in definition.steps if n not in state.branches) or "some steps"
        found.append(Problem("order", f"it is finished, but to this code {left} isn't done"))
    return found or _overlooked(definition, loaded, state, now)


def _overlooked(
    definition: Definition, loaded: Loaded, machine: Machine, now: float
) -> list[Problem]:
    """What this code would go on with, of one that is stored as waiting for something else."""
    row = loaded.instance
    if row.finished_at is not None or row.owner is not None or loaded.mails or loaded.recoveries:
        return []  # nothing is left to do, or it is looked at soon
    stuck = machine.parked or any(one.undo == "failed" for one in machine.branches.values())
    if row.status in STUCK and not stuck:
        return []  # it was set aside, and goes on once somebody retries it
    due = _due(definition, machine, now)
    wakes_at = now if due else machine.wake_at()
    if wakes_at is None or (row.wake_at is not None and row.wake_at <= wakes_at + AT_LEAST):
        return []
    what = due or f"it has something to do at {moment(wakes_at)}"
    until = "" if row.wake_at is None else f" before {moment(row.wake_at)}"
    text = (
        f"to this code {what}, but it is stored as {row.status}, so that no worker looks at it"
        f"{until}: give the code a new version and a migration, or wake it, once that code runs, "
        f"with `standfast sagas signal resume {row.id}`"
    )
    return [Problem("due", text)]


def _due(definition: Definition, machine: Machine, now: float) -> str:
    """What would go on at once; "" for nothing. The machine is of no use after that."""
    if machine.outcome:
        return f"it is {machine.outcome}"
    names: list[str] = []
    while not names:
        names = [_subject(fact) for fact in machine.handle(ev.Tick(), now)]
        holding: list[Branch] = []
        for command in machine.commands(now):
            branch = command.branch
            if branch.step.form == "wait" and _holds(definition, machine, branch):
                holding.append(branch)  # it waits on, as workers found, which isn't stored
            elif branch.step.limit is None or not machine.branches[branch.step.name].live:
                names.append(branch.id)  # else it goes on when a child saga has ended
        for branch in holding:
            branch.answered = True
            machine.running.discard(branch.id)
        if not holding:
            break
    return f"{', '.join(dict.fromkeys(names))} is due" if names else ""


def _subject(fact: fx.Fact) -> str:
    return getattr(fact, "branch", "") or str(fact.__struct_config__.tag).replace("_", " ")


def _holds(definition: Definition, machine: Machine, branch: Branch) -> bool:
    """Whether the condition of a wait holds; one that raises would end the wait, too."""
    when = definition.steps[branch.step.name].when
    ctx = Context(definition, machine, branch, "action", 1, None)
    try:
        return when is not None and bool(
            plain_answer(when(definition.saga, definition.input(machine), ctx), name="when=")
        )
    except Exception:  # noqa: BLE001 - the user's function
        return False


def _unregistered(
    definitions: Definitions, loaded: Loaded, facts: Sequence[fx.AnyFact], version: int
) -> Problem:
    """That its version isn't there, and whether `standfast sagas migrate` would help."""
    name, id = loaded.instance.name, loaded.instance.id
    others = sorted((d for d in definitions.by_kind.values() if d.name == name), key=_version)
    known = ", ".join(str(d.version) for d in others)
    has = f"version{'s' * (len(others) > 1)} {known}" if others else "no version of it"
    text = f"version {version} isn't registered; this app has {has}"
    if loaded.instance.finished_at is None:
        for other in reversed(others):
            if version not in other.saga.migrations:
                continue
            try:
                fold(other, id, facts, version)
            except Exception as error:  # noqa: BLE001 - as in `problems`; it is told
                text += f"; it can't move to version {other.version}: {error}"
            else:
                text += f"; it can move: `standfast sagas migrate {id} --to {other.version}`"
                break
    return Problem("version", text)


def _version(definition: Definition) -> int:
    return definition.version


def _gone(definition: Definition, facts: Sequence[fx.AnyFact]) -> Problem | None:
    """The first fact about a step that isn't there any more, under whatever name."""
    renamed = {old for fact in facts if isinstance(fact, fx.Migrated) for old in fact.renamed}
    for number, fact in enumerate(facts):
        name = str(getattr(fact, "branch", "")).partition("[")[0]
        if name and name not in definition.plan.steps and name not in renamed:
            where = f"journal row {number} ({type(fact).__name__})"
            return Problem("step", f"{where}: step {name!r} is gone from the code")
    return None


def _changed(state: SagaState) -> list[Problem]:
    """The steps that were begun as another form of step than they are now."""
    found: list[Problem] = []
    for branch in state.branches.values():
        step = branch.step
        whole = branch.item is None
        if branch.children and not step.fans_out:
            found.append(Problem("order", f"step {step.name!r} doesn't fan out any more"))
        elif whole and step.fans_out and branch.result is not None:
            found.append(Problem("order", f"step {step.name!r} ran once, and now fans out"))
        elif branch.until and step.form != "sleep":
            found.append(Problem("order", f"step {step.name!r} sleeps no more"))
        elif branch.child is not None and step.form != "child":
            found.append(Problem("order", f"step {step.name!r} runs no child saga any more"))
    return found


def _undecodable(definition: Definition, state: SagaState) -> list[Problem]:
    """The stored values that don't decode to the types in today's code."""
    found: list[Problem] = []

    def decode(aspect: str, what: str, data: Any, type: Any) -> None:
        try:
            definition.codec.decode(data, type)
        except CodecError as error:
            found.append(Problem(aspect, f"{what}: {error}"))

    decode("input", "its input", state.started.input, definition.input_type)
    for branch in state.branches.values():
        name = branch.step.name
        if branch.item_value is not None:
            type = definition.item_types[name]
            decode("input", f"item {branch.id}", branch.item_value, type)
        if branch.result is not None and not branch.fans_out:
            type = definition.result_types[name]
            decode("result", f"the result of {branch.id}", branch.result, type)
    for signal in state.signals:
        for step in definition.steps.values():
            if step.options.get("signal") == signal.name:
                type = definition.result_types[step.name]
                decode("signal", f"the signal {signal.name!r}", signal.payload, type)
    return found
