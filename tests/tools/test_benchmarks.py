"""``make bench ARGS=resilience`` leaves no part out."""

import ast
from pathlib import Path

PARTS = Path(__file__).parents[2] / "benchmarks" / "resilience"
SHARED = {"__init__.py", "overhead.py"}


def test_every_part_has_a_main():
    """Which is how the subject finds what it runs; a module without one is left out in silence."""
    without = [
        path.name
        for path in PARTS.glob("*.py")
        if path.name not in SHARED
        and not any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text()).body
        )
    ]
    assert without == []
    assert (PARTS / "ratelimit.py").exists()
