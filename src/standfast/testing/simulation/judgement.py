"""When all is quiet: whether everything holds that must, and what the user's checks see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from standfast.backends.memory.journal.state import JournalState
from standfast.checks import plain_answer
from standfast.saga.status import AT_REST
from standfast.testing.simulation.invariants import (
    Observed,
    Violation,
    World,
    check_end,
    check_ledgers,
)
from standfast.testing.simulation.people import Operator, Senders
from standfast.testing.simulation.scene import Scene
from standfast.text import named, told

MAY_LAST = ("parked", "compensation_failed", "waiting", "compensating")


def judge(scene: Scene, operator: Operator, senders: Senders) -> None:
    """Check what must hold at the end of a run. Raises `Violation`."""
    if scene.loop.is_runaway:
        raise Violation("endless", f"it doesn't end: {scene.loop.turns} turns of the event loop")
    records = scene.database.state(JournalState).records
    statuses = {id: record.instance.status for id, record in records.items()}
    for call in scene.calls:
        if not call.ended and not call.late:
            raise Violation("stuck", f"{call} waits for something that never comes")
    for id, status in statuses.items():
        observed = scene.instances[id]
        check_end(observed, status, scene.calls, statuses)
        check_ledgers(scene.ledgers.values(), observed, status)
    for observed in scene.instances.values():
        _check_rest(scene, operator, senders, observed, statuses)
    check(scene, scene.rules.invariants)
    if scene.violation is None:
        check(scene, scene.rules.always)


def _check_rest(
    scene: Scene,
    operator: Operator,
    senders: Senders,
    observed: Observed,
    statuses: Mapping[UUID, str],
) -> None:
    """Whether there is a reason for not having ended. Raises `Violation`."""
    status = statuses.get(observed.id, "running")
    if status == "compensation_failed" and operator.tried_all(observed.id):
        error = next((c.ended for c in reversed(scene.calls) if c.ended not in ("", "done")), "")
        raise Violation("undo fails", f"an undo can't succeed: {error}")
    if status in AT_REST or senders.withheld(observed):
        return
    if status == "waiting" and not scene.rules.operated:
        return  # in a unit test, a signal that isn't given isn't sent
    if any(statuses.get(child) in MAY_LAST for child in observed.begun.values()):
        return
    raise Violation("stuck", f"the saga stays {status!r}, and nothing will move it")


def check(scene: Scene, checks: Sequence[Callable[[World], Any]]) -> None:
    """Let the user's checks look at the world; what they don't like is a violation."""
    if not checks:
        return
    world = world_of(scene)
    for one in checks:
        name = getattr(one, "__name__", repr(one))
        try:
            answer = plain_answer(one(world), name=f"the check {name}")
        except AssertionError as error:
            text = f"{name}: {told(error) or 'an assertion failed'}"
            scene.violated(f"invariant {name}", text)
            return
        except Exception as error:  # noqa: BLE001 — a check that breaks isn't a check that holds
            text = f"{name} raised {named(error)}"
            scene.violated(f"invariant {name}", text)
            return
        if answer is False:
            scene.violated(f"invariant {name}", f"{name} doesn't hold")
            return


def world_of(scene: Scene) -> World:
    """The world as it is now."""
    record = scene.database.state(JournalState).record(scene.root)
    observed = scene.instances.get(scene.root)

    def results() -> dict[str, Any]:
        if observed is None:
            return {}
        return scene.main.results(scene.definitions.new(scene.root, scene.main, observed.facts))

    return World(
        scene.saga_objects[0],
        scene.saga_objects,
        scene.input,
        record.instance.status if record is not None else "running",
        record.instance.cause if record is not None else "",
        scene.calls,
        scene.loop.elapsed,
        scene.database.tables,
        results,
    )


def path_of(scene: Scene) -> int:
    """A number for the way that this run went."""
    facts = [
        (type(fact).__name__, getattr(fact, "branch", ""))
        for observed in scene.instances.values()
        for fact in observed.facts
    ]
    calls = [(c.branch, c.operation, c.ended == "done", c.returned) for c in scene.calls]
    return hash((tuple(facts), tuple(calls)))
