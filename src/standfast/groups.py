"""Exception groups, as a `TaskGroup` raises them: what happened is told by their leaves.

An exception that isn't a group is a leaf by itself, so that nobody has to ask first. All of a group
is looked at, however wide or deep it is: an answer that holds for a part isn't one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

Kinds: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

# Not by the attributes, which subclasses may define otherwise.
_exceptions = BaseExceptionGroup.exceptions.__get__
_cause = BaseException.__cause__.__get__  # type: ignore[union-attr]


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
    seen: set[int] = set()  # a chain of causes may be circular
    left = [error]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if causes and (cause := _cause(one)) is not None:
            left.append(cause)
        if isinstance(one, BaseExceptionGroup):
            left.extend(reversed(_exceptions(one)))
