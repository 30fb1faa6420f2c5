"""The commands about an app as a whole, and the root of all the others.

What a command does stands in a module of its own, which is loaded when the command is run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from standfast import __version__
from standfast.cli import acts  # noqa: F401 - its commands join those of `sagas`
from standfast.cli.batches import carry_out, confirm
from standfast.cli.loading import load, opened, perform
from standfast.cli.options import TAKES_AN_ARGUMENT, App, AsJson, Target, Yes, app_first, with_unit
from standfast.cli.output import Commands, as_json, say
from standfast.cli.sagas import sagas

cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text: drawing it would cost more time than all the rest
    help="Distributed patterns that hold, on the database you already run.",
)
cli.add_typer(sagas, name="sagas")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"standfast {__version__}")
        raise typer.Exit


@cli.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distributed patterns that hold, on the database you already run."""


@cli.command(context_settings=TAKES_AN_ARGUMENT)
@app_first
def run(
    app: App,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this service (repeat for several)."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The process's name; by default host and process.")
    ] = None,
    lease: Annotated[
        str, typer.Option(help="Without a sign of life for this long, others take over.")
    ] = "10s",
    max_in_flight: Annotated[
        int, typer.Option(help="What each service has in memory at once.")
    ] = 1000,
    threads: Annotated[int, typer.Option(help="How many `def` steps run at once.")] = 40,
    drain: Annotated[
        str, typer.Option(help="How long what is in flight may take at the end.")
    ] = "30s",
    poll: Annotated[str, typer.Option(help="How often to look for work without a hint.")] = "2s",
    health: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Answer /healthz (does it live?) and /readyz (does it work?) there. "
            "Port 0: any that is free.",
        ),
    ] = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate the database first.")] = False,
    log_level: Annotated[
        str, typer.Option(help="What to log to stderr: debug, info, warning or error.")
    ] = "info",
) -> None:
    """Run an app's services until SIGTERM or Ctrl-C, then drain.

    A second signal ends the drain at once.
    """
    from standfast.cli import running

    running.run(
        app,
        migrate=migrate,
        log_level=log_level,
        health=health,
        only=only or (),
        name=name,
        lease=lease,
        max_in_flight=max_in_flight,
        threads=threads,
        drain=drain,
        poll=poll,
    )


@cli.command(context_settings=TAKES_AN_ARGUMENT)
@app_first
def migrate(
    app: Target,
    line: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only these tables, and what they build on (repeat for several)."
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only show how far each line is; exit 1 if behind.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be applied.")
    ] = False,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for someone else to run; connect nowhere.")
    ] = False,
    after: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE=NUMBER",
            help="With --sql, --alembic and --django: of that line, only what comes after it.",
        ),
    ] = None,
    alembic: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Write what is missing among Alembic's revisions as another one; connect nowhere.",
        ),
    ] = None,
    django: Annotated[
        str | None,
        typer.Option(
            metavar="APPLABEL", help="The same among the migrations of a Django app of yours."
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="With --sql: only what takes over a database from before there were lines.",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Make or update the tables that an app's patterns need.

    Every pattern that stores something has a line of migrations of its own. An app gets the lines
    of what was added to it. A URL gets those that its database has already, or those that --line
    names.

    Migrations only go forward. To go back to an older version of Standfast, restore a backup that
    was made before: end all processes, make one, and then migrate. A database that was made before
    there were lines is taken over with all it holds, and workers of that version can't write to it
    any more: end them first.
    """
    revision = alembic is not None or django is not None
    if sum((status, dry_run, sql, alembic is not None, django is not None)) > 1:
        raise typer.BadParameter("give one of --status, --dry-run, --sql, --alembic and --django")
    if after and not (sql or revision):
        raise typer.BadParameter(
            "goes with --sql, --alembic and --django only", param_hint="--after"
        )
    if take_over and not sql:
        raise typer.BadParameter("goes with --sql only", param_hint="--take-over")
    if take_over and (line or after):
        raise typer.BadParameter(
            "takes over all that there is: leave --line and --after out", param_hint="--take-over"
        )
    if json and (sql or revision):
        raise typer.BadParameter("there is no JSON of SQL: leave one out", param_hint="--json")
    from standfast.cli.migrating import Migrating, parse_after

    migrating = Migrating(app, line or ())
    if take_over:
        migrating.taking_over()
    elif sql:
        migrating.script(parse_after(after or ()))
    elif revision:
        from standfast.cli.revisions import revision_tool

        migrating.revision(revision_tool(alembic, django), parse_after(after or ()))
    elif status:
        if not perform(migrating.status(json)):
            raise typer.Exit(1)
    else:
        perform(migrating.apply(dry_run=dry_run, as_values=json))


@cli.command(context_settings=TAKES_AN_ARGUMENT)
@app_first
def services(app: Target, json: AsJson = False) -> None:
    """Show all processes and how their services stand."""
    from standfast.cli import processes

    perform(processes.services(load(app), json))


@cli.command(context_settings=TAKES_AN_ARGUMENT)
@app_first
def workers(app: Target, json: AsJson = False) -> None:
    """Show which sagas each process can run, and how many it has."""
    from standfast.cli import processes

    perform(processes.workers(load(app), json))


@cli.command("purge-marks", context_settings=TAKES_AN_ARGUMENT)
@app_first
def purge_marks(
    app: Target,
    older_than: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            callback=with_unit,
            help="How long ago they must have been set (90d).",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete old marks of the barrier.

    They are the memory that makes repeated actions harmless, and go by their age alone. Keep them
    for longer than the longest saga of any caller takes, with the time that it may be parked: after
    that a repeated action would act again, and an undo would find nothing to undo.
    """
    loaded = load(app)

    async def clear() -> None:
        from standfast.idempotency import Barrier

        barrier = loaded.patterns.get(Barrier)
        async with opened(loaded):
            number = await barrier.count(older_than=older_than)
            if dry_run:
                say(as_json({"would_delete": number}) if json else f"would delete {_marks(number)}")
                return
            if number:
                confirm(f"Delete {_marks(number)} for good?", yes=yes)
            done = await carry_out(barrier.purge(older_than=older_than), "purge marks", number)
        say(as_json({"deleted": done}) if json else f"deleted {_marks(done)}")

    perform(clear())


def _marks(number: int) -> str:
    return f"{number} mark{'' if number == 1 else 's'}"
