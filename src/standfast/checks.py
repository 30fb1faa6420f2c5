"""What options are checked for, wherever there are some: whole numbers, texts, flags, functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Collection
from functools import partial
from typing import Any, TypeVar

from standfast.errors import ConfigurationError
from standfast.text import class_of

T = TypeVar("T")


class Outermost:
    """What must stand over all other decorators of its function, as a saga's step does."""

    def refusal(self, decorator: str) -> ConfigurationError:
        """The error for a `decorator` over it."""
        raise NotImplementedError


def whole(value: object, *, name: str, least: int = 1, note: str = "") -> int:
    """`value`, if it is a whole number of at least `least`.

    `name` is the option's name, for the message, and `note` what else could be given. Raises
    `ConfigurationError`, also for a bool and for a number in text.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ConfigurationError(f"{name}={value!r}: must be a whole number, {least} or more{note}")


def text(value: object, *, name: str = "name", note: str = "") -> str:
    """`value`, if it is a text. `note` is what was probably meant, for the message.

    Raises `ConfigurationError`: a number would be told as if it were a name.
    """
    if isinstance(value, str):
        return value
    raise ConfigurationError(f"{name}={value!r}: must be a text{note}")


def texts(value: object, *, name: str, wanted: str) -> Collection[str]:
    """`value`, if it is a collection of texts, and no text itself, which is one of its letters.

    `wanted` is what to give, for the message. Raises `ConfigurationError`.
    """
    if not isinstance(value, (str, bytes)) and isinstance(value, Collection):
        found: Collection[Any] = value
        if all(isinstance(one, str) for one in found):
            return found
    raise ConfigurationError(f"{name}={value!r}: give {wanted}")


def flag(value: object, *, name: str) -> bool:
    """`value`, if it is a bool. Raises `ConfigurationError`: any text would count as True."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name}={value!r}: must be True or False")


def provides(value: T, *methods: str, name: str, instead: str = "") -> T:
    """`value`, if it is an object with these methods: no class, and nothing else by mistake.

    `instead` is what else could be given, for the message. Raises `ConfigurationError`.
    """
    if isinstance(value, type) or not all(callable(getattr(value, one, None)) for one in methods):
        wanted = f"{instead}an object with {', '.join(methods)}"
        raise ConfigurationError(f"{name}={value!r}: give {wanted}")
    return value


def is_async(function: object) -> bool:
    """Whether a call of `function` answers with something to be awaited or iterated over by ``async
    for``, as far as can be told without calling it.

    It looks into partials, static methods and objects with a ``__call__``. A plain function
    that answers with another's coroutine is told by its answer only: see `plain_answer`.
    """
    while isinstance(function, (partial, staticmethod)):
        function = function.func if isinstance(function, partial) else function.__func__
    if _is_async(function):
        return True
    call = getattr(type(function), "__call__", None)  # noqa: B004 — whether it is one is asked next
    return not inspect.isroutine(function) and _is_async(call)


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def is_unawaited(value: object) -> bool:
    """Whether `value` is something that was to be awaited, or iterated over by ``async for``.

    A coroutine is closed, for nobody will: or Python warns that it was never awaited.
    """
    if inspect.iscoroutine(value):
        value.close()
    return isinstance(value, Awaitable) or inspect.isasyncgen(value)


def plain_answer(value: Any, *, name: str) -> Any:
    """`value`, if it is no coroutine or other awaitable, which nobody would await.

    Raises `ConfigurationError`, which speaks of the function as `name`.
    """
    if is_unawaited(value):
        raise ConfigurationError(
            f"{name} answered with {class_of(value)}, which nobody awaits: give a plain "
            "function, and do in a step what must be awaited"
        )
    return value
