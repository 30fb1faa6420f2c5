"""A process that runs sagas: `python -m tests.soak.load.worker`.

Arguments: the database, that of the participants, this worker's name, its lease in seconds. It says
``ready`` once it works, waits for a database that is away at its start, and drains at SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack

from standfast import Barrier, Constant, Retry, Standfast
from standfast.errors import StoreUnavailable
from tests.crash.voyage import Participant, sagas

TAG = "soak"
# A database is away for longer than any number of attempts would bridge.
PATIENT = Retry(attempts=None, backoff=Constant(0.2))
AGAIN_AFTER = 0.3


async def main(url: str, ledger: str, name: str, lease: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        async with AsyncExitStack() as stack:
            shop, app = Standfast(ledger).add(Barrier()), Standfast(url)
            app.add(*sagas(TAG, Participant(shop, TAG), PATIENT))
            working = app.running(name=name, lease=lease, poll=0.5, max_in_flight=200)
            try:
                await stack.enter_async_context(shop)
                await _unless(stop, stack.enter_async_context(working))
            except StoreUnavailable:
                await asyncio.sleep(AGAIN_AFTER)
                continue
            if not stop.is_set():
                os.write(1, b"ready\n")
            await stop.wait()


async def _unless(stop: asyncio.Event, entering: Coroutine[None, None, object]) -> None:
    """Enter, unless it is to stop: on SQLite that means standing by, for as long as it takes."""
    begun = asyncio.create_task(entering)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({begun, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if begun.done():
        begun.result()
    else:
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
