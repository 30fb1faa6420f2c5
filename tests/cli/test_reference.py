"""docs/reference/cli.md names every command and every option that there is."""

import re
from typing import Any

import pytest
from typer.main import get_command

from standfast.cli.commands import cli
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/reference/cli.md").read_text()


def commands(group: Any, path: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += commands(command, f"{path}{name} ")
        else:
            found.append((f"{path}{name}", command))
    return found


COMMANDS = commands(get_command(cli))


def test_there_are_commands():
    assert {"run", "workers", "sagas list", "sagas check-compat"} < {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_the_reference_names_it(name, command):
    short = name.removeprefix("sagas ")
    assert re.search(rf"`(standfast )?{re.escape(short)}[ `]", PAGE), name
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and option != "--help":
                assert f"`{option}" in PAGE or f" {option}" in PAGE, (name, option)
    assert command.help, name
