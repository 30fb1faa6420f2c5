"""What commands print: answers to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import typer
from typer.core import TyperGroup

from standfast.durations import human
from standfast.errors import ConfigurationError, StandfastError
from standfast.text import on_one_line

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
    typer.echo(f"error: {on_one_line(message)}", err=True)


def note(message: str) -> None:
    """A remark beside the answer, on one line."""
    typer.echo(on_one_line(message), err=True)


def say(text: str) -> None:
    """Plain text as an answer, as it is."""
    with writing():
        typer.echo(text)


READER_GONE = 141
"""The exit code where nobody reads on, as of ``… | head``: what a shell makes of SIGPIPE."""


@contextmanager
def writing(to: str = "") -> Iterator[None]:
    """An answer is written `to` a file, or to stdout: where that fails, one line tells, and why."""
    try:
        yield
    except OSError as error:
        if not to:
            # What is left of the answer would fail again when the interpreter ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if error.errno == errno.EPIPE:
            raise typer.Exit(READER_GONE) from error
        complain(f"the answer can't be written to {to or 'standard output'}: {error.strerror}")
        raise typer.Exit(1) from error


async def say_list(values: AsyncIterator[Any]) -> None:
    """A list as JSON, written while it comes: it may be long."""
    began = False
    async for value in values:
        say(("," if began else "[") + "\n" + as_json(value))
        began = True
    say("]" if began else "[]")


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """`value` as ASCII JSON text, so that damaged text can be shown too."""
    return json.dumps(value, indent=indent, default=str)


WHOLE = frozenset(
    {
        *("ID", "SAGA", "KEY", "AGE", "COUNT", "OLDEST", "EXAMPLE", "STEP"),
        *("STATE", "SINCE", "RESTARTS", "LEASE", "LINE", "APPLIED", "NEWEST"),
    }
)
"""The columns whose cells are never broken into lines, however narrow the terminal is."""


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    header: bool = True,
    right: Collection[str] = (),
) -> None:
    """Print a table, each cell folded; as wide as it needs to be where no terminal limits it.

    Without its `header`, all columns but the last are as wide as they need to be. The columns named
    in `right` stand at their right edge.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def folded(cell: str | Text) -> Text:
        if isinstance(cell, str):
            return Text(on_one_line(cell))
        return Text(on_one_line(cell.plain), cell.style)

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for number, column in enumerate(columns):
        whole = column in WHOLE if header else number < len(columns) - 1
        justify: Literal["right", "left"] = "right" if column in right else "left"
        made.add_column(column, overflow="fold", no_wrap=whole, justify=justify)
    for row in rows:
        made.add_row(*map(folded, row))
    console = Console(highlight=False)
    if console.is_terminal:
        with writing():
            console.print(made)
        return
    drawn = io.StringIO()
    Console(highlight=False, width=WIDE, file=drawn).print(made)
    for line in drawn.getvalue().splitlines():
        say(line.rstrip())


WIDE = 10_000


def is_narrow() -> bool:
    """Whether there is a terminal to fit in: then ids and names are shortened."""
    from rich.console import Console

    return Console().is_terminal


def without_middle(text: str, longest: int, end: int) -> str:
    """Text without its middle where it is long; `end` letters are kept of its end."""
    text = on_one_line(text)
    return text if len(text) <= longest else f"{text[: longest - end - 1]}…{text[-end:]}"


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


def status(word: str, why: str = "") -> Text:
    """A status of a saga, or a state of a service, in its colour; and why it is so."""
    return colored(f"{word}: {why}" if why else word, STYLES.get(word))


def colored(text: str, style: str | None) -> Text:
    """Text in a colour, or some other style of rich's."""
    from rich.text import Text

    return Text(text, style or "")


def age(at: float, now: float) -> str:
    """How long ago that was."""
    return human(max(0.0, round(now - at, 1)))
