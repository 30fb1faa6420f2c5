"""The mark "don't retry" on an exception: what one retry has given up on, the others let pass.

Layers that retry around layers that retry multiply the calls. So an exhausted `Retry` marks its
exception, and the layers around stop. A saga's step is no such layer: its retries are durable and
far apart, so what was exhausted inside it counts as one attempt. Only a mark made by you ends those
too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeVar

from standfast.groups import lineage

E = TypeVar("E", bound=BaseException)

_MARK = "__standfast_do_not_retry__"


def do_not_retry(error: E) -> E:
    """Mark `error` so that nothing around tries again: ``raise do_not_retry(error)``.

    No `Retry` does, and no retry of a saga's step or compensation: it fails at once, as if its
    attempts were used up. (Raise `Refused` instead if the step certainly had no effect.) Give it a
    new exception, or one that you have just caught: that is marked for those who called you, and
    for nobody else who holds the same object. The mark doesn't cross a process, a network, or an
    ``except`` that raises something else without ``from error``.
    """
    _mark(error, _Mark("for good", _holder(error), None))
    return error


def let_pass(error: E, *, number: int | None = None) -> E:
    """Mark `error` so that no `Retry` around tries again; a saga's step may.

    An exhausted `Retry` does this to the error that it lets through, with its `number`, and a
    transport to a failure after which it can't send the same request again. As with `do_not_retry`,
    an error that was caught is marked for those around only.
    """
    _mark(error, _Mark("here", _holder(error), number))
    return error


def is_marked(error: BaseException, since: int = 0) -> bool:
    """Whether `error`, one in its group, or one it was raised from, is to pass every `Retry`.

    Marks of retries that gave up before number `since` are those of other calls.
    """
    return any(True for _ in _marks(error, since))


def is_final(error: BaseException) -> bool:
    """Whether `error`, one in its group, or one it was raised from, was given to `do_not_retry`."""
    return any(mark.kind == "for good" for mark in _marks(error, 0))


class _Mark(NamedTuple):
    """One mark on an exception object, which several callers may hold.

    Where the object was caught, and so may have been raised elsewhere too, the mark is for those
    who get it through `frame` (an id): it is in their traceback then, and in nobody else's.
    """

    kind: Literal["for good", "here"]
    frame: int | None
    number: int | None


def _holder(error: BaseException) -> int | None:
    """The id of the frame that has caught `error`; None if nobody has raised it yet."""
    traceback = error.__traceback__
    return None if traceback is None else id(traceback.tb_frame)


def _mark(error: BaseException, mark: _Mark) -> None:
    # Not `setattr`, which frozen dataclasses and others refuse. A few marks are enough: an error
    # that is raised again and again collects them.
    attributes: dict[str, Any] = object.__getattribute__(error, "__dict__")
    attributes[_MARK] = (*attributes.get(_MARK, ())[-15:], mark)


def _marks(error: BaseException, since: int) -> Iterator[_Mark]:
    for one in lineage(error):
        marks: tuple[_Mark, ...] = object.__getattribute__(one, "__dict__").get(_MARK, ())
        passed = _frames(one) if marks else set()
        for mark in marks:
            old = mark.number is not None and mark.number <= since
            if not old and (mark.frame is None or mark.frame in passed):
                yield mark


def _frames(error: BaseException) -> set[int]:
    """The frames that `error` came through, by their ids."""
    frames, traceback = set(), error.__traceback__
    while traceback is not None:
        frames.add(id(traceback.tb_frame))
        traceback = traceback.tb_next
    return frames
