"""Where the ``standfast`` command begins. Nothing here needs the extra ``cli``."""

from __future__ import annotations

import sys

INSTALL = "the standfast command needs the extra `cli`: pip install 'standfast[cli]'"


def main() -> None:
    """Run the command line."""
    try:
        from standfast.cli.commands import cli
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("typer", "rich", "click"):
            raise
        sys.exit(INSTALL)
    cli(prog_name="standfast")


if __name__ == "__main__":
    main()
