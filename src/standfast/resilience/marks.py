"""The mark "don't retry" on an exception: what one retry has given up on, the others let pass.

Layers that retry around layers that retry multiply the calls. So an exhausted `Retry` marks its
exception, and the layers around stop. A saga's step is no such layer: its retries are durable and
far apart, so what was exhausted inside it counts as one attempt. Only a mark made by you ends those
too.

An exception object may be raised again, in another call, and still has its mark and its old
traceback then. So marks are numbered: who begins an attempt keeps the number of the latest, and
what is older isn't its own. An attempt of a saga's step has a `Scope` besides, which tells it from
those beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, TypeVar

from standfast.groups import lineage
from standfast.resilience.tracebacks import newest_frames

E = TypeVar("E", bound=BaseException)

_MARK = "__standfast_do_not_retry__"
_numbers = itertools.count(1)
LATEST = [0]
"""The number of the latest mark: a list, for who reads it in every call."""


class Scope:
    """An attempt with a context of its own: no other takes for its own what is marked in it."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since: int = LATEST[0]


SCOPE: ContextVar[Scope | None] = ContextVar("standfast_scope_of_marks", default=None)
"""The scope that runs here. Tasks inherit it, and threads that are given a context."""


def do_not_retry(error: E) -> E:
    """Mark `error` so that nothing around tries again: ``raise do_not_retry(error)``.

    No `Retry` does, and no retry of a saga's step or compensation: it fails at once, as if its
    attempts were used up. (Raise `Refused` instead if the step certainly had no effect.) The mark
    doesn't cross a process, a network, or an ``except`` that raises something else without
    ``from error``.

    Give it a new exception, or one that you have just caught. A new one is marked wherever it is
    raised. One that you caught is marked for those who called you, and for the attempts that they
    are making now: nobody else who gets the same object, and no later attempt, takes note of it.
    Two attempts at the same time that each *raise* one object (a constant, say) can't be told
    apart by a `Retry`, only by steps of sagas; then one may end the other's retries. So raise a new
    exception each time.
    """
    _mark(error, "for good")
    return error


def let_pass(error: E) -> E:
    """Mark `error` so that no `Retry` around tries again; a saga's step may.

    An exhausted `Retry` does this to the error that it lets through, and a transport to a failure
    after which it can't send the same request again. As with `do_not_retry`, an error that was
    caught is marked for those around only.
    """
    _mark(error, "here")
    return error


def is_marked(error: BaseException, since: int = 0) -> bool:
    """Whether `error`, one in its group, or one it was raised from, is to pass every `Retry`.

    What was caught and marked up to number `since`, or in another scope, is others' affair.
    """
    return any(True for _ in _marks(error, since, SCOPE.get()))


def is_final(error: BaseException, scope: Scope | None = None) -> bool:
    """Whether `error`, one in its group, or one it was raised from, was given to `do_not_retry`.

    What was caught and marked before `scope` began, or in another one, is others' affair.
    """
    since = 0 if scope is None else scope.since
    return any(mark.kind == "for good" for mark in _marks(error, since, scope))


class _Mark(NamedTuple):
    """One mark on an exception object, which several callers may hold.

    Where the object was caught, and so may have been raised elsewhere too, the mark is for those
    who get it through `frame` (an id), which is in their traceback then. Who raises it again later
    has that in its traceback as well, but began after `number` or has another `scope`.
    """

    kind: Literal["for good", "here"]
    number: int
    frame: int | None
    scope: Scope | None

    def is_for_same(self, later: _Mark) -> bool:
        """Whether `later` says the same to the same, so that this one needn't be kept."""
        same = self.kind == later.kind and self.frame == later.frame
        return same and self.scope is later.scope


def _holder(error: BaseException) -> int | None:
    """The id of the frame that has caught `error`; None if nobody has raised it yet."""
    traceback = error.__traceback__
    return None if traceback is None else id(traceback.tb_frame)


def _mark(error: BaseException, kind: Literal["for good", "here"]) -> None:
    number = LATEST[0] = next(_numbers)
    mark = _Mark(kind, number, _holder(error), SCOPE.get())
    # Not `setattr`, which frozen dataclasses and others refuse. An error that is raised again and
    # again collects marks: the last ones are enough, with those that hold for everybody.
    attributes: dict[str, Any] = object.__getattribute__(error, "__dict__")
    marks: list[_Mark] = [one for one in attributes.get(_MARK, ()) if not one.is_for_same(mark)]
    lasting = [one for one in marks[:-15] if one.frame is None]
    attributes[_MARK] = (*lasting, *marks[-15:], mark)


def _marks(error: BaseException, since: int, scope: Scope | None) -> Iterator[_Mark]:
    for one in lineage(error):
        marks: tuple[_Mark, ...] = object.__getattribute__(one, "__dict__").get(_MARK, ())
        passed: set[int] | None = None
        for mark in marks:
            if mark.frame is None:
                yield mark
            elif mark.number > since and (mark.scope is None or mark.scope is scope):
                if passed is None:
                    passed = {id(frame) for frame in newest_frames(one)}
                if mark.frame in passed:
                    yield mark
