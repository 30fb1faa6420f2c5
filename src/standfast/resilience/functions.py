"""What users hand to policies, checked where it is handed over: functions, exceptions, numbers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from types import CoroutineType, MappingProxyType
from typing import Any, TypeVar

from standfast.errors import ConfigurationError
from standfast.resilience.marks import do_not_retry

F = TypeVar("F", bound=Callable[..., Any])

Coroutine = CoroutineType
"""What a plain call must not answer with: ``if type(result) is Coroutine``."""


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives a coroutine, as far as it can be told without calling it.

    Raises `ConfigurationError` for what can't be called, for generators, and for a
    ``functools.singledispatch`` whose implementations are partly async.
    """
    bare: Any = function
    while isinstance(bare, (functools.partial, staticmethod)):
        bare = bare.func if isinstance(bare, functools.partial) else bare.__func__
    if not callable(bare):
        raise ConfigurationError(f"{function!r} can't be called: give a function")
    # An object is called by its class; calling a class gives an object and never a coroutine.
    called = bare if inspect.isroutine(bare) else type(bare).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(
            f"{_name(bare)!r} is a generator: it returns before its work is done, so no policy can "
            "see it fail. Wrap the function that consumes it"
        )
    implementations = getattr(bare, "registry", None) if inspect.isfunction(bare) else None
    if isinstance(implementations, MappingProxyType):
        kinds = {is_async(one) for one in implementations.values()}
        if len(kinds) > 1:
            raise ConfigurationError(
                f"{_name(bare)!r} is a singledispatch of which some implementations are async and "
                "some aren't, so that a call may or may not be awaited: make them all alike"
            )
        return kinds.pop()
    return inspect.iscoroutinefunction(called)


def unawaited(function: Callable[..., Any], awaitable: Any) -> ConfigurationError:
    """The error for a plain `function` that answered with an awaitable, to be raised.

    A coroutine is closed: none of its work has been done. Nothing around tries again.
    """
    if isinstance(awaitable, CoroutineType):
        awaitable.close()
    return do_not_retry(
        ConfigurationError(
            f"{_name(function)!r} is a plain function that answered with an awaitable, a "
            f"{type(awaitable).__name__}: its work is still to come, so no policy could see it "
            "fail. Decorate the `async def`, or use `await policy.call_async(function)`"
        )
    )


def plain(function: F, *, name: str, wanted: str) -> F:
    """`function`, an option called `name`, if it can answer at once.

    Raises `ConfigurationError` for an ``async def`` or a generator function, whose answer would
    always be true, and for what can't be called.
    """
    if not callable(function):
        raise ConfigurationError(f"{name}={function!r}: give {wanted}")
    try:
        awaited = is_async(function)
    except ConfigurationError:
        raise ConfigurationError(
            f"{name}={function!r}: a generator answers nothing when it is called; give {wanted}"
        ) from None
    if awaited:
        raise ConfigurationError(
            f"{name}={function!r} is async, and its answer would be a coroutine, which is always "
            f"true: give {wanted}, as a plain `def`"
        )
    return function


def exceptions(value: object, *, name: str) -> tuple[type[BaseException], ...]:
    """`value` as a tuple of exception classes; raises `ConfigurationError` if it is none."""
    classes = value if isinstance(value, tuple) else (value,)
    fine = all(isinstance(one, type) and issubclass(one, BaseException) for one in classes)
    if fine and isinstance(value, tuple):
        return value
    raise ConfigurationError(
        f"{name}={value!r}: give a tuple of exception classes, such as (OSError, TimeoutError)"
    )


def whole(value: int, *, name: str, least: int = 1) -> int:
    """`value`, if it is a whole number of at least `least`. Raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{name}={value!r}: must be a whole number, {least} or more")
    if value < least:
        raise ConfigurationError(f"{name}={value!r}: must be {least} or more")
    return value


def number(value: Any, *, name: str) -> float:
    """`value`, if it is a number, and no NaN. Raises `ConfigurationError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ConfigurationError(f"{name}={value!r}: must be a number")
    return float(value)


def delay(value: Any) -> float:
    """`value`, which a user's function answered, in seconds; raises `ValueError` if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"answered {value!r} instead of seconds")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"answered {value!r} seconds: a delay must be finite and zero or more")
    return float(value)


_ORIGIN = "__standfast_origin__"


def origin(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function that `call` makes in the end, where a `Pipeline` has put policies between."""
    found: Callable[..., Any] = getattr(call, _ORIGIN, call)
    return found


def set_origin(call: Callable[..., Any], function: Callable[..., Any]) -> None:
    """Say that `call`, which only policies see, makes `function` in the end."""
    with suppress(AttributeError):  # not every callable takes attributes
        setattr(call, _ORIGIN, function)


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
