"""Looks at a saga's functions, without running them, for what can't work when they are."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from standfast.errors import DefinitionError
from standfast.saga.plan import Plan
from standfast.saga.step import Step


def check_parameters(current: Step[Any, Any]) -> None:
    """Raise `DefinitionError` where a method can't take what it will be given."""
    fans_out = current.each is not None
    for function, options, what in (
        (current.function, current.options, f"step {current.name!r}"),
        (current.undo_function, current.undo_options, f"the compensation of {current.name!r}"),
    ):
        if function is None:
            continue
        given, why = ["self", "input", "ctx"], ""
        if fans_out:
            given.append("item")
            why = " has each=, so it"
        if options.get("transactional"):
            given.append("tx")
            why = " is transactional, so it"
        try:
            inspect.signature(function).bind(*given)
        except TypeError as error:
            raise DefinitionError(f"{what}{why} must take ({', '.join(given)}): {error}") from error


def check_functions(plan: Plan, steps: dict[str, Step[Any, Any]]) -> None:
    """Raise `DefinitionError` where a step reads a result that needn't be there yet.

    Only as far as source is at hand. And where a condition, or what gives items or a child's input,
    can't take what it will be given.
    """
    for name, current in steps.items():
        for option in ("when", "each", "until"):
            _check_call(plan, name, getattr(current, option), option)
        item = ("item",) if current.each is not None else ()
        _check_call(plan, name, current.child_input, "input", *item)
        given = (current.when, current.each, current.until, current.child_input)
        for function in (current.function, *given):
            _check_reads(plan, name, function, own=False)
        _check_reads(plan, name, current.undo_function, own=True)


def _check_call(
    plan: Plan, step: str, function: Callable[..., Any] | None, option: str, *more: str
) -> None:
    if function is None:
        return
    given = ("self", "input", "ctx", *more)
    try:
        inspect.signature(function).bind(*given)
    except ValueError:  # some of those written in C don't tell
        return
    except TypeError as error:
        raise DefinitionError(
            f"saga {plan.name!r}, step {step!r}: {option}= must take ({', '.join(given)}): {error}"
        ) from error


def _check_reads(plan: Plan, step: str, function: Callable[..., Any] | None, *, own: bool) -> None:
    for read in _results_read(function):
        if read not in plan.steps or plan.is_before(read, step) or (own and read == step):
            continue
        raise DefinitionError(
            f"saga {plan.name!r}, step {step!r} reads the result of {read!r}, which isn't done "
            f"before it: add after={read!r}, or don't read it"
        )


def _results_read(function: Callable[..., Any] | None) -> list[str]:
    """The X of each ``….result(self.X)`` or ``….result(Class.X)`` in a function's source."""
    if function is None:
        return []
    try:
        source = textwrap.dedent(inspect.getsource(function)).strip()
    except (OSError, TypeError):  # no source at hand (REPL, frozen app): unchecked
        return []
    return [
        call.args[0].attr
        for call in ast.walk(_parsed(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "result"
        and len(call.args) == 1
        and isinstance(call.args[0], ast.Attribute)
    ]


def _parsed(source: str) -> ast.AST:
    """The code, or nothing. Of a lambda the source is its lines, with what closes a call after."""
    while source:
        try:
            return ast.parse(source)
        except SyntaxError:
            if source[-1] not in ",)":
                break
            source = source[:-1].rstrip()
    return ast.Module(body=[], type_ignores=[])
