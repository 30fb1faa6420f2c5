"""What the test kit is given: refused where it could check nothing, for a test would be green."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from standfast.checks import is_async
from standfast.errors import ConfigurationError

Raises = BaseException | type[BaseException] | Sequence[BaseException | type[BaseException]]


def plain_function(value: object, *, name: str, wanted: str) -> Callable[..., Any]:
    """`value`, if it is a function that needn't be awaited. Raises `ConfigurationError`."""
    if not callable(value) or is_async(value):
        raise ConfigurationError(f"{name}={value!r}: give {wanted}")
    return value


def plain_functions(value: object, *, name: str, wanted: str) -> tuple[Callable[..., Any], ...]:
    """One such function, or several, as a tuple. Raises `ConfigurationError`."""
    if callable(value) or isinstance(value, str) or not isinstance(value, Iterable):
        return (plain_function(value, name=name, wanted=wanted),)
    every: list[object] = list(value)
    return tuple(plain_function(one, name=name, wanted=wanted) for one in every)


def seeds_of(seeds: object, seed: object) -> Iterable[int]:
    """The seeds to run, one by one: at least one. Raises `ConfigurationError`."""
    if seed is not None:
        return [_a_seed(seed, "seed")]
    if isinstance(seeds, int):
        if isinstance(seeds, bool) or seeds < 1:
            raise ConfigurationError(f"seeds={seeds!r}: must be 1 or more, or nothing is run")
        return range(seeds)
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Iterable):
        raise ConfigurationError(f"seeds={seeds!r}: give how many runs, or which seeds")
    return _each(seeds)


def _each(seeds: Iterable[object]) -> Iterator[int]:
    none = True
    for one in seeds:
        none = False
        yield _a_seed(one, "seeds")
    if none:
        raise ConfigurationError(f"seeds={seeds!r}: there are none, so nothing is run")


def _a_seed(value: object, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name}={value!r}: a seed is a whole number")


def errors_of(name: str, raises: object) -> Sequence[BaseException] | type[BaseException]:
    """The errors of the first calls, or the class of all of them. Raises `ConfigurationError`."""
    if isinstance(raises, type) and issubclass(raises, BaseException):
        _an_error(name, raises)
        return raises
    if isinstance(raises, (list, tuple)):
        return [_an_error(name, one) for one in raises]
    return [_an_error(name, raises)]


def _an_error(name: str, given: object) -> BaseException:
    if isinstance(given, BaseException):
        return given
    if not (isinstance(given, type) and issubclass(given, BaseException)):
        raise ConfigurationError(
            f"raises={{{name!r}: …}} has {given!r}: give an exception for the first call, a list "
            "of exceptions for the first few, or an exception class for all of them"
        )
    try:
        return an_error(given)
    except Exception as error:
        raise ConfigurationError(
            f"raises={{{name!r}: …}} has {given!r}, which can't be made of a message alone "
            f"({error}): give an exception, or a list of exceptions"
        ) from error


def an_error(kind: type[BaseException]) -> BaseException:
    """An exception of a class that was told to be raised."""
    return kind("told to")
