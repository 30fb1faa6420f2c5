"""What `import standfast` offers is decided, not accidental: tests/public_surface.txt lists it."""

import subprocess
import sys
from pathlib import Path

import standfast

EXPECTED = Path(__file__).with_name("public_surface.txt").read_text().split()

# What nobody should pay for who only wants a circuit breaker.
NOT_FOR_RESILIENCE = (
    "asyncpg",
    "msgspec",
    "redis",
    "sqlite3",
    "starlette",
    "typer",
    "uuid_utils",
)


def test_the_surface_is_the_one_we_decided_on() -> None:
    offered = list(getattr(standfast, "__all__", []))
    assert offered == sorted(offered)
    assert offered == EXPECTED


def test_every_name_resolves() -> None:
    for name in EXPECTED:
        assert getattr(standfast, name) is not None, name
    assert set(EXPECTED) <= set(dir(standfast))


def test_resilience_alone_loads_no_driver() -> None:
    script = "import standfast.resilience, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    )
    loaded = set(done.stdout.split())
    assert "standfast.resilience" in loaded
    assert loaded.isdisjoint(NOT_FOR_RESILIENCE), sorted(loaded & set(NOT_FOR_RESILIENCE))
