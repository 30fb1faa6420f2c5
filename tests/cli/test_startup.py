"""Help comes at once: it loads neither drivers, nor the engine of sagas, nor what draws tables."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "asyncpg",
    "msgspec",
    "opentelemetry",
    "redis",
    "rich",
    "sqlite3",
    "standfast.app",
    "standfast.backends",
    "standfast.coordination",
    "standfast.ports",
    "standfast.saga",
}
CODE = """
import json, sys
from standfast.cli.main import main
sys.argv = ["standfast", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
json.dump(sorted(sys.modules), sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["run", "--help"], ["migrate", "--help"], ["sagas", "--help"]],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout
    loaded = HEAVY & set(json.loads(done.stderr))
    assert not loaded


def test_help_fits_80_columns(standfast, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in ([], ["run"], ["migrate"], ["services"], ["sagas"]):
        told = standfast(*command, "--help").stdout
        assert max(map(len, told.splitlines())) <= 80
    assert "..." not in standfast("--help").stdout.partition("Commands:")[2]
