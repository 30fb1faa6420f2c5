"""Whether today's code can go on with what is stored: journals are replayed, no step is run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from standfast.errors import CodecError, CorruptRecord
from standfast.ports.journal import Filter, Instance, Loaded
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.move import fold
from standfast.saga.operations import Operations
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.replay import replay
from standfast.saga.state import SagaState
from standfast.text import named

AT_ONCE = 100
"""How many journals are in memory at once."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What would break, and where.

    `aspect` is "journal" (unreadable), "version" (not registered: the text says whether `standfast
    sagas migrate` would move it), "step" (gone), "order" (a step that couldn't have begun there, or
    has another form now), "input", "result" or "signal" (doesn't decode).
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
    return [(one.instance, problems(definitions, one)) for one in loaded]


def problems(definitions: Definitions, loaded: Loaded) -> list[Problem]:
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
    state = SagaState(loaded.instance.id, definition.plan)
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
    return found


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
