"""What must be done to its end though whoever does it is cancelled, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def shielded(work: Coroutine[Any, Any, T], *, within: float | None = None) -> T:
    """Do `work` to its end, however often the caller is cancelled meanwhile; what it returns.

    Only then is the caller cancelled, whatever came of the work. For what follows in a ``finally``
    block: a second request to be cancelled would tear it apart, and the scopes of anyio make one
    in each iteration of the event loop. So `work` must end by itself, or it is cancelled too, so
    many seconds after the caller was first (`within`). It runs in a task of its own, which ends
    with all others when `asyncio.run` does.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    until: float | None = None
    while not task.done():
        left = None if until is None else until - loop.time()
        if left is not None and left <= 0:
            task.cancel()
            until = left = None
        try:
            await asyncio.wait((task,), timeout=left)
        except asyncio.CancelledError as error:
            if cancelled is None:
                cancelled, until = error, None if within is None else loop.time() + within
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failed := task.exception()) is not None:
        raise cancelled from failed
    raise cancelled
