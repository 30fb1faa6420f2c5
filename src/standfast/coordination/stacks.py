"""Where a task or a thread stands: for the log, when it doesn't do what it should."""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import CodeType
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
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001
    if frame is None:
        return ""
    stack = list(traceback.walk_stack(frame))  # the innermost first
    codes = [one.f_code for one, _ in stack]
    stack = stack[: codes.index(below) if below in codes else _DEEPEST_OF_THREAD]
    lines = traceback.StackSummary.extract(reversed(stack)).format()
    if len(lines) > _DEEPEST:
        half = _DEEPEST // 2
        lines[half:-half] = [f"  … {len(lines) - 2 * half} more …\n"]
    return "".join(lines)
