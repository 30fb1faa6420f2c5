"""``standfast sagas …``: the commands that look at sagas and change nothing."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from standfast.cli.batches import carry_out
from standfast.cli.loading import load, load_app, operating, perform
from standfast.cli.notices import note_due, note_lacking, note_unknown, unread
from standfast.cli.options import (
    TAKES_AN_ARGUMENT,
    Address,
    App,
    AsJson,
    Filters,
    Target,
    app_first,
    spread,
)
from standfast.cli.output import (
    age,
    as_json,
    colored,
    is_narrow,
    note,
    say,
    status,
    table,
    writing,
)
from standfast.cli.tables import print_counts, print_instances, print_stuck, saga_name
from standfast.durations import moment
from standfast.errors import ConfigurationError, SagaError
from standfast.ids import short_ids
from standfast.text import on_one_line

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from standfast.app import Standfast
    from standfast.ports.journal import Instance
    from standfast.saga.compatibility import Problem
    from standfast.saga.operations import Operations

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
    stuck: Annotated[
        bool,
        typer.Option("--stuck", help="What waits for an operator, in groups by step and error."),
    ] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Only say how many there are, by saga and status.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List sagas, newest first, with what each does or waits for.

    On a terminal, ids are shortened to their ends, which all commands take.
    """
    from standfast.saga.export import row

    after = filters.beginning
    if count and (filters.given or after or stuck):
        raise ConfigurationError("--count counts all there are: leave the other filters out")
    if stuck and (filters.status or after):
        raise ConfigurationError("--stuck takes all that are stuck: leave --status and --after out")

    loaded_app = load(app)

    async def look() -> None:
        async with operating(loaded_app) as ops:
            now = ops.sagas.clock.now()
            if count:
                print_counts(dict(await ops.counts()), json)
                return
            if stuck:
                groups = await ops.stuck(filters.select(ops))
                print_stuck(groups, now, json)
                if not groups:
                    await note_unknown(ops, filters)
                return
            page = await ops.page(filters.select(ops), limit=limit, after=after)
            goes_on = await ops.pending(page.instances)
            unread = {} if json else await ops.unread(page.instances)
            await note_due(ops, page.instances, now)
            if not page.instances:
                await note_unknown(ops, filters)
        if json:
            rows = [
                row(one) | {"pending": [each.as_json() for each in goes_on.get(one.id, ())]}
                for one in page.instances
            ]
            say(as_json(rows))
        else:
            print_instances(page.instances, goes_on, now, unread)
        if page.next is not None:
            note(f"there are more: --after {page.next}")

    perform(look())


@sagas.command()
def show(
    app: Target,
    address: Address,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Tell where in the code each error was raised, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show one saga: how it stands, what it does or waits for, and all that happened to it."""
    from standfast.saga.export import record
    from standfast.saga.timeline import short, since_start
    from standfast.saga.workers import is_due

    loaded_app = load(app)

    async def look() -> None:
        async with operating(loaded_app) as ops:
            instance = await ops.locate(address)
            (loaded,) = await ops.sagas.journal.load([instance.id])
            workers = ops.sagas.workers
            holders, full = await workers.holders(), await workers.full(loaded.instance)
            now = ops.sagas.clock.now()
            one = loaded.instance
            if loaded.mails or is_due(one, now):
                await note_lacking(ops, [(one.name, one.version)], "it goes on when")
        told = ops.sagas.timeline_of(loaded, holders, full)
        known_here = bool(ops.sagas.definitions.by_kind)
        problem = told.problem if known_here or len(told.entries) < len(loaded.facts) else ""
        if json:
            plain = told.as_json()
            say(
                as_json(
                    record(loaded)
                    | {"problem": problem}
                    | {"timeline": plain["entries"], "pending": plain["pending"]}
                )
            )
            return
        asked = loaded.mails[-1] if loaded.mails else None
        say(f"{on_one_line(one.name)} version {one.version}, {one.status}")
        facts = [
            ("id", str(one.id)),
            ("key", one.key),
            ("correlation id", one.correlation_id),
            ("started", f"{moment(one.created_at)}, {age(one.created_at, now)} ago"),
            ("finished", moment(one.finished_at)),
            ("deadline", moment(one.deadline_at)),
            ("wakes", moment(one.wake_at if one.finished_at is None else None)),
            ("worker", "" if one.owner is None else holders.get(one.owner, f"lease {one.owner}")),
            ("step", one.step),
            ("cause", one.cause),
            *(
                # It waits for a worker, then, and not for an operator.
                ("now", f"{each.branch}: {unread(asked, now)}")
                if asked is not None and each.kind == "operator"
                else ("now", each.told(now))
                for each in told.pending
            ),
        ]
        table(
            ["FACT", "VALUE"],
            [(f"{name}:", value) for name, value in facts if value],
            header=False,
        )
        say("")
        table(
            ["AFTER", "STEP", "WHAT"],
            [
                (
                    since_start(entry),
                    colored(entry.branch, MOODS.get(entry.mood)),
                    colored(entry.text, MOODS.get(entry.mood)),
                )
                for entry in told.entries
            ],
            header=False,
            right=["AFTER"],
        )
        if traceback:
            for entry in told.entries:
                if entry.traceback:
                    say(f"\n{since_start(entry)} {on_one_line(entry.branch)}:")
                    say(indent(entry.traceback, "  ").rstrip())
        for mail in loaded.mails:
            what = on_one_line(mail.subject)
            say(f"not acted on yet: {what} {short(mail.body)}, sent {moment(mail.at)}")
        if problem:
            note(f"note: {problem}")

    perform(look())


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

    after = filters.beginning  # before a file is made, as all that may be refused
    unreadable = 0
    last = ""

    async def lines(ops: Operations, out: TextIO) -> AsyncIterator[int]:
        nonlocal unreadable, last
        done = 0
        async for one in ops.export(filters.select(ops), after=after):
            out.write(as_json(one, indent=None) + "\n")
            unreadable += bool(one["unreadable"])
            last = one["instance"]["id"]
            done += 1
            yield done

    def remedy() -> str:
        where = "" if to is None else " and another --to"
        return f"go on with the same command, --after {last}{where}"

    loaded_app = load(app)

    async def write() -> None:
        async with operating(loaded_app) as ops:
            filters.select(ops)  # also before
            try:
                opened = nullcontext(sys.stdout) if to is None else to.open("x", encoding="ascii")
            except OSError as error:
                raise ConfigurationError(f"--to {to}: {error.strerror}") from error
            with writing("" if to is None else f"--to {to}"), opened as out:
                done = await carry_out(lines(ops, out), "export", remedy=remedy)
                out.flush()
            if not done:
                await note_unknown(ops, filters)
        damaged = f", {unreadable} with something unreadable" if unreadable else ""
        note(f"exported {done} saga{'' if done == 1 else 's'}{damaged}")

    perform(write())


@sagas.command()
def diagram(
    app: App,
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
    app: App,
    name: Annotated[str | None, typer.Argument(help="A saga's name; by default all.")] = None,
) -> None:
    """Print what sagas do and how each step is undone, as Markdown."""
    from standfast.saga.description import describe as description

    definitions = load_app(app).sagas.definitions
    chosen = list(definitions.by_kind.values()) if name is None else [definitions.of(name)]
    say("\n".join(description(one) for one in chosen).rstrip())


@sagas.command("check-compat", context_settings=TAKES_AN_ARGUMENT)
@app_first
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
    last = ""

    async def replayed(ops: Operations) -> AsyncIterator[int]:
        nonlocal last
        done = 0
        chosen = filters.select(ops, statuses=UNFINISHED)
        async for instance, found in compatibility.check(ops, chosen, after=filters.beginning):
            bad.extend((instance, problem) for problem in found)
            last = str(instance.id)
            done += 1
            yield done

    def remedy() -> str:
        return f"{len(bad)} problems so far; go on with the same command and --after {last}"

    loaded_app = load_app(app)

    async def check() -> None:
        async with operating(loaded_app) as ops:
            checked = await carry_out(replayed(ops), "replay", remedy=remedy)
            if not checked:
                await note_unknown(ops, filters)
        broken = len({instance.id for instance, _ in bad})
        if json:
            listed = [
                row(instance) | {"problem": problem.aspect, "text": problem.text}
                for instance, problem in bad
            ]
            say(as_json({"checked": checked, "broken": broken, "problems": listed}))
        else:
            if bad:
                shown = short_ids(instance.id for instance, _ in bad)
                table(
                    ["ID", "SAGA", "STATUS", "PROBLEM", "WHAT WOULD BREAK"],
                    [
                        (
                            shown[instance.id] if is_narrow() else str(instance.id),
                            f"{saga_name(instance.name)} v{instance.version}",
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
