"""Where the ``standfast`` command begins. Nothing here needs the extra ``cli``."""

from __future__ import annotations

import io
import sys

INSTALL = (
    "the standfast command needs typer and rich: pip install typer rich, or install standfast with "
    "its extra `cli`"
)


def main() -> None:
    """Run the command line."""
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
    cli(prog_name="standfast")


if __name__ == "__main__":
    main()
