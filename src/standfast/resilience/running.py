"""The task and the event loop that run, found as fast as Python 3.12 does, on 3.11 too."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

if sys.version_info >= (3, 12):
    current_task = asyncio.current_task
else:
    from asyncio import tasks

    _task_of = tasks._current_tasks.get  # type: ignore[attr-defined]  # noqa: SLF001
    _loop = asyncio.get_running_loop

    def current_task() -> asyncio.Task[Any] | None:
        """The task that runs in this thread, or None. Raises `RuntimeError` without a loop."""
        return _task_of(_loop())  # type: ignore[no-any-return]


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
