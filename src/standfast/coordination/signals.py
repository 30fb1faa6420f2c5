"""Run until SIGTERM or SIGINT, and let forked children be ended by them as ever."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from queue import SimpleQueue
from typing import Any

from standfast.durations import human
from standfast.shielding import shielded

log = logging.getLogger("standfast")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE_SIGNAL = 0.3
"""Seconds within which signals count as one: timeout(1), and a shell with a wrapper, send two."""


async def until_signalled(
    working: AbstractAsyncContextManager[Any], *, drain: float | None = None
) -> None:
    """Stay in a context until SIGTERM or SIGINT, then leave it; a second signal cancels that.

    A signal that comes while it is still being entered ends that. `drain`: how long leaving may
    take, in seconds, for the log; None if that isn't known. A third signal does what the system
    does by default: it ends the process. Signals are counted and told also while something blocks
    the event loop. Raises what the context raises.
    """
    stop, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        async with working:
            begun.set()
            log.info("working; stop with SIGTERM or Ctrl-C")
            await stop.wait()

    worker, stopping = loop.create_task(work()), loop.create_task(stop.wait())
    with _counted(loop, first=stop.set, second=worker.cancel, drain=drain):
        try:
            await asyncio.wait({worker, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set() or worker.done():
                await asyncio.wait({worker})
                if not worker.cancelled():  # by a second signal
                    worker.result()
        finally:
            # Standing by for a lease, it would not see the stop.
            stopping.cancel()
            worker.cancel()
            await shielded(asyncio.wait((worker, stopping)))


@contextmanager
def _counted(
    loop: asyncio.AbstractEventLoop,
    *,
    first: Callable[[], object],
    second: Callable[[], object],
    drain: float | None,
) -> Iterator[None]:
    """Call back, in the loop, at the first signal and at the second; leave the third alone.

    Python's own handlers count, for the loop's wait until nothing blocks it. They may come between
    any two instructions, so a thread writes the log.
    """
    told: SimpleQueue[str | None] = SimpleQueue()  # whose `put` may interrupt itself
    first_at: float | None = None
    within = "" if drain is None else f" for up to {human(drain)}"

    def signalled(number: int, frame: object) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            told.put("first")
            loop.call_soon_threadsafe(first)
        elif now - first_at >= _ONE_SIGNAL:
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            told.put("second")
            loop.call_soon_threadsafe(second)

    def tell() -> None:
        while which := told.get():
            if which == "first":
                log.info("draining%s; a second signal ends it at once", within)
            else:
                log.warning(
                    "told to stop a second time: what is in flight is cut off; a third signal "
                    "ends the process, whatever hangs"
                )

    with default_in_children(*_SIGNALS):
        for number in _SIGNALS:
            loop.add_signal_handler(number, _wake)
            signal.signal(number, signalled)
        teller = threading.Thread(target=tell, name="standfast-signals", daemon=True)
        teller.start()
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            told.put(None)
            teller.join()


def _wake() -> None:
    """What the loop does at a signal: nothing, but for that it must wake up."""


# -- forked children -----------------------------------------------------------------------------

_ours: set[int] = set()
"""The signals that have a handler of ours."""
_masks = threading.local()


@contextmanager
def default_in_children(*numbers: int) -> Iterator[None]:
    """Signals that are handled during the block mean in a child of ``os.fork`` what they ever do.

    It inherits the handler, which tells nobody there, so that ``Process.terminate()`` would do
    nothing; and the pipe by which signals wake the event loop, which is its parent's.
    """
    _ours.update(numbers)
    try:
        yield
    finally:
        _ours.difference_update(numbers)


def _before_fork() -> None:
    """Hold back what comes to the child while it still has the handlers: Python forgets that."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _ours) if _ours else None


def _in_parent() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _in_child() -> None:
    if _masks.before is None:
        return
    signal.set_wakeup_fd(-1)
    for number in _ours:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)
    if signal.SIGINT in _ours:  # only now: what it raises in here would be swallowed
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _ours.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
