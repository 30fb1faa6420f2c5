"""``standfast sagas …``: the commands that look at sagas and change nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from standfast.cli.batches import carry_out
from standfast.cli.loading import load, load_app, operating, perform
from standfast.cli.options import Address, App, AsJson, Code, Filters, Target, spread
from standfast.cli.output import age, as_json, moment, note, say, status, table
from standfast.errors import ConfigurationError, SagaError

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from standfast.app import Standfast
    from standfast.ports.journal import Instance
    from standfast.saga.compatibility import Problem
    from standfast.saga.operations import Operations
    from standfast.saga.timeline import Entry

sagas = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at sagas, start them, and act on them.",
)

MOODS = {"good": "green", "bad": "red", "held": "yellow"}


@sagas.command("list")
@spread
def list_(
    app: Target,
    filters: Filters,
    limit: Annotated[int, typer.Option(help="At most this many.")] = 50,
    after: Annotated[str, typer.Option(help="Go on below this id.", metavar="ID")] = "",
    count: Annotated[
        bool, typer.Option("--count", help="Only say how many there are, by saga and status.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List sagas, newest first."""
    from standfast.ids import parse_id
    from standfast.saga.export import row

    beginning = parse_id(after) if after else None
    if after and beginning is None:
        raise ConfigurationError(f"--after {after!r}: give a whole id")
    if count and (filters.given or after):
        raise ConfigurationError("--count counts all there are: leave the filters out")

    async def look() -> None:
        async with operating(load(app)) as ops:
            if count:
                _print_counts(dict(await ops.counts()), json)
                return
            page = await ops.page(filters.select(ops), limit=limit, after=beginning)
            now = ops.sagas.clock.now()
        if json:
            say(as_json([row(one) for one in page.instances]))
        else:
            print_instances(page.instances, now)
        if page.next is not None:
            note(f"there are more: --after {page.next}")

    perform(look())


def _print_counts(counts: dict[tuple[str, str], int], json: bool) -> None:
    rows = sorted((name, word, number) for (name, word), number in counts.items())
    if json:
        say(as_json([{"name": n, "status": word, "count": number} for n, word, number in rows]))
    else:
        table(["SAGA", "STATUS", "COUNT"], [(n, status(word), str(c)) for n, word, c in rows])


def print_instances(instances: Sequence[Instance], now: float) -> None:
    """A table of instances."""
    from standfast.saga.timeline import short

    table(
        ["ID", "SAGA", "KEY", "STATUS", "AGE", "STEP", "CAUSE"],
        [
            (
                str(one.id),
                f"{one.name} v{one.version}",
                "" if one.key == str(one.id) else one.key,
                status(one.status),
                age(one.created_at, now),
                one.step,
                short(one.cause),
            )
            for one in instances
        ],
    )


@sagas.command()
def show(
    app: Target,
    address: Address,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Tell where in the code each error was raised, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show one saga: how it stands, and all that happened to it."""
    from standfast.saga.export import record
    from standfast.saga.timeline import short, timeline

    async def look() -> None:
        async with operating(load(app)) as ops:
            instance = await ops.locate(address)
            (loaded,) = await ops.sagas.store.load([instance.id])
            (story,) = await ops.sagas.stories([instance.id])
            now = ops.sagas.clock.now()
        known_here = bool(ops.sagas.definitions.by_kind)
        if json:
            problem = story.problem if known_here else ""
            say(as_json(record(loaded) | {"problem": problem}))
            return
        one = loaded.instance
        say(f"{one.name} version {one.version}, {one.status}")
        facts = {
            "id": str(one.id),
            "key": one.key,
            "correlation id": one.correlation_id,
            "started": f"{moment(one.created_at)}, {age(one.created_at, now)} ago",
            "finished": moment(one.finished_at),
            "deadline": moment(one.deadline_at),
            "wakes": moment(one.wake_at if one.finished_at is None else None),
            "worker": "" if one.owner is None else f"lease {one.owner}",
            "step": one.step,
            "cause": one.cause,
        }
        for name, value in facts.items():
            if value:
                say(f"{name + ':':<16}{value}")
        say("")
        _print_timeline(timeline(story.facts), tracebacks=traceback)
        for mail in loaded.mails:
            say(f"not acted on yet: {mail.subject} {short(mail.body)}, sent {moment(mail.at)}")
        if story.problem and (known_here or len(story.facts) < len(loaded.facts)):
            note(f"note: {story.problem}")

    perform(look())


def _print_timeline(entries: list[Entry], *, tracebacks: bool) -> None:
    from standfast.saga.timeline import as_text

    for entry, line in zip(entries, as_text(entries).splitlines(), strict=True):
        typer.secho(line, fg=MOODS.get(entry.mood))
        if tracebacks and entry.traceback:
            say(indent(entry.traceback, " " * 11))


@sagas.command()
@spread
def export(
    app: Target,
    filters: Filters,
    to: Annotated[
        Path | None, typer.Option("--to", help="A new file; by default standard output.")
    ] = None,
) -> None:
    """Write sagas with their journals as JSON lines, those that can't be read too."""

    unreadable = 0

    async def lines(ops: Operations, out: TextIO) -> AsyncIterator[int]:
        nonlocal unreadable
        done = 0
        async for one in ops.export(filters.select(ops)):
            out.write(as_json(one, indent=None) + "\n")
            unreadable += bool(one["unreadable"])
            done += 1
            yield done

    async def write() -> None:
        async with operating(load(app)) as ops:
            filters.select(ops)  # before a file is made
            try:
                opened = nullcontext(sys.stdout) if to is None else to.open("x", encoding="ascii")
            except OSError as error:
                raise ConfigurationError(f"--to {to}: {error.strerror}") from error
            with opened as out:
                done = await carry_out(lines(ops, out), "export", again="export all")
        damaged = f", {unreadable} with something unreadable" if unreadable else ""
        note(f"exported {done} saga{'' if done == 1 else 's'}{damaged}")

    perform(write())


@sagas.command()
def diagram(
    app: Code,
    what: Annotated[
        str, typer.Argument(metavar="NAME|ID|NAME/KEY", help="A saga's name, or one instance.")
    ],
) -> None:
    """Print a Mermaid flowchart of a saga, or of one instance with what happened."""
    from standfast.saga.diagram import mermaid

    loaded = load_app(app)
    definitions = loaded.sagas.definitions
    if what in {definition.name for definition in definitions.by_kind.values()}:
        say(mermaid(definitions.of(what).plan).rstrip())
        return
    perform(_diagram(loaded, what))


async def _diagram(app: Standfast, address: str) -> None:
    from standfast.saga.diagram import mermaid

    async with operating(app) as ops:
        instance = await ops.locate(address)
        (story,) = await ops.sagas.stories([instance.id])
    if story.state is None:
        raise SagaError(f"saga {instance.id} can't be drawn: {story.problem}")
    say(mermaid(story.state.plan, story.state).rstrip())


@sagas.command()
def describe(
    app: Code,
    name: Annotated[str | None, typer.Argument(help="A saga's name; by default all.")] = None,
) -> None:
    """Print what sagas do and how each step is undone, as Markdown."""
    from standfast.saga.description import describe as description

    definitions = load_app(app).sagas.definitions
    chosen = list(definitions.by_kind.values()) if name is None else [definitions.of(name)]
    say("\n".join(description(one) for one in chosen).rstrip())


@sagas.command("check-compat")
@spread
def check_compat(
    app: App,
    filters: Filters,
    json: AsJson = False,
) -> None:
    """Replay stored journals against today's code; exit with 1 if one doesn't fit.

    By default of all unfinished sagas. Nothing is run and nothing is changed.
    """
    from standfast.saga import compatibility
    from standfast.saga.export import row
    from standfast.saga.status import UNFINISHED

    bad: list[tuple[Instance, Problem]] = []

    async def replayed(ops: Operations) -> AsyncIterator[int]:
        done = 0
        chosen = filters.select(ops, statuses=UNFINISHED)
        async for instance, found in compatibility.check(ops, chosen):
            bad.extend((instance, problem) for problem in found)
            done += 1
            yield done

    async def check() -> None:
        async with operating(load_app(app)) as ops:
            checked = await carry_out(replayed(ops), "replay", again="replay all")
        broken = len({instance.id for instance, _ in bad})
        if json:
            listed = [
                row(instance) | {"problem": problem.aspect, "text": problem.text}
                for instance, problem in bad
            ]
            say(as_json({"checked": checked, "broken": broken, "problems": listed}))
        else:
            if bad:
                table(
                    ["ID", "SAGA", "STATUS", "PROBLEM", "WHAT WOULD BREAK"],
                    [
                        (
                            str(instance.id),
                            f"{instance.name} v{instance.version}",
                            status(instance.status),
                            problem.aspect,
                            problem.text,
                        )
                        for instance, problem in bad
                    ],
                )
            note(f"checked {checked}: {broken} would break")
        if bad:
            raise typer.Exit(1)

    perform(check())
