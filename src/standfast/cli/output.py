"""What commands print: answers to stdout, everything else to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from standfast.durations import human
from standfast.errors import ConfigurationError, StandfastError

if TYPE_CHECKING:  # rich is loaded by the commands that print with it
    from rich.text import Text


class Commands(TyperGroup):
    """Turns an error of Standfast into one line and an exit code.

    2: it was asked for wrongly. 1: it was asked for rightly, and the answer is no.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except StandfastError as error:
            if ctx.params.get("debug"):
                import traceback

                traceback.print_exception(error)
            complain(str(error))
            raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


def complain(message: str) -> None:
    """One line that begins with ``error:``."""
    typer.echo(f"error: {message}", err=True)


def note(message: str) -> None:
    """A remark beside the answer."""
    typer.echo(message, err=True)


def say(text: str) -> None:
    """Plain text as an answer, as it is."""
    typer.echo(text)


def on_one_line(text: str) -> str:
    """Text without breaks of its lines."""
    return " ".join(text.split())


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """`value` as ASCII JSON text, so that damaged text can be shown too."""
    return json.dumps(value, indent=indent, default=str)


WHOLE = frozenset(
    {"ID", "STATE", "SINCE", "RESTARTS", "LEASE", "LINE", "APPLIED", "NEWEST", "COUNT", "AGE"}
)
"""The columns whose cells are never broken into lines, however narrow the terminal is."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table; as wide as it needs to be where no terminal limits it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in WHOLE)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(made)
        return
    console = Console(highlight=False, width=WIDE)
    with console.capture() as captured:
        console.print(made)
    for line in captured.get().splitlines():
        say(line.rstrip())


WIDE = 10_000


STYLES = {
    "completed": "green",
    "running": "cyan",
    "waiting": "blue",
    "compensating": "yellow",
    "compensated": "magenta",
    "parked": "bold yellow",
    "compensation_failed": "bold red",
    "restarting": "bold red",
    "standing_by": "blue",
    "draining": "yellow",
}


def status(word: str) -> Text:
    """A status of a saga, or a state of a service, in its colour."""
    from rich.text import Text

    return Text(word, STYLES.get(word, ""))


def age(at: float, now: float) -> str:
    """How long ago that was."""
    return human(max(0.0, round(now - at, 1)))


def moment(at: float | None) -> str:
    """A time as UTC text, "" for none."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
