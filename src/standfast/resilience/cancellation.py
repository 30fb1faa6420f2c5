"""Whether a task was cancelled from outside, where only the number of requests is known.

``Task.cancelling()`` counts the requests that nobody took back. Some are over all the same: before
Python 3.13 a `TaskGroup` whose task fails while it waits leaves its own behind
(https://github.com/python/cpython/issues/95289), and so does a library that swallows one. Whoever
gave up because the number grew would do so without having been cancelled. Therefore it is asked
only whether to look closer, which costs nothing while it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import FrameType

from standfast.resilience.running import current_task
from standfast.resilience.tracebacks import newest_frames

_GROUP_ENDS = asyncio.TaskGroup.__aexit__.__code__


def cancel_requests() -> int:
    """How often the running task was asked to cancel and hasn't taken it back."""
    task = current_task()
    return 0 if task is None else task.cancelling()


def tells_of_cancellation(error: BaseException, requests: int) -> bool:
    """Whether `error` is what a cancellation of this task from outside was turned into.

    `requests` is how many came since and weren't taken back, one at least. One that is still to be
    delivered isn't seen: it comes out at the next ``await``.
    """
    groups = own = 0
    cancelled = False
    for one, frames in _told(error):
        cancelled = cancelled or isinstance(one, asyncio.CancelledError)
        for frame in frames:
            if frame.f_code is _GROUP_ENDS:
                groups += 1
                group = frame.f_locals.get("self")
                own += bool(getattr(group, "_parent_cancel_requested", False))
    # A group prefers errors to the cancellation in which they came up, so that none is left to see.
    return requests > own if groups else cancelled


def _told(error: BaseException) -> Iterator[tuple[BaseException, list[FrameType]]]:
    """All that led to `error` in this task, and where each was raised."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        frames = list(newest_frames(one))
        yield one, frames
        if isinstance(one, BaseExceptionGroup):
            # What its block raised counts, but not what other tasks did.
            own = set(frames)
            left += [inner for inner in one.exceptions if next(newest_frames(inner), None) in own]
        cause = one.__cause__
        if isinstance(one, TimeoutError) and isinstance(cause, asyncio.CancelledError):
            seen.add(id(cause))  # what a timeout asked for itself, and took back
            left += [before for before in (cause.__context__,) if before is not None]
        left += [before for before in (cause, one.__context__) if before is not None]
