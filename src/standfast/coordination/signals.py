"""Run until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AbstractAsyncContextManager
from typing import Any

log = logging.getLogger("standfast")


async def until_signalled(working: AbstractAsyncContextManager[Any]) -> None:
    """Stay in a context until SIGTERM or SIGINT, then leave it.

    A signal that comes while it is still being entered cancels that.
    """
    stop, begun = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def work() -> None:
        async with working:
            begun.set()
            log.info("working; stop with SIGTERM or Ctrl-C")
            await stop.wait()
            log.info("draining")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker, stopping = loop.create_task(work()), loop.create_task(stop.wait())
    try:
        await asyncio.wait({worker, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if begun.is_set() or worker.done():
            await worker
    finally:
        # Standing by for a lease, it would not see the stop.
        stopping.cancel()
        worker.cancel()
        await asyncio.gather(worker, stopping, return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
