"""Exception groups, as a `TaskGroup` raises them: what happened is told by their leaves.

An exception that isn't a group is a leaf by itself, so that nobody has to ask first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

Kinds: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

_MOST = 1000
"""How many exceptions are looked at: groups and chains of causes may be circular, or huge."""


def leaves(error: BaseException) -> Sequence[BaseException]:
    """The exceptions in a group, however deep, in their order; one that is no group, by itself."""
    if not isinstance(error, BaseExceptionGroup):
        return (error,)
    return [one for one in _walk(error, causes=False) if not isinstance(one, BaseExceptionGroup)]


def lineage(error: BaseException) -> Iterator[BaseException]:
    """`error`, all that are grouped in it, and the errors that each was raised ``from``."""
    return _walk(error, causes=True)


def every(error: BaseException, kinds: Kinds) -> bool:
    """Whether `error` is of these classes, or a group of nothing else."""
    if isinstance(error, kinds):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    return all(isinstance(one, kinds) for one in leaves(error))


def some(error: BaseException, kinds: Kinds) -> bool:
    """Whether `error` is of these classes, or a group with one of them in it."""
    if isinstance(error, kinds):
        return True
    if not isinstance(error, BaseExceptionGroup):
        return False
    return any(isinstance(one, kinds) for one in leaves(error))


def _walk(error: BaseException, *, causes: bool) -> Iterator[BaseException]:
    seen: set[int] = set()
    left = [error]
    while left and len(seen) < _MOST:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if causes and one.__cause__ is not None:
            left.append(one.__cause__)
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(one.exceptions))
