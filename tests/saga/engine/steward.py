"""A worker process for tests of signals and takeovers.

`python -m tests.saga.engine.steward URL DRAIN LEASE`, the last two in seconds.

It says a line for each step that begins, ends or is cut off. A step lasts `order.amount` tenths of
a second.
"""

from __future__ import annotations

import asyncio
import os
import sys

from standfast import Context, Saga, Standfast, step
from tests.saga.engine.world import SOON, Order


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


class Chore(Saga[Order]):
    name = "chore"

    async def _do(self, what: str, order: Order) -> None:
        say(f"begin {what} {order.id}")
        try:
            await asyncio.sleep(order.amount * 0.1)
        except asyncio.CancelledError:
            say(f"cut {what} {order.id}")
            raise
        say(f"end {what} {order.id}")

    @step(retry=SOON, no_compensation="nothing to undo")
    async def first(self, order: Order, ctx: Context) -> None:
        await self._do("first", order)

    @step(retry=SOON, no_compensation="nothing to undo")
    async def second(self, order: Order, ctx: Context) -> None:
        await self._do("second", order)


async def main(url: str, drain: str, lease: str) -> None:
    app = Standfast(url).add(Chore())
    ready = asyncio.create_task(_tell(app))
    await app.run(lease=float(lease), poll=0.2, drain=float(drain))
    await ready
    say("done")


async def _tell(app: Standfast) -> None:
    while app.supervisor is None or app.supervisor.services[0].state != "running":
        await asyncio.sleep(0.01)
    say("ready")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
