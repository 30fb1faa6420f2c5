"""Arguments and options that are the same for every command that has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from standfast.ports.journal import Filter
from standfast.saga.operations import Operations

App = Annotated[
    str,
    typer.Argument(
        metavar="APP",
        envvar="STANDFAST_APP",
        help="module:attribute or module:factory, looked for in this folder first.",
    ),
]
AppOrUrl = Annotated[
    str,
    typer.Argument(
        metavar="APP|URL",
        envvar="STANDFAST_APP",
        help="An app (module:attribute), or the URL of its database.",
    ),
]
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
Address = Annotated[
    str, typer.Argument(metavar="ID|NAME/KEY", help="An id, its beginning, or name/key.")
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
    step: Annotated[str, typer.Option(help="Only those that failed or are parked at it.")] = ""
    version: Annotated[int | None, typer.Option(help="Only of this version.")] = None
    older_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only if started longer ago (2d).")
    ] = None
    newer_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only if started since then (1h30m).")
    ] = None

    @property
    def given(self) -> bool:
        """Whether any is set."""
        return self != Filters() and self != Filters(status=[])

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


def with_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that takes `filters` the options of its fields instead."""
    names = [field.name for field in fields(Filters)]

    @wraps(command)
    def filtered(**given: Any) -> Any:
        filters = Filters(**{name: given.pop(name) for name in names})
        return command(filters=filters, **given)

    own = inspect.signature(command, eval_str=True).parameters
    hints = get_type_hints(Filters, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Filters)
    ]
    kept = [one.replace(kind=one.kind.KEYWORD_ONLY) for one in own.values()]
    kept = [one for one in kept if one.name != "filters"]
    signature = inspect.Signature([*kept, *options])
    filtered.__signature__ = signature  # type: ignore[attr-defined]
    filtered.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    return filtered
