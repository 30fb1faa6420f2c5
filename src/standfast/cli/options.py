"""Arguments and options that are the same for every command that has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from standfast.cli.output import note
from standfast.durations import seconds
from standfast.errors import ConfigurationError, SagaError
from standfast.ids import parse_id

if TYPE_CHECKING:  # so that asking for help doesn't load the engine of sagas
    from uuid import UUID

    from standfast.ports.journal import Filter, Instance
    from standfast.saga.events import Mailed
    from standfast.saga.operations import Operations


def with_unit(option: typer.CallbackParam, value: str | None) -> str | None:
    """A duration that must have a unit: whoever types 90 may mean days, and get seconds.

    Raises `ConfigurationError` for what is no duration.
    """
    if value is None:
        return None
    if value.strip().replace(".", "", 1).isdecimal():
        raise typer.BadParameter(f"give {value.strip()} a unit, such as {value.strip()}d")
    seconds(value, name=option.opts[0], positive=False)
    return value


Target = Annotated[
    str,
    typer.Option(
        "--app",
        "-a",
        metavar="APP|URL",
        envvar="STANDFAST_APP",
        help="An app (module:attribute), or the URL of its database.",
    ),
]
App = Annotated[
    str,
    typer.Option(
        "--app",
        "-a",
        metavar="APP",
        envvar="STANDFAST_APP",
        help="module:attribute or module:factory, looked for in this folder first.",
    ),
]
Address = Annotated[
    str, typer.Argument(metavar="ID|NAME/KEY", help="An id, its beginning or end, or name/key.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@dataclass(frozen=True)
class Filters:
    """What an instance must be to be meant. Each field is an option."""

    name: Annotated[str, typer.Option(help="Only of this saga.")] = ""
    status: Annotated[
        list[str] | None, typer.Option(help="Only with this status (repeat for several).")
    ] = None
    key: Annotated[str, typer.Option(help="Only with this key.")] = ""
    step: Annotated[
        str, typer.Option(help="Only those that failed or are parked at it, or at its undo.")
    ] = ""
    version: Annotated[int | None, typer.Option(help="Only of this version.")] = None
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", callback=with_unit, help="Only if started longer ago (2d)."
        ),
    ] = None
    newer_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", callback=with_unit, help="Only if started since then (1h30m)."
        ),
    ] = None
    after: Annotated[str, typer.Option(help="Go on below this id, newest first.", metavar="ID")] = (
        ""
    )

    @property
    def given(self) -> bool:
        """Whether any is set, besides where to begin."""
        narrowing = (one for one in fields(Filters) if one.name != "after")
        return any(getattr(self, one.name) not in (one.default, []) for one in narrowing)

    @property
    def beginning(self) -> UUID | None:
        """The id below which to go on, if any. Raises `ConfigurationError`."""
        id = parse_id(self.after) if self.after else None
        if self.after and id is None:
            raise ConfigurationError(f"--after {self.after!r}: give a whole id")
        return id

    def select(self, ops: Operations, *, statuses: tuple[str, ...] = ()) -> Filter:
        """The filter; `statuses` hold where none was given. Raises `ConfigurationError`."""
        return ops.select(
            name=self.name,
            statuses=self.status or statuses,
            key=self.key,
            step=self.step,
            version=self.version,
            older_than=self.older_than,
            newer_than=self.newer_than,
        )


@dataclass(frozen=True)
class Chosen(Filters):
    """Which sagas an act is for, and how careful to be."""

    addresses: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID|NAME/KEY]...", help="Ids, their beginnings, or name/key."),
    ] = None
    all: Annotated[bool, typer.Option("--all", help="All that the act applies to.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show which sagas it would touch.")
    ] = False
    yes: Yes = False
    json: AsJson = False

    async def find(self, ops: Operations, act: type[Mailed], verb: str) -> Found:
        """The instances that the act can change.

        Raises `ConfigurationError` where none were chosen, and `SagaError` for an address of one
        that it can't change.
        """
        from standfast.saga.acts import APPLIES_TO

        if bool(self.addresses) == (self.given or self.all):
            raise ConfigurationError(
                "say which sagas: either addresses, or filters such as --status parked, or --all"
            )
        if not self.addresses:
            where, kinds = self.select(ops), {}
            count = 0
            async for one in ops.matching(act, where, after=self.beginning):
                kinds[one.name, one.version] = one
                count += 1
            return Found(where, count, list(kinds.values()))
        found: dict[UUID, Instance] = {}
        for address in self.addresses:
            one = await ops.locate(address)
            if one.status not in APPLIES_TO[act]:
                raise SagaError(
                    f"saga {one.id} is {one.status}: {verb} is for sagas that are "
                    f"{', '.join(APPLIES_TO[act])}"
                )
            found[one.id] = one
        return Found(list(found), len(found), list(found.values()))


@dataclass(frozen=True)
class Found:
    """Which instances an act is for, and how many those are; `examples` has one of each kind."""

    where: Filter | list[UUID]
    count: int
    examples: list[Instance]


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that takes `Filters` or `Chosen` the options of its fields instead."""
    own = inspect.signature(command, eval_str=True).parameters
    (taken,) = [one for one in own.values() if one.annotation in (Filters, Chosen)]
    spread_out = taken.annotation
    hints = get_type_hints(spread_out, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(spread_out)
    ]
    kept = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own.values() if one is not taken
    ]

    @wraps(command)
    def called(**given: Any) -> Any:
        gathered = spread_out(**{option.name: given.pop(option.name) for option in options})
        return command(**{taken.name: gathered}, **given)

    signature = inspect.Signature([*kept, *options])
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    return called


def app_first(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take its `app` as an argument too, as it once did, with a warning.

    It needs ``context_settings=TAKES_AN_ARGUMENT``: so the help doesn't tell of the old way.
    """
    own = inspect.signature(command, eval_str=True).parameters

    @wraps(command)
    def called(context: typer.Context, **given: Any) -> Any:
        arguments = context.args
        if len(arguments) > 1:
            raise ConfigurationError(f"too much: {' '.join(arguments[1:])!r}")
        source = context.get_parameter_source("app")
        if arguments and source is not None and source.name == "COMMANDLINE":
            raise ConfigurationError(
                f"the app was given twice, as {given['app']!r} and as {arguments[0]!r}: leave the "
                "second one out"
            )
        if arguments:
            note(f"warning: give the app as an option, --app {arguments[0]} (or -a)")
            given["app"] = arguments[0]
        if not given["app"]:
            raise ConfigurationError(
                "say which app: --app module:attribute (or -a), or set STANDFAST_APP"
            )
        return command(**given)

    kept = [
        one.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            default="" if one.name == "app" else one.default,
        )
        for one in own.values()
    ]
    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    called.__signature__ = inspect.Signature([context, *kept])  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in (context, *kept)}
    return called


TAKES_AN_ARGUMENT = {"allow_extra_args": True}
"""The settings of a command that `app_first` takes an argument for."""
