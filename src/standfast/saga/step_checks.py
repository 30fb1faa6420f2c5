"""What steps and undos are checked for where they are written: functions, and values of options."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from standfast.checks import Outermost, flag, is_async, whole
from standfast.errors import ConfigurationError, DefinitionError
from standfast.resilience.policy import Policy
from standfast.resilience.retry import Retry


def must_be_function(function: Any, what: str) -> None:
    """Raise `DefinitionError` for what can't be the function of a step or an undo."""
    name = repr(getattr(function, "__qualname__", function))
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DefinitionError(
            f"{name} can't be {what}, for it has a `yield`, and nobody iterates over it: return a "
            "value instead"
        )
    if not _is_method(function):
        raise DefinitionError(
            f"{name} can't be {what}: write it with `async def`, or with `def`, which runs in a "
            "thread"
        )
    if is_blocking(function) and is_async(inspect.unwrap(function)):
        raise DefinitionError(
            f"{name} can't be {what}, for it is an `async def` under a decorator that makes a "
            "`def` of it, which would answer with a coroutine that nobody awaits: let the "
            "decorator await it in an `async def` of its own"
        )


def _is_method(function: Any) -> bool:
    """Whether it can be called on a saga, with it as `self`."""
    if isinstance(function, (type, staticmethod, classmethod, partial, Outermost)):
        return False
    return callable(function) and hasattr(function, "__get__")


def is_blocking(function: Any) -> bool:
    """Whether it is a ``def``: it may block, and so runs in a thread."""
    return not inspect.iscoroutinefunction(function)


def must_be_plain(function: Any, what: str) -> None:
    """Raise `DefinitionError` for what can't be a condition, or tell the items or an input."""
    if not callable(function):
        raise DefinitionError(f"{what} must be a function of (self, input, ctx), not {function!r}")
    if is_async(function):
        name = getattr(function, "__qualname__", function)
        raise DefinitionError(
            f"{what} must be a plain function, and {name!r} is async: nobody would await it. "
            "Write it with `def`; what must be awaited belongs in a step before, whose result it "
            "can read"
        )


def check_options(what: str, options: dict[str, Any]) -> None:
    """Raise `DefinitionError` for values of a wrong type; durations are checked with the plan."""
    for name in ("when", "each", "until"):
        if options.get(name) is not None:
            must_be_plain(options[name], f"{what}: {name}=")
    try:
        if options.get("limit") is not None:
            whole(options["limit"], name="limit", note=", or None")
        for name in ("pivot", "transactional"):
            flag(options.get(name, False), name=name)
    except ConfigurationError as error:
        raise DefinitionError(f"{what}: {error}") from error
    retry, why_not = options.get("retry"), options.get("no_compensation", "")
    if retry is not None and not isinstance(retry, Retry):
        also = (
            ", and put other policies on a function that the step calls"
            if isinstance(retry, Policy)
            else ""
        )
        raise DefinitionError(
            f"{what} has retry={retry!r}: give a Retry, as in Retry(attempts=3){also}"
        )
    if not isinstance(why_not, str):
        raise DefinitionError(f"{what} has no_compensation={why_not!r}: say in words why")
