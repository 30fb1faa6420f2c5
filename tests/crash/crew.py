"""One of several workers on one PostgreSQL, to be killed and frozen: `python -m tests.crash.crew`.

Arguments: the database, this worker's name, a file to which it appends a line for each write that
was refused because it is stale. It says ``ready`` once it works.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from standfast import (
    Barrier,
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    Standfast,
    Transaction,
    barrier,
    step,
)
from standfast.backends import open_database
from standfast.errors import StaleWriter
from standfast.ports.journal import Append, JournalStore

LEASE = 1.0
SOON = Retry(attempts=100, backoff=Constant(0.05))


@dataclass(frozen=True)
class Job:
    number: int

    @property
    def fails(self) -> bool:
        return self.number % 10 == 0


class Haul(Saga[Job]):
    """Two effects of a participant around a transactional step; every tenth is refused."""

    name = "haul"

    def __init__(self, shop: Standfast | None = None) -> None:
        self.shop = shop

    async def _act(self, job: Job, ctx: Context) -> None:
        assert self.shop is not None
        await asyncio.sleep(random.uniform(0.1, 0.6))
        async with self.shop.transaction() as tx, barrier(tx, ctx) as gate:
            if gate.first:
                await tx.execute(
                    "INSERT INTO effects (job, step, op) VALUES ($1, $2, $3)",
                    *(job.number, ctx.step, ctx.operation),
                )
        await asyncio.sleep(random.uniform(0.1, 0.6))

    @step(retry=SOON)
    async def load(self, job: Job, ctx: Context) -> None:
        await self._act(job, ctx)

    @load.compensation(retry=SOON)
    async def unload(self, job: Job, ctx: Context) -> None:
        await self._act(job, ctx)

    @step(transactional=True, retry=SOON, no_compensation="it stays, to be counted")
    async def stamp(self, job: Job, ctx: Context, tx: Transaction) -> None:
        await tx.execute("INSERT INTO stamps (job) VALUES ($1)", job.number)

    @step(retry=SOON)
    async def ship(self, job: Job, ctx: Context) -> None:
        if job.fails:
            raise Refused("the road is closed")
        await self._act(job, ctx)

    @ship.compensation(retry=SOON)
    async def fetch_back(self, job: Job, ctx: Context) -> None:
        await self._act(job, ctx)


class Counting:
    """A `Database` that writes down which writes were refused as stale."""

    def __init__(self, url: str, file: str) -> None:
        self._inner = open_database(url)
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._journal = _CountingJournal(self._inner.port(JournalStore), self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def port(self, kind: Any) -> Any:
        return self._journal if kind is JournalStore else self._inner.port(kind)

    def note(self, answer: Any) -> None:
        if isinstance(answer, StaleWriter):
            os.write(self._file, f"{answer}\n".encode())


class _CountingJournal:
    def __init__(self, inner: Any, database: Counting) -> None:
        self._inner = inner
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, owner: int, appends: Sequence[Append]) -> Any:
        answers = await self._inner.append(owner, appends)
        for answer in answers:
            self._database.note(answer)
        return answers

    def within(self, tx: Any) -> Any:
        return _CountingWriter(self._inner.within(tx), self._database)


class _CountingWriter:
    """The journal in a transaction, where a stale write is raised."""

    def __init__(self, inner: Any, database: Counting) -> None:
        self._inner = inner
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def append(self, owner: int, append: Append) -> None:
        try:
            await self._inner.append(owner, append)
        except StaleWriter as stale:
            self._database.note(stale)
            raise


async def main(url: str, name: str, file: str) -> None:
    # An unknown parameter becomes a setting of the session, which the auditing triggers read.
    database: Any = Counting(f"{url}?audit.worker={name}&max_size=8", file)
    async with Standfast(f"{url}?max_size=8").add(Barrier()) as shop:
        app = Standfast(database).add(Haul(shop))
        async with app.running(name=name, lease=LEASE, poll=0.5, max_in_flight=50):
            os.write(1, b"ready\n")
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
