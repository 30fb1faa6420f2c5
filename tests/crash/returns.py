"""A saga whose undos are transactional, in a process that dies at a given commit.

``python -m tests.crash.returns URL TAG AT WHEN``: killed just ``before`` or just ``after`` commit
number AT to the journal (0: never). It says how the saga ended, and how many commits there were.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    Standfast,
    Transaction,
    step,
)
from tests.crash.victims import LEASE, Doomed

SOON = Retry(attempts=20, backoff=Constant(0.01))
MOVES = "CREATE TABLE moves (tag text, account text, op text)"
ACCOUNTS = frozenset({"take", "pack[0]", "pack[1]"})


def returns(tag: str) -> Saga[str]:
    """The saga under a name of its own, so that only who has it runs it."""

    async def move(ctx: Context, tx: Transaction) -> None:
        branch = ctx.branch_key.key.partition(":")[2]
        await tx.execute(
            "INSERT INTO moves (tag, account, op) VALUES ($1, $2, $3)", tag, branch, ctx.operation
        )

    class Returns(Saga[str]):
        name = f"returns-{tag}"

        @step(transactional=True, retry=SOON)
        async def take(self, word: str, ctx: Context, tx: Transaction) -> None:
            await move(ctx, tx)

        @take.compensation(transactional=True, retry=SOON)
        async def give_back(self, word: str, ctx: Context, tx: Transaction) -> None:
            await move(ctx, tx)
            if ctx.attempt == 1:
                raise OSError("the first attempt comes to nothing")

        @step(each=lambda self, word, ctx: ["a", "b"], retry=SOON)
        async def pack(self, word: str, ctx: Context, item: str) -> None: ...

        @pack.compensation(transactional=True, retry=SOON)
        async def unpack(self, word: str, ctx: Context, item: str, tx: Transaction) -> None:
            await move(ctx, tx)

        @step(no_compensation="it refuses")
        async def refuse(self, word: str, ctx: Context) -> None:
            raise Refused("no")

    return Returns()


async def main(url: str, tag: str, at: int, when: str) -> None:
    """One life."""
    doomed: Any = Doomed(url, at, when)
    app = Standfast(doomed, migrate=True).add(returns(tag))
    async with app.running(lease=LEASE, poll=0.2, linger=0.005):
        handle = await app.start(f"returns-{tag}", "in", key="k")
        try:
            await handle.result(timeout=60)
        except SagaCompensated as error:
            print(json.dumps({"cause": error.cause, "writes": doomed.writes}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
