"""``standfast sagas …``: the commands that start sagas and act on them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from standfast.cli.batches import carry_out, confirm
from standfast.cli.given import field, json_argument, looks_like_address, parsed_time
from standfast.cli.loading import load, load_app, operating, perform
from standfast.cli.notices import note_lacking
from standfast.cli.options import Address, App, AsJson, Chosen, Target, Yes, spread, with_unit
from standfast.cli.output import as_json, note, say
from standfast.cli.sagas import sagas
from standfast.cli.telling import ask, many
from standfast.durations import seconds
from standfast.errors import ConfigurationError

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from standfast.ports.journal import Instance
    from standfast.saga.events import Mailed
    from standfast.saga.handle import SagaHandle
    from standfast.saga.operations import Operations

By = Annotated[str, typer.Option(help="Who asks, for the journal.", show_default="you")]
Step = Annotated[str, typer.Option("--at", metavar="STEP", help="Only this parked step.")]
Reason = Annotated[str, typer.Option(help="Why: it is kept in the journal.")]
Key = Annotated[
    str | None, typer.Option(help="The new saga's key; the same key never starts twice.")
]


@sagas.command()
def start(
    app: App,
    name: Annotated[str, typer.Argument(help="The saga's name.")],
    input: Annotated[
        str, typer.Option(help="JSON, @FILE with JSON, or - for standard input.")
    ] = "null",
    key: Key = None,
    correlation_id: Annotated[
        str | None, typer.Option(help="Ties it to others in logs; by default the key.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it begins (2030-01-31T09:00+01:00)."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", callback=with_unit, help="How long from now it begins (3d)."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Start a saga. A worker that has it runs it, at once or from the time given."""
    if at is not None and after is not None:
        raise ConfigurationError(f"--at {at} and --after {after}: give one of the two")
    data = json_argument(input)
    begins_at = None if at is None else parsed_time(at)
    loaded_app = load_app(app)

    async def begin() -> SagaHandle[Any]:
        async with operating(loaded_app) as ops:
            handle = await ops.start(
                name, data, key=key, correlation_id=correlation_id, at=begins_at, after=after
            )
            now = ops.sagas.clock.now()
            delayed = begins_at is not None and begins_at.timestamp() > now
            if after is not None:
                delayed = seconds(after, name="--after", positive=False) > 0
            await _note_start(ops, name, delayed=delayed)
            return handle

    _print_started(perform(begin()), json)


@sagas.command()
def fork(
    app: App,
    address: Address,
    key: Key = None,
    replace: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=JSON", help="Another value for a field of the input."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Start a new saga with an old one's input, from the beginning.

    What the old one did isn't undone, and is done again. The new one's correlation id says whose
    fork it is.
    """
    fields = dict(field(text) for text in replace or ())
    loaded_app = load_app(app)

    async def begin() -> SagaHandle[Any]:
        async with operating(loaded_app) as ops:
            origin = await ops.locate(address)
            handle = await ops.fork(origin.id, key=key, replace=fields)
            await _note_start(ops, origin.name)
            return handle

    _print_started(perform(begin()), json)


async def _note_start(ops: Operations, name: str, *, delayed: bool = False) -> None:
    """Remark that no worker is there to run what was started."""
    version = ops.sagas.definitions.of(name).version
    then = "when its time has come, it waits until" if delayed else "it begins when"
    await note_lacking(ops, [(name, version)], then)


def _print_started(handle: SagaHandle[Any], json: bool) -> None:
    if json:
        say(as_json({"id": str(handle.id), "created": handle.created}))
    else:
        say(str(handle.id))
        if not handle.created:
            note("it was started before, with the same key and input")


# -- acts on one or many ---------------------------------------------------------------------


@sagas.command()
@spread
def signal(
    app: Target,
    signal: Annotated[str, typer.Argument(help="The signal's name.")],
    chosen: Chosen,
    payload: Annotated[
        str, typer.Option(help="JSON, @FILE with JSON, or - for standard input.")
    ] = "null",
    id: Annotated[
        str | None, typer.Option("--id", help="Sending it again with this id changes nothing.")
    ] = None,
) -> None:
    """Send a signal to the sagas that wait, or will wait, for it."""
    from standfast.saga.events import Signalled

    data = json_argument(payload)

    def made(ops: Operations, found: Sequence[Instance]) -> Mailed:
        return ops.signalled(signal, data, found)

    def in_order(ops: Operations) -> None:
        _must_come_first(ops, signal, chosen)

    ask(app, f"signal {signal!r}", Signalled, made, chosen, mail_id=id, before=in_order)


def _must_come_first(ops: Operations, signal: str, chosen: Chosen) -> None:
    """Raise `ConfigurationError` where a saga's address was typed in place of a signal's name."""
    definitions = ops.sagas.definitions.by_kind.values()
    known = {step.signal for one in definitions for step in one.plan.steps.values()} - {""}
    if signal in known:
        return
    addresses = chosen.addresses or ()
    names = [one for one in addresses if one in known]
    others = [one for one in addresses if not looks_like_address(one)]
    # A signal's name may have a slash: where sagas are chosen as well, it may be meant.
    nothing_else = not (addresses or chosen.given or chosen.all)
    if names or (looks_like_address(signal) and (others or nothing_else)):
        name = (names or others or ["NAME"])[0]
        sagas = [signal, *(one for one in addresses if looks_like_address(one) and one != name)]
        raise ConfigurationError(
            f"{signal!r} stands where the signal's name belongs; that comes first, then the sagas: "
            f"write standfast sagas signal {shlex.join([name, *sagas])}"
        )


@sagas.command()
@spread
def cancel(
    app: Target,
    chosen: Chosen,
    reason: Reason = "",
    force: Annotated[
        bool, typer.Option("--force", help="Also if the pivot is in doubt, as not done.")
    ] = False,
    by: By = "",
) -> None:
    """Undo sagas that haven't passed their point of no return."""
    from standfast.saga.acts import operating_user
    from standfast.saga.events import CancelAsked

    act = CancelAsked(reason, by or operating_user(), force)
    ask(app, "cancel", CancelAsked, lambda ops, found: act, chosen)


@sagas.command()
@spread
def retry(
    app: Target,
    chosen: Chosen,
    at: Step = "",
    by: By = "",
) -> None:
    """Try what is parked again: a step, or an undo that failed."""
    from standfast.saga.acts import operating_user
    from standfast.saga.events import RetryAsked

    act = RetryAsked(at, by or operating_user())
    ask(app, "retry", RetryAsked, lambda ops, found: act, chosen)


@sagas.command()
@spread
def skip(
    app: Target,
    chosen: Chosen,
    reason: Annotated[str, typer.Option(help="Why: it is kept in the journal.")],
    at: Step = "",
    by: By = "",
) -> None:
    """Take what is parked as done: a step, or an undo that failed."""
    from standfast.saga.acts import operating_user
    from standfast.saga.events import SkipAsked

    act = SkipAsked(at, reason, by or operating_user())
    ask(app, "skip", SkipAsked, lambda ops, found: act, chosen)


@sagas.command()
@spread
def resolve(
    app: Target,
    chosen: Chosen,
    outcome: Annotated[str, typer.Option("--as", help="completed or compensated.")],
    reason: Annotated[str, typer.Option(help="Why: it is kept in the journal.")],
    by: By = "",
) -> None:
    """End sagas that are stuck or waiting by hand, without running anything."""
    from standfast.saga.acts import operating_user
    from standfast.saga.events import ResolveAsked

    act = ResolveAsked(outcome, reason, by or operating_user())
    ask(app, "resolve", ResolveAsked, lambda ops, found: act, chosen)


@sagas.command()
@spread
def migrate(
    app: Target,
    chosen: Chosen,
    to: Annotated[int, typer.Option(metavar="VERSION", help="The version to move to.")],
    by: By = "",
) -> None:
    """Move sagas to another version of their definition, by its `migrations`.

    Those that run move when the attempts in flight have ended. One that can't move goes on as it
    is, and `show` tells why.
    """
    from standfast.saga.acts import operating_user
    from standfast.saga.events import MigrateAsked

    def made(ops: Operations, found: Sequence[Instance]) -> Mailed:
        return ops.moved(to, found, by=by or operating_user())

    ask(app, f"migrate to version {to}", MigrateAsked, made, chosen)


# -- retention -------------------------------------------------------------------------------


@sagas.command()
def purge(
    app: Target,
    finished_for: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            callback=with_unit,
            help="How long ago they must have finished (30d).",
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete finished sagas with their journals. Their keys are free again after that.

    A child saga is kept for as long as its parent is, which may have to undo it yet.
    """
    loaded_app = load(app)

    async def clear() -> None:
        async with operating(loaded_app) as ops:
            number: int | None = None  # unknown: counting takes as long as deleting
            if dry_run or not yes:
                number = await ops.count_finished(finished_for=finished_for)
            if dry_run:
                say(as_json({"would_delete": number}) if json else f"would delete {many(number)}")
                return
            if number:
                confirm(f"Delete {many(number)} for good?", yes=yes)
            done = await carry_out(ops.purge(finished_for=finished_for), "purge", number)
        say(as_json({"deleted": done}) if json else f"deleted {many(done)}")

    perform(clear())
