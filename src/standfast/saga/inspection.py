"""Looks at a saga's functions, without running them, for what can't work when they are."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from standfast.errors import DefinitionError
from standfast.saga.plan import Plan
from standfast.saga.step import Step, no_step


def check_parameters(current: Step[Any, Any]) -> None:
    """Raise `DefinitionError` where a method can't take what it will be given."""
    undo = f"@{current.name}.compensation"
    for function, options, what, decorator in (
        (current.function, current.options, f"step {current.name!r}", "@step"),
        (
            current.undo_function,
            current.undo_options,
            f"the compensation of {current.name!r}",
            undo,
        ),
    ):
        if function is None:
            continue
        given, why = ["self", "input", "ctx"], ""
        if current.each is not None:
            given.append("item")
            why = " has each=, so it"
        bare = given
        if options.get("transactional"):
            given = [*bare, "tx"]
            why = " is transactional, so it"
        try:
            inspect.signature(function).bind(*given)
        except TypeError as error:
            option = f"{decorator}(transactional=True)"
            remedy = _remedy(function, given, bare, option) or f": {error}"
            raise DefinitionError(f"{what}{why} must take ({', '.join(given)}){remedy}") from error


def _remedy(function: Callable[..., Any], given: list[str], bare: list[str], option: str) -> str:
    """What to do where it is only the transaction that is missing or too much; "" for all else.

    `bare` is what it would be given without one, and `option` how to ask for it.
    """
    if given != bare:
        return f": add tx, or leave out {option}" if _takes(function, bare) else ""
    if any(
        one.name == "tx" or "Transaction" in str(one.annotation)
        for one in inspect.signature(function).parameters.values()
    ):
        return f", and no transaction: write {option} to be given one, or take none"
    return ""


def _takes(function: Callable[..., Any], given: list[str]) -> bool:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return False
    return True


def check_functions(plan: Plan, steps: dict[str, Step[Any, Any]]) -> None:
    """Raise `DefinitionError` where a step reads a result that needn't be there yet.

    And where it asks the context for a step by name. Both only as far as source is at hand. And
    where a condition, or what gives items or a child's input, can't take what it will be given.
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
    source = _source(function)
    for method, named in _names_given(function, source):
        raise DefinitionError(f"saga {plan.name!r}, step {step!r}: {no_step(named, method)}")
    for read in _results_read(source):
        if read not in plan.steps or plan.is_before(read, step) or (own and read == step):
            continue
        raise DefinitionError(
            f"saga {plan.name!r}, step {step!r} reads the result of {read!r}, which isn't done "
            f"before it: add after={read!r}, or don't read it"
        )


def _results_read(source: ast.AST) -> list[str]:
    """The X of each ``….result(self.X)`` or ``….result(Class.X)`` in a function's source."""
    return [
        argument.attr
        for method, _, argument in _asked(source)
        if method == "result" and isinstance(argument, ast.Attribute)
    ]


def _names_given(function: Callable[..., Any] | None, source: ast.AST) -> Iterator[tuple[str, str]]:
    """The method and name of each ``ctx.result("X")`` or ``ctx.has_result("X")``.

    Of the context only, by whatever name the function takes it: others may well take names.
    """
    for method, owner, argument in _asked(source):
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            continue
        assert function is not None
        if owner == _third_parameter(function):
            yield method, argument.value


def _asked(source: ast.AST) -> Iterator[tuple[str, str, ast.expr]]:
    """The method, the variable it is of ("" for none), and the argument of each ``X.result(Y)``."""
    for call in ast.walk(source):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in ("result", "has_result")
            and len(call.args) == 1
        ):
            owner = call.func.value
            yield call.func.attr, owner.id if isinstance(owner, ast.Name) else "", call.args[0]


def _third_parameter(function: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(function).parameters)
    return parameters[2] if len(parameters) > 2 else ""


def _source(function: Callable[..., Any] | None) -> ast.AST:
    """A function's source, as far as it is at hand (not in a REPL or a frozen app)."""
    if function is None:
        return _parsed("")
    try:
        return _parsed(textwrap.dedent(inspect.getsource(function)).strip())
    except (OSError, TypeError):
        return _parsed("")


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
