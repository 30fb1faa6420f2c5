"""What a run looks like: a moving bar on a terminal, plain lines elsewhere, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PLAIN_EVERY = 30.0


class Show:
    """Tells about the run; with `aside`, everything goes to standard error."""

    def __init__(self, *, aside: bool = False) -> None:
        self.console = Console(stderr=aside, highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """Tell one line."""
        self.console.print(text, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, total: float, what: str) -> Iterator[Bar]:
        """Show how far something is, on a terminal; elsewhere a line now and then tells it."""
        progress = Progress(
            TextColumn(f"  {what}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        with progress:
            yield Bar(self, progress, total, what)

    def table(self, rows: Mapping[str, int | float]) -> None:
        """A table of counts; those named ``trial: count`` stand side by side, a column a trial."""
        columns = list(dict.fromkeys(name.rpartition(": ")[0] for name in rows))
        table = Table(show_header=columns != [""])
        table.add_column("")
        for column in columns:
            table.add_column(column, justify="right")
        for what in dict.fromkeys(name.rpartition(": ")[2] for name in rows):
            cells = [rows.get(f"{column}: {what}" if column else what) for column in columns]
            table.add_row(what, *("" if cell is None else written(cell) for cell in cells))
        self.console.print(table)


class Bar:
    """How far it is: `at` moves it and says something beside it."""

    def __init__(self, show: Show, progress: Progress, total: float, what: str) -> None:
        self._show = show
        self._progress = progress
        self._task = progress.add_task(what, total=total, text="")
        self._what = what
        self._told = time.monotonic()

    def at(self, done: float, text: str) -> None:
        """Move to `done` and say `text`."""
        self._progress.update(self._task, completed=done, text=text)
        if self._progress.disable and time.monotonic() - self._told >= PLAIN_EVERY:
            self._told = time.monotonic()
            self._show.say(f"  {self._what}: {text}")


def written(count: float) -> str:
    """A number for people."""
    return f"{count:,}" if isinstance(count, int) else f"{count:,.1f}"
