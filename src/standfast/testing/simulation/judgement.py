"""When all is quiet: whether everything holds that must, and what the user's checks see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from standfast.backends.memory.journal.state import JournalState
from standfast.testing.simulation.invariants import (
    Observed,
    Violation,
    World,
    check_end,
    check_ledgers,
)

if TYPE_CHECKING:
    from standfast.testing.simulation.play import Play

AT_REST = ("completed", "compensated", "parked", "compensation_failed")
MAY_LAST = ("parked", "compensation_failed", "waiting", "compensating")


def judge(play: Play) -> None:
    """Check what must hold at the end of a run. Raises `Violation`."""
    if play.loop.is_runaway:
        raise Violation("endless", f"it doesn't end: {play.loop.turns} turns of the event loop")
    records = play.database.state(JournalState).records
    statuses = {id: record.instance.status for id, record in records.items()}
    for call in play.calls:
        if not call.ended and not call.late:
            raise Violation("stuck", f"{call} waits for something that never comes")
    for id, status in statuses.items():
        observed = play.instances[id]
        check_end(observed, status, play.calls, statuses)
        check_ledgers(play.ledgers, observed, status)
    for observed in play.instances.values():
        _check_rest(play, observed, statuses)
    check(play, play.rules.invariants)
    if play.violation is None:
        check(play, play.rules.always)


def _check_rest(play: Play, observed: Observed, statuses: Mapping[UUID, str]) -> None:
    """Whether there is a reason for not having ended. Raises `Violation`."""
    status = statuses.get(observed.id, "running")
    if status == "compensation_failed" and play.operator.tried_all(observed.id):
        error = next((c.ended for c in reversed(play.calls) if c.ended not in ("", "done")), "")
        raise Violation("undo fails", f"an undo can't succeed: {error}")
    if status in AT_REST or play.senders.withheld(observed):
        return
    if status == "waiting" and not play.rules.operated:
        return  # in a unit test, a signal that isn't given isn't sent
    if any(statuses.get(child) in MAY_LAST for child in observed.begun.values()):
        return
    raise Violation("stuck", f"the saga stays {status!r}, and nothing will move it")


def check(play: Play, checks: Sequence[Callable[[World], Any]]) -> None:
    """Let the user's checks look at the world; what they don't like is a violation."""
    if not checks:
        return
    world = world_of(play)
    for one in checks:
        name = getattr(one, "__name__", repr(one))
        try:
            answer = one(world)
        except AssertionError as error:
            text = f"{name}: {str(error) or 'an assertion failed'}"
            play.violated(f"invariant {name}", text)
            return
        except Exception as error:  # noqa: BLE001 — a check that breaks isn't a check that holds
            text = f"{name} raised {type(error).__name__}: {error}"
            play.violated(f"invariant {name}", text)
            return
        if answer is False:
            play.violated(f"invariant {name}", f"{name} doesn't hold")
            return


def world_of(play: Play) -> World:
    """The world as it is now."""
    record = play.database.state(JournalState).record(play.root)
    observed = play.instances.get(play.root)

    def results() -> dict[str, Any]:
        if observed is None:
            return {}
        return play.main.results(play.definitions.new(play.root, play.main, observed.facts))

    return World(
        play.saga_objects[0],
        play.saga_objects,
        play.input,
        record.instance.status if record is not None else "running",
        record.instance.cause if record is not None else "",
        play.calls,
        play.loop.elapsed,
        play.database.sql,
        results,
    )


def path_of(play: Play) -> int:
    """A number for the way that this run went."""
    facts = [
        (type(fact).__name__, getattr(fact, "branch", ""))
        for observed in play.instances.values()
        for fact in observed.facts
    ]
    calls = [(c.branch, c.operation, c.ended == "done", c.returned) for c in play.calls]
    return hash((tuple(facts), tuple(calls)))
