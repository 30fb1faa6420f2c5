"""Run until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AbstractAsyncContextManager
from typing import Any

from standfast.durations import human

log = logging.getLogger("standfast")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE_SIGNAL = 0.3
"""Seconds within which signals count as one: timeout(1), and a shell with a wrapper, send two."""


async def until_signalled(
    working: AbstractAsyncContextManager[Any], *, drain: float | None = None
) -> None:
    """Stay in a context until SIGTERM or SIGINT, then leave it; a second signal cancels that.

    A signal that comes while it is still being entered ends that. `drain`: how long leaving may
    take, in seconds, for the log; None if that isn't known. A third signal does what it does by
    default: it ends the process. Raises what the context raises.
    """
    stop, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    first_at: float | None = None

    async def work() -> None:
        async with working:
            begun.set()
            log.info("working; stop with SIGTERM or Ctrl-C")
            await stop.wait()

    def signalled() -> None:
        nonlocal first_at
        now = loop.time()
        if first_at is None:
            first_at = now
            within = "" if drain is None else f" for up to {human(drain)}"
            log.info("draining%s; a second signal ends it at once", within)
            stop.set()
        elif now - first_at >= _ONE_SIGNAL:
            log.warning("told to stop a second time: what is in flight is cut off")
            let_signals_be()
            worker.cancel()

    def let_signals_be() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    worker, stopping = loop.create_task(work()), loop.create_task(stop.wait())
    for number in _SIGNALS:
        loop.add_signal_handler(number, signalled)
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
        await asyncio.gather(worker, stopping, return_exceptions=True)
        let_signals_be()
