"""The end of the process: what is closed then, once the threads that may still use it have ended.

Python lets threads that aren't daemons end before the process does, but stops the executors of
`concurrent.futures` before, so that what such threads use would stop under them.
"""

from __future__ import annotations

import concurrent.futures.thread  # before ours: what registers later is called earlier
import logging
import sys
import threading
import time
from typing import Any, Protocol
from weakref import WeakSet

from standfast.affinity import BLOCKING_THREAD

log = logging.getLogger("standfast")

LOOKS_EVERY = 0.02
"""Seconds between two looks whether threads still work."""


class Closable(Protocol):
    """Something that is open until the end of the process."""

    def close(self) -> None:
        """Close it."""
        ...


_living: WeakSet[Any] = WeakSet()
_over = False


def closes_at_the_end(thing: Closable) -> None:
    """Have `thing` closed at the end of the process, if it lives until then."""
    _living.add(thing)


def is_over() -> bool:
    """Whether all that was to be closed has been, or is being closed: nothing can be opened now."""
    return _over


def _end() -> None:
    """While threads still can do what closing takes."""
    global _over
    try:
        while any(map(_works, threading.enumerate())):
            time.sleep(LOOKS_EVERY)
    finally:  # Ctrl-C while it waits
        _over = True
        for thing in list(_living):
            try:
                thing.close()
            except Exception:  # others are to be closed, and nobody is left to raise it to
                log.exception("app.blocking couldn't be closed at the end of the process")


def _works(thread: threading.Thread) -> bool:
    """Whether Python waits for a thread at the end of the process, and it is at work.

    Those of executors wait for work until they are stopped. Threads that are begun by what is open
    here are daemons, as the thread is in which it is open.
    """
    if thread.daemon or thread is threading.current_thread() or thread.name == BLOCKING_THREAD:
        return False
    if type(thread).__module__.partition(".")[0] in ("anyio", "concurrent"):
        return False  # they end with their event loop, or their executor
    queue = concurrent.futures.thread._threads_queues.get(thread)  # noqa: SLF001
    if queue is None:
        return True
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001
    idle = frame is None or frame.f_code is concurrent.futures.thread._worker.__code__  # noqa: SLF001
    return not idle or not queue.empty()


try:
    # `atexit` comes later: when the executors that closing needs take nothing any more.
    threading._register_atexit(_end)  # type: ignore[attr-defined]  # noqa: SLF001
except RuntimeError:  # it is imported too late
    _over = True
