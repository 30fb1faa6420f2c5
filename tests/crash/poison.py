"""A process in which one saga's code ends the process: ``python -m tests.crash.poison URL WAY``.

WAY is what kills: ``step``, ``undo``, ``condition``, or ``nothing`` for one that was mended. Each
run of it adds a byte to the file in the environment's RUNS. The process stays for a while.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from standfast import Constant, Context, Refused, Retry, Saga, Standfast, step

LEASE = 0.4
BOUND = 2
STAYS = 3.0
ONCE = Retry(attempts=1, backoff=Constant(0.01))
WAYS = ("step", "undo", "condition")


def kills(way: str) -> bool:
    """Ends the process, as a crash in native code would, if that is the way to do so."""
    if sys.argv[2:] == [way]:
        with Path(os.environ["RUNS"]).open("a") as runs:
            runs.write("x")
        os._exit(9)
    return True


class Poison(Saga[str]):
    name = "poison"
    max_recoveries = BOUND

    @step
    async def first(self, word: str, ctx: Context) -> None: ...

    @first.compensation
    async def first_undone(self, word: str, ctx: Context) -> None:
        kills("undo")

    @step(when=lambda self, word, ctx: kills("condition"), no_compensation="x", retry=ONCE)
    async def second(self, word: str, ctx: Context) -> None:
        kills("step")
        if word == "undo":
            raise Refused("so that it is undone")


class Innocent(Saga[int]):
    name = "innocent"

    @step(no_compensation="x")
    async def work(self, number: int, ctx: Context) -> None:
        await asyncio.sleep(0.2)


def make(url: str) -> Standfast:
    return Standfast(url, migrate=True).add(Poison(), Innocent())


async def main() -> None:
    async with make(sys.argv[1]).running(lease=LEASE, poll=0.1):
        await asyncio.sleep(STAYS)


if __name__ == "__main__":
    asyncio.run(main())
