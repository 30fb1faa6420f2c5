"""``standfast sagas …``: the commands that start sagas and act on them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from standfast.cli.batches import carry_out, confirm
from standfast.cli.loading import load, load_app, operating, perform
from standfast.cli.notices import note_lacking, note_unknown
from standfast.cli.options import (
    Address,
    App,
    AsJson,
    Chosen,
    Found,
    Target,
    Yes,
    spread,
    with_unit,
)
from standfast.cli.output import as_json, note, say, say_list
from standfast.cli.sagas import sagas
from standfast.cli.tables import print_instances
from standfast.errors import ConfigurationError
from standfast.text import checked

if TYPE_CHECKING:  # each command loads what it needs, so that help comes at once
    from uuid import UUID

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
    data = _json_argument(input)
    begins_at = None if at is None else _time(at)

    async def begin() -> SagaHandle[Any]:
        async with operating(load_app(app)) as ops:
            handle = await ops.start(
                name, data, key=key, correlation_id=correlation_id, at=begins_at, after=after
            )
            await _note_start(ops, name)
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
    fields = dict(_field(text) for text in replace or ())

    async def begin() -> SagaHandle[Any]:
        async with operating(load_app(app)) as ops:
            origin = await ops.locate(address)
            handle = await ops.fork(origin.id, key=key, replace=fields)
            await _note_start(ops, origin.name)
            return handle

    _print_started(perform(begin()), json)


async def _note_start(ops: Operations, name: str) -> None:
    """Remark that no worker is there to run what was started."""
    version = ops.sagas.definitions.of(name).version
    await note_lacking(ops, [(name, version)], "it begins when")


def _print_started(handle: SagaHandle[Any], json: bool) -> None:
    if json:
        say(as_json({"id": str(handle.id), "created": handle.created}))
    else:
        say(str(handle.id))
        if not handle.created:
            note("it was started before, with the same key and input")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"--at {text!r}: write a time with its zone, as in 2030-01-31T09:00+01:00 ({error})"
        ) from error
    if time.utcoffset() is None:
        raise ConfigurationError(
            f"--at {text!r} has no time zone: write it behind the time, as in "
            "2030-01-31T09:00+01:00, or 2030-01-31T08:00Z for UTC"
        )
    return time


def _json_argument(text: str) -> bytes:
    """The JSON that an option gives: itself, a file's, or what stands on standard input."""
    if text == "-":
        return _utf8(sys.stdin.buffer.read(), "standard input")
    if text.startswith("@"):
        try:
            return _utf8(Path(text[1:]).read_bytes(), text)
        except OSError as error:
            raise ConfigurationError(f"{text}: {error.strerror}") from error
    return checked(text, name="the JSON").encode()


def _utf8(data: bytes, where: str) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{where}: JSON is UTF-8, and this isn't ({error})") from error
    return data


def _field(text: str) -> tuple[str, Any]:
    import msgspec

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigurationError(f"--set {text!r}: write FIELD=JSON")
    checked(text, name="--set")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"--set {text!r}: the value isn't JSON ({error}); text needs quotes: '{name}=\"…\"'"
        ) from error


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

    data = _json_argument(payload)

    def made(ops: Operations, found: Sequence[Instance]) -> Mailed:
        return ops.signalled(signal, data, found)

    _act(app, f"signal {signal!r}", Signalled, made, chosen, mail_id=id)


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
    _act(app, "cancel", CancelAsked, lambda ops, found: act, chosen)


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
    _act(app, "retry", RetryAsked, lambda ops, found: act, chosen)


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
    _act(app, "skip", SkipAsked, lambda ops, found: act, chosen)


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
    _act(app, "resolve", ResolveAsked, lambda ops, found: act, chosen)


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

    _act(app, f"migrate to version {to}", MigrateAsked, made, chosen)


def _act(
    app: str,
    verb: str,
    kind: type[Mailed],
    make: Callable[[Operations, Sequence[Instance]], Mailed],
    chosen: Chosen,
    *,
    mail_id: str | None = None,
) -> None:
    """Find, show or confirm, send in batches, and say what became of it."""
    from standfast.saga.acts import check

    asked: list[UUID] = []  # only as JSON they are all told
    last = ""

    async def act() -> None:
        async with operating(load(app)) as ops:
            found = await chosen.find(ops, kind, verb)
            act = make(ops, found.examples)
            check(act)
            if chosen.dry_run:
                await _show(ops, kind, chosen, found)
                note(f"{verb}: would touch {_many(found.count)}; nothing was done")
                return
            if found.count and not chosen.addresses:
                confirm(f"{verb}: touch {_many(found.count)}?", yes=chosen.yes)

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
                kinds = [(one.name, one.version) for one in found.examples]
                await note_lacking(ops, kinds, "they are acted on when")
            else:
                await note_unknown(ops, chosen)
        if chosen.json:
            say(as_json({"asked": done, "ids": [str(id) for id in asked]}))
        else:
            acting = "; a worker acts on it" if done else ": nothing that it could change"
            say(f"{verb}: asked {_many(done)}{acting}")

    perform(act())


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


def _many(number: int | None) -> str:
    return f"{number} saga{'' if number == 1 else 's'}"


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

    async def clear() -> None:
        async with operating(load(app)) as ops:
            number: int | None = None  # unknown: counting takes as long as deleting
            if dry_run or not yes:
                number = await ops.count_finished(finished_for=finished_for)
            if dry_run:
                say(as_json({"would_delete": number}) if json else f"would delete {_many(number)}")
                return
            if number:
                confirm(f"Delete {_many(number)} for good?", yes=yes)
            done = await carry_out(ops.purge(finished_for=finished_for), "purge", number)
        say(as_json({"deleted": done}) if json else f"deleted {_many(done)}")

    perform(clear())
