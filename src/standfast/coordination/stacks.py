"""Where a task or a thread stands: for the log, when it doesn't do what it should."""

from __future__ import annotations

import asyncio
import sys
import traceback
from contextlib import suppress
from itertools import accumulate, chain, islice, repeat
from operator import itemgetter
from types import CodeType, FrameType
from typing import Any

_DEEPEST = 20
_DEEPEST_OF_THREAD = 4


def where(task: asyncio.Task[Any]) -> str:
    """The lines at which a suspended task stands, through all that it awaits, the innermost last.

    At most the last twenty. Empty for a task that has ended, or runs just now.
    """
    summary = traceback.StackSummary()
    awaited: Any = task.get_coro()
    while awaited is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                summary += traceback.StackSummary.extract([(frame, frame.f_lineno)])
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return "".join(summary.format()[-_DEEPEST:])


def where_thread(ident: int | None, *, below: CodeType | None = None) -> str:
    """The lines at which the thread of that identifier stands, the innermost last.

    The last four; or all `below` the innermost frame that runs that code, without those in the
    middle where there are many. Empty for one that has ended, or hasn't begun.
    """
    stack = _stack_of_thread(ident or 0)
    codes = [one.f_code for one, _ in stack]
    stack = stack[: codes.index(below) if below in codes else _DEEPEST_OF_THREAD]
    lines = traceback.StackSummary.extract(reversed(stack)).format()
    if len(lines) > _DEEPEST:
        half = _DEEPEST // 2
        lines[half:-half] = [f"  … {len(lines) - 2 * half} more …\n"]
    return "".join(lines)


def _stack_of_thread(ident: int) -> list[tuple[FrameType, int]]:
    """The frames of a thread with the lines at which they stand, the innermost first.

    All of them come of one call of C code, during which that thread can't go on. Were it to, as
    between two turns of `traceback.walk_stack`, a frame that ends meanwhile may name a caller whose
    memory is freed, and the process dies (https://github.com/python/cpython/issues/99110).
    """
    innermost = islice(map(itemgetter(ident), iter(sys._current_frames, None)), 1)  # noqa: SLF001
    frames: list[FrameType | None] = []
    with suppress(KeyError, AttributeError):  # no such thread; the outermost has no caller
        frames.extend(accumulate(chain(innermost, repeat("f_back")), getattr))
    return [(frame, frame.f_lineno) for frame in frames if frame is not None]
