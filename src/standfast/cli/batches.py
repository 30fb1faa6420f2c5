"""Long acts: confirmed first, shown while they go on, and stopped between two batches."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import typer

from standfast.cli.output import note
from standfast.errors import ConfigurationError


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal; without one, only ``--yes`` will do. Ends the command on a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{question} There is no terminal to ask on: give --yes to do it, or --dry-run to see "
            "what it would do"
        )
    if not typer.confirm(question, err=True):
        note("nothing was done")
        raise typer.Exit(1)


async def carry_out(
    counts: AsyncIterator[int], what: str, total: int | None = None, *, again: str = "go on"
) -> int:
    """Let something long go on batch by batch; how many are done.

    `counts` says after each batch how many are done so far. Ctrl-C ends it after the batch that is
    under way, tells how far it came, and exits with 1; run again, it would `again`.
    """
    import asyncio
    import signal

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    done = 0
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with progress:
            task = progress.add_task(what, total=total)
            async for done in counts:
                progress.update(task, completed=done)
                if stop.is_set():
                    break
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if stop.is_set() and done != total:
        of = "" if total is None else f" of {total}"
        note(f"stopped after {done}{of}: run it again to {again}")
        raise typer.Exit(1)
    return done
