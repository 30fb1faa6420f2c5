"""What a command remarks beside its answer: that no worker is there, or a name that nothing has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from standfast.cli.output import age, note
from standfast.text import did_you_mean

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from standfast.cli.options import Filters
    from standfast.ports.journal import Instance, Mail
    from standfast.saga.operations import Operations


async def lacking(ops: Operations, kinds: Iterable[tuple[str, int]]) -> list[str]:
    """Those of the (name, version) that no live worker has, as ``pay-out v1``."""
    from standfast.saga.registry import PATTERN

    workers = ops.sagas.workers
    every = dict.fromkeys(kinds)
    return [
        f"{name} v{version}"
        for name, version in every
        if await workers.lack((PATTERN, name, version))
    ]


async def note_lacking(ops: Operations, kinds: Iterable[tuple[str, int]], then: str) -> None:
    """Remark that nobody runs these sagas now, and what happens `then`."""
    for kind in await lacking(ops, kinds):
        note(f"no live worker has {kind}: {then} one runs (standfast run)")


async def note_due(ops: Operations, instances: Sequence[Instance], now: float) -> None:
    """Remark which instances are due, or were told something, and have no worker to run them.

    Or none with a slot for them.
    """
    from standfast.saga.workers import is_due

    due = Counter((one.name, one.version) for one in instances if is_due(one, now))
    without = await lacking(ops, due)
    for (name, version), number in due.items():
        kind = f"{name} v{version}"
        if kind in without:
            note(
                f"no live worker has {kind}, and {number} of these wait{'s' * (number == 1)} for "
                "one: start it (standfast run)"
            )
    rows = {(one.name, one.version): one for one in instances if is_due(one, now)}
    for row in rows.values():
        if full := await ops.sagas.workers.full(row):
            number = due[row.name, row.version]
            note(
                f"{number} of {row.name} v{row.version} wait{'s' * (number == 1)} for a slot: "
                f"{full}"
            )


async def note_children(ops: Operations, instances: Sequence[Instance]) -> None:
    """Remark which child sagas go on though their parent is ended by hand."""
    from standfast.saga.timeline import go_on

    for id, goes_on in (await ops.pending(instances)).items():
        children = [one.child for one in goes_on if one.child is not None]
        if children:
            note(f"{id}: {go_on(children)}")


def unread(mail: Mail, now: float) -> str:
    """That a mail wasn't acted on yet, in a few words."""
    return f"{mail.subject} asked {age(mail.at, now)} ago, not acted on yet"


async def note_unknown(ops: Operations, filters: Filters) -> None:
    """Remark that a filter matched nothing because nothing can have what it asks for."""
    definitions = ops.sagas.definitions.by_kind.values()
    if filters.name and filters.name not in {one.name for one in definitions}:
        named = ops.select(name=filters.name)
        if not (await ops.page(named, limit=1)).instances:
            known = {one.name for one in definitions} or {name for name, _ in await ops.counts()}
            where = "in this app or its database" if definitions else "in this database"
            near = did_you_mean(filters.name, known)
            note(f"note: no saga is named {filters.name!r} {where}{near}")
            return
    if filters.step and definitions:
        meant = [one for one in definitions if filters.name in ("", one.name)]
        steps = {step for one in meant for step in one.steps}
        item = filters.step.partition("[")[0]
        found = await ops.page(ops.select(name=filters.name, step=filters.step), limit=1)
        if steps and item not in steps and not found.instances:
            whose = f"saga {filters.name!r}" if filters.name else "no saga of this app"
            verb = "has no step" if filters.name else "has a step"
            note(f"note: {whose} {verb} {filters.step!r}{did_you_mean(item, steps)}")
