"""Where the ``standfast`` command begins. Nothing here needs the extra ``cli``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

INSTALL = (
    "the standfast command needs typer and rich: pip install typer rich, or install standfast with "
    "its extra `cli`"
)


def main(arguments: Sequence[str] | None = None, name: str = "standfast") -> None:
    """Run the command line; by default with what was typed. `name` is what help calls it."""
    try:
        from standfast.cli.commands import cli
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.exit(INSTALL)
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding lacks is spelled out: no answer is lost over a letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(None if arguments is None else list(arguments), prog_name=name)


if __name__ == "__main__":
    main()
