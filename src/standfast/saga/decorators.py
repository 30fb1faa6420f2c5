"""What stands under decorators and in containers, where it should stand by a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial, partialmethod
from types import FunctionType
from typing import Any

CONTAINERS = (list, tuple, set, frozenset, dict)
_DEEPEST = 10
"""Layers that are looked through: more are nobody's."""


def held_by(value: Any, depth: int = 0) -> Iterator[Any]:
    """All that `value` holds, at any depth: under decorators, and in containers.

    As far as can be told without running it: a decorator's own function has what it decorates as
    ``__wrapped__``, or in its closure.
    """
    if depth == _DEEPEST:
        return
    for one in _held(value):
        yield one
        yield from held_by(one, depth + 1)


def _held(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, CONTAINERS):
        return list(value)
    if isinstance(value, (staticmethod, classmethod)):
        return [value.__func__]
    if isinstance(value, (partial, partialmethod, cached_property)):
        return [value.func]
    if isinstance(value, property):
        return [value.fget]
    found = [getattr(value, "__dict__", {}).get("__wrapped__")]
    for cell in (value.__closure__ or ()) if isinstance(value, FunctionType) else ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # it is still empty
            continue
    return [one for one in found if callable(one)]


def decorator_of(value: Any) -> str:
    """The name of the decorator that made `value`, for people."""
    if isinstance(value, FunctionType):
        made_in, inside, _ = value.__code__.co_qualname.rpartition(".<locals>")
        return f"@{made_in.split('<locals>.')[-1].split('.')[0]}" if inside else "a decorator"
    return f"@{type(value).__name__}"
