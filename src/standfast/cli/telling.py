"""One act on the sagas that were chosen: shown or confirmed, sent in batches, and told of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.cli.batches import carry_out, confirm
from standfast.cli.loading import load, operating, perform
from standfast.cli.notices import note_children, note_lacking, note_unknown
from standfast.cli.options import Chosen, Found
from standfast.cli.output import as_json, note, say, say_list
from standfast.cli.tables import print_instances

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from uuid import UUID

    from standfast.ports.journal import Instance
    from standfast.saga.events import Mailed
    from standfast.saga.operations import Operations


def ask(
    app: str,
    verb: str,
    kind: type[Mailed],
    make: Callable[[Operations, Sequence[Instance]], Mailed],
    chosen: Chosen,
    *,
    mail_id: str | None = None,
    before: Callable[[Operations], None] = lambda ops: None,
) -> None:
    """Find, show or confirm, send in batches, and say what became of it.

    `make` makes the act, which is of type `kind`, for those that were found; `verb` says it.
    `before` may refuse what was typed before any are looked for.
    """
    from standfast.saga.acts import check
    from standfast.saga.events import ResolveAsked

    asked: list[UUID] = []  # only as JSON they are all told
    last = ""
    kinds: list[tuple[str, int]] = []
    loaded_app = load(app)

    async def act() -> None:
        nonlocal kinds
        async with operating(loaded_app) as ops:
            before(ops)
            found = await chosen.find(ops, kind, verb)
            act = make(ops, found.examples)
            check(act)
            if kind is ResolveAsked:
                await note_children(ops, found.examples)
            if chosen.dry_run:
                await _show(ops, kind, chosen, found)
                note(f"{verb}: would touch {many(found.count)}; nothing was done")
                return
            if found.count and not chosen.addresses:
                confirm(f"{verb}: touch {many(found.count)}?", yes=chosen.yes)

            async def told() -> AsyncIterator[int]:
                nonlocal last
                after = chosen.beginning
                async for progress in ops.tell(act, found.where, after=after, mail_id=mail_id):
                    last = str(progress.last)
                    if chosen.json:
                        asked.extend(progress.ids)
                    yield progress.done

            def remedy() -> str:
                if chosen.addresses:
                    return f"go on with those after {last}"
                return f"go on with the same command and --after {last}"

            done = await carry_out(told(), verb, found.count, remedy=remedy)
            if done:
                kinds = await _acting(ops, act, found.examples)
                await note_lacking(ops, kinds, "they are acted on when")
            else:
                await note_unknown(ops, chosen)
        if chosen.json:
            say(as_json({"asked": done, "ids": [str(id) for id in asked]}))
        else:
            acting = "; a worker acts on it" if kinds else "; it was done at once"
            say(f"{verb}: asked {many(done)}{acting if done else ': nothing that it could change'}")

    perform(act())


async def _acting(
    ops: Operations, act: Mailed, examples: Sequence[Instance]
) -> list[tuple[str, int]]:
    """The (name, version) whose workers carry an act out."""
    from standfast.saga.events import MigrateAsked, ResolveAsked
    from standfast.saga.status import UNFINISHED

    if isinstance(act, MigrateAsked):  # done by those of the version that it leads to
        return [(one.name, act.version) for one in examples]
    if isinstance(act, ResolveAsked):  # done at once where nobody has the code
        ids = tuple(one.id for one in examples)
        left = replace(ops.select(statuses=UNFINISHED), ids=ids)
        examples = [one async for one in ops.each(left)]
    return [(one.name, one.version) for one in examples]


SHOWN = 100
"""Rows of a table that only shows what would be touched."""


async def _show(ops: Operations, act: type[Mailed], chosen: Chosen, found: Found) -> None:
    """Print the instances that an act would touch: as JSON all of them, one after the other."""
    from standfast.saga.export import row

    async def each() -> AsyncIterator[Instance]:
        if isinstance(found.where, list):
            for one in found.examples:
                yield one
            return
        async for one in ops.matching(act, found.where, after=chosen.beginning):
            yield one

    if chosen.json:
        await say_list(row(one) async for one in each())
        return
    first: list[Instance] = []
    async for one in each():
        if len(first) == SHOWN:
            break
        first.append(one)
    print_instances(first, await ops.pending(first), ops.sagas.clock.now())
    if found.count > len(first):
        note(f"and {found.count - len(first)} more")


def many(number: int | None) -> str:
    """So many sagas, in words."""
    return f"{number} saga{'' if number == 1 else 's'}"
