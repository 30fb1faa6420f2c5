"""Reads a saga's code, without running it, for results that can't be there when they are read."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

from standfast.errors import DefinitionError
from standfast.saga.plan import Plan


def check_results(plan: Plan, steps: dict[str, Any]) -> None:
    """Raise `DefinitionError` where a step reads a result that needn't be there yet."""
    for name, current in steps.items():
        for function, own in ((current.function, False), (current.undo_function, True)):
            for read in _results_read(function):
                fine = plan.is_before(read, name) if read in plan.steps else True
                if not fine and not (own and read == name):
                    raise DefinitionError(
                        f"saga {plan.name!r}, step {name!r} reads the result of {read!r}, which "
                        f"isn't done before it: add after={read!r}, or don't read it"
                    )


def _results_read(function: Any) -> list[str]:
    """The X of each ``….result(self.X)`` or ``….result(Class.X)`` in a function's source."""
    if function is None:
        return []
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # no source at hand (REPL, frozen app): unchecked
        return []
    return [
        call.args[0].attr
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "result"
        and len(call.args) == 1
        and isinstance(call.args[0], ast.Attribute)
    ]
