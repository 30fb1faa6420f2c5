"""Writes to an SQLite database until it is killed, and says on its output what was acknowledged.

Each round is one batch of starts, one batch of appends and one transaction with a user's row.
"""

import asyncio
import os
import sys

from standfast.backends.sqlite import SqliteDatabase
from standfast.conformance.samples import journal, register, start
from standfast.ports.journal import Append

SIZE = 20


def say(act: str, tag: str) -> None:
    os.write(1, f"{act} {tag}\n".encode())  # in one piece


async def main(url: str, life: int) -> None:
    database = SqliteDatabase(url)
    await database.open()
    token = await register(database, "victim", ttl=0.001)
    for number in range(100_000):
        tag = f"{life}.{number}"
        starts = [start(correlation_id=tag) for _ in range(SIZE)]
        await journal(database).start(starts, owner=token)
        say("started", tag)
        appends = [Append(one.instance.id, 0, ["1", "2"]) for one in starts]
        assert list(await journal(database).append(token, appends)) == [None] * SIZE
        say("appended", tag)
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO orders (tag) VALUES ($1)", tag)
            await journal(database).within(tx).start([start(key=f"tx-{tag}")])
        say("ordered", tag)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
