"""How ``standfast run`` ends its process: in bounded time, whatever the user's code does.

`asyncio.run` waits for ever for a task that doesn't heed its cancellation, and the interpreter for
a thread that blocks. By the time that this is about, the app has drained, its leases are given up,
and others may do its work: so the process must go.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from standfast.coordination.stacks import where, where_thread

log = logging.getLogger("standfast")

HEEDS_WITHIN = 1.0
"""Seconds for tasks and threads to end once the work is over."""
_THREADS = "standfast-to-thread"
_LOOKS_EVERY = 0.01


def run_and_leave(
    work: Coroutine[Any, Any, None],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run `work` in an event loop of its own; raises what it raises.

    Where a task, or a thread of `asyncio.to_thread`, goes on for a second after that, the log says
    where it hangs, and the process ends at once with exit code 1.
    """
    runner = asyncio.Runner(loop_factory=loop_factory)
    loop = runner.get_loop()
    executor = ThreadPoolExecutor(thread_name_prefix=_THREADS)
    loop.set_default_executor(executor)
    try:
        runner.run(work)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        told = [_told_of_task(task) for task in runner.run(_hung_tasks())]
        told += [_told_of_thread(thread) for thread in runner.run(_hung_threads())]
        for text in told:
            log.error("%s", text)
        if told:
            _end_at_once()
        runner.close()


async def _hung_tasks() -> list[asyncio.Task[Any]]:
    """Cancel all other tasks; those that don't end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        _, hung = await asyncio.wait(tasks, timeout=HEEDS_WITHIN)
        return list(hung)
    return []


async def _hung_threads() -> list[threading.Thread]:
    """The threads of the executor that don't end, though it was shut down."""
    loop = asyncio.get_running_loop()
    until = loop.time() + HEEDS_WITHIN
    while hung := [it for it in threading.enumerate() if it.name.startswith(_THREADS)]:
        if loop.time() >= until:
            break
        await asyncio.sleep(_LOOKS_EVERY)
    return hung


def _told_of_task(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} doesn't heed its cancellation. It is here:\n{where(task)}"


def _told_of_thread(thread: threading.Thread) -> str:
    return f"thread {thread.name} still runs. It is here:\n{where_thread(thread.ident)}"


def _end_at_once() -> None:
    log.error("the process ends without them")
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)
