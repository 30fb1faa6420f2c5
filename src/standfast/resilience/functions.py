"""What users hand to policies, checked where it is handed over: functions, exceptions, numbers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import MISSING, fields
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MappingProxyType
from typing import Any, TypeVar

from standfast.checks import is_async
from standfast.errors import ConfigurationError
from standfast.resilience.marks import do_not_retry
from standfast.text import class_of

F = TypeVar("F", bound=Callable[..., Any])

FINISHED: dict[type, None] = dict.fromkeys((type(None), bool, int, float, str, bytes, dict, list))
"""Types of answers whose work is done: ``if type(result) not in FINISHED``, then see `finished`."""

_MOST_TYPES = 256


def with_brackets(policy: object, first: object) -> None:
    """Check `first`, the first argument of a new `policy`: a function is what it was to decorate.

    Raises `ConfigurationError`.
    """
    if inspect.isroutine(first) or isinstance(first, (staticmethod, classmethod)):
        kind = type(policy).__name__
        raise ConfigurationError(
            f"{kind} decorates {_name(first)!r} without its options: write @{kind}(…)"
        )


def as_made(kind: str, *given: object, **options: object) -> str:
    """How a policy, or a part of one, is written: for its ``repr``, which messages show.

    Options that are "" or None are left out, as are those that the caller doesn't name.
    """
    shown = [repr(one) for one in given]
    shown += [f"{name}={_shown(one)}" for name, one in options.items() if one not in ("", None)]
    return f"{kind}({', '.join(shown)})"


def differing(value: Any) -> str:
    """The ``repr`` of a dataclass with the fields that aren't as by default."""
    options = {}
    for one in fields(value):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if one.repr and getattr(value, one.name) != default:
            options[one.name] = getattr(value, one.name)
    return as_made(type(value).__name__, **options)


def _shown(value: object) -> str:
    if isinstance(value, tuple) and all(isinstance(one, type) for one in value):
        return f"({', '.join(one.__name__ for one in value)}{',' if len(value) == 1 else ''})"
    return repr(value)


class NoDependency:
    """Marks a parameter that FastAPI must not take for a part of the request, by ``Annotated``.

    Else the route would be added, and its requests be answered with 422. Pydantic, which FastAPI
    asks about each parameter when the route is added, asks this, which refuses.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> Any:
        raise ConfigurationError(self._remedy)


def must_await(function: Callable[..., Any]) -> bool:
    """Whether a policy around `function` must await its answer: `is_async`, for what can be called.

    Raises `ConfigurationError` for what can't be called, for generators, and for a
    ``functools.singledispatch`` whose implementations are partly async.
    """
    bare: Any = function
    while isinstance(bare, (functools.partial, staticmethod)):
        bare = bare.func if isinstance(bare, functools.partial) else bare.__func__
    if not callable(bare):
        raise uncallable(function)
    # An object is called by its class; calling a class gives an object and never a coroutine.
    called = bare if inspect.isroutine(bare) else type(bare).__call__
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise ConfigurationError(
            f"{_name(bare)!r} is a generator: it returns before its work is done, so no policy can "
            "see it fail. Wrap the function that consumes it"
        )
    if getattr(called, "__code__", None) in _MANAGERS_MADE:
        raise ConfigurationError(
            f"{_name(bare)!r} makes a context manager: it returns before its work is done, so no "
            "policy can see it fail. Wrap the function that has the `with`, or what is called "
            "inside the context manager"
        )
    implementations = getattr(bare, "registry", None) if inspect.isfunction(bare) else None
    if isinstance(implementations, MappingProxyType):
        kinds = {must_await(one) for one in implementations.values()}
        if len(kinds) > 1:
            raise ConfigurationError(
                f"{_name(bare)!r} is a singledispatch of which some implementations are async and "
                "some aren't, so that a call may or may not be awaited: make them all alike"
            )
        return kinds.pop()
    return is_async(bare)


def uncallable(given: object) -> ConfigurationError:
    """The error for what was `given` in a function's place, to be raised. Nothing tries again.

    A coroutine is closed: none of its work has been done.
    """
    if hasattr(type(given), "__get__"):  # a property, a partialmethod and the like
        kind = type(given).__name__
        return do_not_retry(
            ConfigurationError(
                f"a {kind} can't be called, and is made of a function: put the policy around that, "
                f"which as a decorator is below the line of the {kind}"
            )
        )
    if not isinstance(given, Awaitable):
        return do_not_retry(ConfigurationError(f"{given!r} can't be called: give a function"))
    if isinstance(given, CoroutineType):
        given.close()
    name = getattr(given, "__name__", "function")
    return do_not_retry(
        ConfigurationError(
            f"{name}(…) was called already, so that the policy is given "
            f"{class_of(given)}, and no function to call again: give the function and its "
            f"arguments, as in policy.call_async({name}, …)"
        )
    )


def decorated_class(decorated: type, policy: str) -> ConfigurationError:
    """The error for a class under a decorator, the `policy`, to be raised."""
    name = decorated.__name__
    return ConfigurationError(
        f"{name} is a class, and a {policy} would make a function of it, with no class methods and "
        "no good for isinstance(): decorate its methods. To make an instance under the policy use "
        f"policy.call({name}, …)"
    )


def finished(function: Callable[..., Any], answer: Any) -> None:
    """Check the `answer` of a plain `function`, whose type isn't in `FINISHED`.

    Raises `ConfigurationError` if its work is still to come: for an awaitable, a generator, a
    context manager that a generator is behind, and a future of a thread. What hasn't begun is
    closed. Nothing around tries again.
    """
    found = _unfinished(answer)
    if found is None:
        if len(FINISHED) >= _MOST_TYPES:  # of a program that makes classes as it goes
            FINISHED.clear()
        FINISHED[type(answer)] = None
        return
    what, remedy = found
    if isinstance(answer, (CoroutineType, GeneratorType)):
        answer.close()
    raise do_not_retry(
        ConfigurationError(
            f"{_name(function)!r} is a plain function that answered with {what}: its work is "
            f"still to come, so no policy could see it fail. {remedy}"
        )
    )


def _unfinished(answer: Any) -> tuple[str, str] | None:
    """What `answer` is, and what to do instead; None if its work is done."""
    if hasattr(type(answer), "__await__"):
        remedy = "Decorate the `async def`, or use `await policy.call_async(function)`"
        return f"an awaitable, {class_of(answer)}", remedy
    if isinstance(answer, (GeneratorType, AsyncGeneratorType)):
        return "a generator", "Wrap the function that consumes it"
    if isinstance(answer, _MANAGERS):
        return "a context manager", "Wrap the function that has the `with`"
    if isinstance(answer, Future):
        return "a future", "Wrap the function that runs in the thread"
    return None


def _nothing() -> Iterator[None]:
    yield


async def _nothing_async() -> AsyncIterator[None]:
    yield


# Those of contextlib have no public names.
_MAKERS: Any = (contextmanager(_nothing), asynccontextmanager(_nothing_async))
_MANAGERS = tuple(type(make()) for make in _MAKERS)
_MANAGERS_MADE = tuple(make.__code__ for make in _MAKERS)


def plain(function: F, *, name: str, wanted: str) -> F:
    """`function`, an option called `name`, if it can answer at once.

    Raises `ConfigurationError` for an ``async def`` or a generator function, whose answer would
    always be true, and for what can't be called.
    """
    if not callable(function):
        raise ConfigurationError(f"{name}={function!r}: give {wanted}")
    try:
        awaited = must_await(function)
    except ConfigurationError:
        raise ConfigurationError(
            f"{name}={function!r}: a generator answers nothing when it is called; give {wanted}"
        ) from None
    if awaited:
        raise ConfigurationError(
            f"{name}={function!r} is async, and its answer would be a coroutine: give {wanted}, as "
            "a plain `def`"
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
