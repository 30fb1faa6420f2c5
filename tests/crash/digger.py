"""A worker whose `def` step hangs until a file is there: `python -m tests.crash.digger URL FOLDER`.

It says ``begun`` once the step stands in its thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from standfast import Context, Saga, Standfast, step
from standfast.doors.blocking import BlockingTransaction

LEASE = 1.0


class Dig(Saga[str]):
    """A `def` step, of which each attempt leaves a line, and one that writes in a transaction."""

    name = "dig"

    def __init__(self, folder: Path, *, hangs: bool) -> None:
        self.folder = folder
        self.hangs = hangs

    def _note(self, word: str) -> None:
        with (self.folder / "calls").open("a") as file:
            file.write(f"{word} {os.getpid()}\n")
        if self.hangs:
            print("begun", flush=True)
            threading.Event().wait()

    @step(no_compensation="a hole stays")
    def dig(self, word: str, ctx: Context) -> str:
        if word == "plain":
            self._note("dig")
        return f"{word} dug"

    @step(transactional=True, no_compensation="a hole stays")
    def fill(self, word: str, ctx: Context, tx: BlockingTransaction) -> int:
        tx.execute("INSERT INTO holes (word) VALUES ($1)", word)
        if word == "tx":
            self._note("fill")
        return int(tx.fetch_value("SELECT count(*) FROM holes"))


async def main(url: str, folder: str) -> None:
    app = Standfast(url).add(Dig(Path(folder), hangs=True))
    async with app.running(lease=LEASE):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
