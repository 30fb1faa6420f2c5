"""What is loaded, and when: who uses a part doesn't wait for the others.

Modules are counted rather than seconds, so that a busy machine fails nothing.
"""

import subprocess
import sys

import pytest

DRIVERS = frozenset({"asyncpg", "grpc", "httpx", "redis", "starlette"})
# Of the standard library, what takes longest to load.
SLOW = frozenset(
    {"asyncio", "concurrent.futures", "dataclasses", "inspect", "logging", "sqlite3", "ssl"}
)


def loaded_by(code: str) -> set[str]:
    """The modules that a new Python has after `code`, without those that it always has."""
    both = []
    for program in ("", code):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules, file=sys.stderr)"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        both.append(set(done.stderr.split()))
    always, loaded = both
    return loaded - always


@pytest.fixture(scope="module")
def loaded_by_help() -> set[str]:
    """The modules that ``standfast --help`` loads."""
    return loaded_by(
        "sys.argv = ['standfast', '--help']\n"
        "from standfast.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )


def test_standfast_itself_loads_next_to_nothing() -> None:
    loaded = loaded_by("import standfast")
    ours = {name for name in loaded if name.partition(".")[0] == "standfast"}
    assert ours == {"standfast", "standfast._version", "standfast.lazy"}
    assert not sorted(
        name for name in loaded - ours if name.partition(".")[0] not in sys.stdlib_module_names
    )
    assert not sorted(loaded & SLOW)


def test_resilience_alone_loads_no_driver() -> None:
    loaded = loaded_by("import standfast.resilience")
    assert "standfast.resilience" in loaded
    assert not sorted(loaded & (DRIVERS | {"msgspec", "sqlite3", "typer", "uuid_utils"}))


def test_help_loads_no_driver_and_no_backend(loaded_by_help: set[str]) -> None:
    assert "standfast.cli.commands" in loaded_by_help
    assert not sorted(loaded_by_help & DRIVERS)
    others = ("backends.", "conformance", "integrations", "testing")
    assert not sorted(
        name
        for name in loaded_by_help
        if name.startswith(tuple(f"standfast.{other}" for other in others))
    )


@pytest.mark.parametrize("module", ["msgspec.inspect", "rich.progress"])
def test_help_loads_nothing_that_only_a_command_needs(
    module: str, loaded_by_help: set[str]
) -> None:
    assert module not in loaded_by_help


def test_help_loads_no_more_than_it_did(loaded_by_help: set[str]) -> None:
    # 443 when this was written. A library that appears here is looked at before the number grows.
    assert len(loaded_by_help) <= 500, sorted(loaded_by_help)


def test_an_app_loads_nothing_for_sync_code_that_there_is_not() -> None:
    app = "import standfast\napp = standfast.Standfast('sqlite:///app.db')"
    assert not {"anyio", "standfast.blocking"} & loaded_by(app)
    loaded = loaded_by(f"{app}\napp.blocking.close()")
    assert "standfast.blocking.client" in loaded
    assert not {"anyio", "standfast.blocking.operations"} & loaded
