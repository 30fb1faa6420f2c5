"""``manage.py standfast …``: the command line of Standfast, with the project's app."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

TARGET = "standfast.integrations.django:app"


class Command(BaseCommand):
    """Hands all arguments on to the command line of Standfast."""

    help = "Standfast's command line with this project's app: manage.py standfast --help"
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """See `BaseCommand.add_arguments`: for ``call_command("standfast", "migrate")``."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """See `BaseCommand.run_from_argv`: ``--help`` is for Standfast too."""
        _run(_without_django(argv[2:]), f"{os.path.basename(argv[0])} {argv[1]}")

    def handle(self, *_: Any, arguments: Sequence[str], **__: Any) -> None:
        """See `BaseCommand.handle`. Raises `CommandError` where the answer is no."""
        try:
            _run(arguments, "manage.py standfast")
        except SystemExit as end:
            if end.code:
                code = end.code if isinstance(end.code, int) else 1
                raise CommandError(
                    f"standfast {' '.join(arguments)} failed", returncode=code
                ) from end


def _run(arguments: Sequence[str], name: str) -> None:
    from standfast.cli.main import main

    try:
        with _for_this_project():
            main(arguments, name)
    finally:
        connections.close_all()


@contextmanager
def _for_this_project() -> Iterator[None]:
    """The project's app where no ``--app`` is given, whatever the environment says."""
    before = os.environ.get("STANDFAST_APP")
    os.environ["STANDFAST_APP"] = TARGET
    try:
        yield
    finally:
        if before is None:
            del os.environ["STANDFAST_APP"]
        else:
            os.environ["STANDFAST_APP"] = before


def _without_django(arguments: Sequence[str]) -> list[str]:
    """What is left without Django's ``--settings`` and ``--pythonpath``: they are heeded by now."""
    left: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in ("--settings", "--pythonpath"):
            next(given, None)
        elif not argument.startswith(("--settings=", "--pythonpath=")):
            left.append(argument)
    return left
