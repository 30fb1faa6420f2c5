"""Long acts: confirmed first, shown while they go on, and stopped between two batches."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable

import typer

from standfast.cli.output import note
from standfast.errors import ConfigurationError, StandfastError
from standfast.text import on_one_line


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


def _run_it_again() -> str:
    return "run it again to go on"


async def carry_out(
    counts: AsyncIterator[int],
    what: str,
    total: int | None = None,
    *,
    remedy: Callable[[], str] = _run_it_again,
) -> int:
    """Let something long go on batch by batch; how many are done.

    `counts` says after each batch how many are done so far. Ctrl-C ends it after the batch that is
    under way, tells how far it came and the `remedy`, by which to go on, and exits with 1; so does
    an error. A second Ctrl-C doesn't wait for the batch.
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

    from standfast.coordination.signals import default_in_children

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    working = asyncio.current_task()

    def interrupted() -> None:
        if stop.is_set() and working is not None:
            working.cancel()
        stop.set()

    done = 0
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    try:
        with default_in_children(signal.SIGINT), progress:
            loop.add_signal_handler(signal.SIGINT, interrupted)
            task = progress.add_task(on_one_line(what), total=total)
            async for done in counts:
                progress.update(task, completed=done)
                if stop.is_set():
                    break
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        note(f"stopped in the middle of a batch, after {_of(done, total)}: {remedy()}")
        raise typer.Exit(1) from None
    except StandfastError:
        if done:
            note(f"failed after {_of(done, total)}: {remedy()}")
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if stop.is_set() and done != total:
        note(f"stopped after {_of(done, total)}: {remedy()}")
        raise typer.Exit(1)
    return done


def _of(done: int, total: int | None) -> str:
    return f"{done}" if total is None else f"{done} of {total}"
