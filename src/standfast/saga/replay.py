"""How a stored journal becomes the state of its instance again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from standfast.errors import CorruptRecord
from standfast.saga import facts as fx
from standfast.saga.names import Names, with_step
from standfast.saga.state import SagaState


def replay(
    state: SagaState, facts: Sequence[fx.AnyFact], *, renamed: Mapping[str, str] | None = None
) -> None:
    """Fold a stored journal into a fresh `state`, renaming branches as migrations said.

    `renamed`: the new names that a migration after these facts is about to give. Actions that were
    open at the end may have run: they are marked so. Raises `CorruptRecord`, naming the row, when
    the journal doesn't fit the plan.
    """
    migrations = [fact.renamed for fact in facts if isinstance(fact, fx.Migrated)]
    if migrations or renamed:
        state.names = Names(*migrations, renamed or {})
    for number, fact in enumerate(_renamed(facts, dict(renamed or {}))):
        if isinstance(fact, fx.Started) != (number == 0):
            raise CorruptRecord(f"journal row {number} is {type(fact).__name__}: out of place")
        name = getattr(fact, "branch", None)
        if name is not None and name not in state.branches:
            raise CorruptRecord(
                f"journal row {number} ({type(fact).__name__}) speaks of {name!r}, which "
                f"{state.plan.name} version {state.plan.version} can't have begun there"
            )
        state.apply(fact)
    for branch in state.open.values():
        if branch.step.form == "action":
            branch.touched = True


def _renamed(facts: Sequence[fx.AnyFact], names: dict[str, str]) -> list[fx.AnyFact]:
    """The facts with the names that the migrations after each of them gave to its steps."""
    out: list[fx.AnyFact] = []

    def new(name: str) -> str:
        return with_step(name, names)

    for fact in reversed(facts):
        if isinstance(fact, fx.Migrated):
            names = {**names, **{old: names.get(now, now) for old, now in fact.renamed.items()}}
        elif isinstance(fact, fx.CompensationStarted) and names:
            doubt = [new(name) for name in fact.in_doubt]
            fact = msgspec.structs.replace(fact, step=new(fact.step), in_doubt=doubt)
        elif names and (branch := getattr(fact, "branch", None)) is not None:
            fact = msgspec.structs.replace(fact, branch=new(branch))
        out.append(fact)
    out.reverse()
    return out
