"""The commands about an app as a whole, and the root of all the others."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from standfast import __version__
from standfast.app import Standfast
from standfast.cli import acts  # noqa: F401 - its commands join those of `sagas`
from standfast.cli.batches import carry_out, confirm
from standfast.cli.loading import (
    load,
    load_app,
    must_be_shared,
    must_be_there,
    operating,
)
from standfast.cli.options import App, AppOrUrl, AsJson, Yes
from standfast.cli.output import Commands, as_json, note, say, table
from standfast.cli.sagas import sagas
from standfast.durations import human

cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
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


@cli.command()
def run(
    app: App,
    name: Annotated[
        str | None, typer.Option(help="The worker's name; by default host and process.")
    ] = None,
    lease: Annotated[
        str, typer.Option(help="Without a sign of life for this long, others take over.")
    ] = "10s",
    max_in_flight: Annotated[int, typer.Option(help="Sagas in memory at once.")] = 1000,
    drain: Annotated[
        str, typer.Option(help="How long the attempts in flight may take at the end.")
    ] = "30s",
    poll: Annotated[str, typer.Option(help="How often to look for work without a hint.")] = "2s",
    migrate: Annotated[bool, typer.Option("--migrate", help="Migrate the database first.")] = False,
    log_level: Annotated[
        str, typer.Option(help="What to log to stderr: debug, info, warning or error.")
    ] = "info",
) -> None:
    """Run an app's worker until SIGTERM or Ctrl-C, then drain."""
    levels = logging.getLevelNamesMapping()
    level = levels.get(log_level.upper())
    if level is None:
        raise typer.BadParameter(
            f"{log_level!r}: choose debug, info, warning or error", param_hint="--log-level"
        )
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    loaded = load_app(app)
    if migrate:
        loaded.migrate = True
    elif loaded.migrate is None and loaded.database.capabilities.durable:
        loaded.migrate = False
    if not loaded.migrate:
        must_be_there(loaded.database)
    asyncio.run(
        loaded.run(name=name, lease=lease, max_in_flight=max_in_flight, drain=drain, poll=poll)
    )


@cli.command()
def migrate(
    target: AppOrUrl,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL for someone else to run; connect nowhere.")
    ] = False,
    after: Annotated[
        int, typer.Option(min=0, help="With --sql: only the migrations after this number.")
    ] = 0,
) -> None:
    """Make or update Standfast's tables."""
    app = load(target)
    if sql:
        for migration in app.database.migrations:
            if migration.number > after:
                say(f"-- migration {migration.number}: {migration.name}")
                say(f"BEGIN;\n{migration.sql.rstrip()}\nCOMMIT;")
        return
    if after:
        raise typer.BadParameter("goes with --sql only", param_hint="--after")
    asyncio.run(_migrate(app))


async def _migrate(app: Standfast) -> None:
    must_be_shared(app.database)
    await app.database.open()
    try:
        for migration in await app.database.migrate():
            say(f"applied migration {migration.number}: {migration.name}")
        number = await app.database.schema_version()
    finally:
        await app.database.close()
    say(f"{app.database.url} is at migration {number}")


@cli.command()
def workers(target: AppOrUrl, json: AsJson = False) -> None:
    """Show the live workers of a database, and how many sagas each has."""
    asyncio.run(_workers(load(target), json))


async def _workers(app: Standfast, json: bool) -> None:
    async with operating(app) as ops:
        found = await ops.database.leases.workers()
    if json:
        say(
            as_json(
                [
                    {
                        "token": one.token,
                        "name": one.name,
                        "sagas": [
                            {"name": name, "version": version} for _, name, version in one.kinds
                        ],
                        "lease_expires_in": round(one.expires_in, 3),
                        "owned": one.owned,
                    }
                    for one in found
                ]
            )
        )
        return
    table(
        ["NAME", "LEASE", "SAGAS IN HAND", "CAN RUN"],
        [
            (
                one.name,
                human(one.expires_in) if one.expires_in > 0 else "ran out",
                str(one.owned),
                ", ".join(f"{name} v{version}" for _, name, version in one.kinds),
            )
            for one in found
        ],
    )
    if not found:
        note("no worker is registered: `standfast run APP` starts one")


@cli.command("purge-marks")
def purge_marks(
    target: AppOrUrl,
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="How long ago they must have been set (90d).")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete old marks of the barrier, the memory that makes repeated actions harmless.

    Keep them for longer than any saga takes: a retry after that would act again.
    """

    async def clear() -> None:
        async with operating(load(target)) as ops:
            number = await ops.count_marks(older_than=older_than)
            if dry_run:
                say(as_json({"would_delete": number}) if json else f"would delete {_marks(number)}")
                return
            if number:
                confirm(f"Delete {_marks(number)} for good?", yes=yes)
            done = await carry_out(ops.purge_marks(older_than=older_than), "purge marks", number)
        say(as_json({"deleted": done}) if json else f"deleted {_marks(done)}")

    asyncio.run(clear())


def _marks(number: int) -> str:
    return f"{number} mark{'' if number == 1 else 's'}"
