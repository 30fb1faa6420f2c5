"""Adopted transactions: what `adopt` and `start` cost beside one more insert of the user's own.

Each driver does three things in turns, in one process: a transaction of two rows; the same with one
more insert in between, as large as what a start writes and in the driver's own way; and the same
with ``app.adopt(…).start(…)`` in its place. The insert is the least that anything costs which
writes to the user's transaction, so what a start takes beyond it is the library's own part.

CPU is that of this process with all of its threads, or of the event loop's thread alone; the
server's isn't in it. What is told are medians over rounds, of which each does all three, and in
brackets where the middle half of the rounds lies. Rounds are short, so that there are some that no
other process has disturbed by taking caches and turns: "at best" compares the fastest tenth of each
kind, and says the same on a machine that is busy.
"""

import argparse
import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from itertools import count
from operator import sub
from statistics import quantiles
from typing import Any, NamedTuple

from benchmarks.adopt.drivers import DRIVERS
from benchmarks.adopt.rows import one_more, tables
from benchmarks.sagas.definitions import Order, Trivial
from benchmarks.servers import DurablePostgres, folder, new_postgres_database
from standfast import Standfast

Act = Callable[[Any], Awaitable[None]]
_NAMES = max(map(len, DRIVERS)) + 2
_WIDTH = 18
_AT_BEST = "  at best: start - insert  ratio"


class Taken(NamedTuple):
    """Microseconds that one of some transactions took: of CPU, of its thread's, and of time."""

    cpu: float
    thread: float
    wall: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks adopt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--count", type=int, default=5, help="transactions of each kind per round")
    parser.add_argument("--only", action="append", choices=list(DRIVERS))
    options = parser.parse_args(arguments)
    print(
        f"µs a transaction, {options.rounds} rounds of {options.count}; load before: "
        f"{os.getloadavg()[0]:.2f}"
    )
    titles = ("two rows", "+ insert", "+ start", "start - insert", "in its thread", "in time")
    print("".join([f"{'':{_NAMES}}", *(f"{title:>{_WIDTH}}" for title in titles), _AT_BEST]))
    names = options.only or list(DRIVERS)
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        server = None
        for name in names:
            if "sqlite" in name:
                url = f"sqlite:///{place}/{name}.db"
            else:
                server = server or stack.enter_context(DurablePostgres())
                url = asyncio.run(new_postgres_database(server.dsn, "adopt"))
            asyncio.run(_measure(name, url, options.rounds, options.count))
    return 0


async def _measure(name: str, url: str, rounds: int, transactions: int) -> None:
    app = Standfast(url, migrate=True).add(Trivial())
    async with app, app.transaction() as tx:
        for statement in tables(tx.dialect):
            await tx.execute(statement)
    dialect, numbers = app.database.dialect, count()

    async def nothing(source: Any) -> None:
        pass

    async def start(source: Any) -> None:
        number = next(numbers)
        started = app.adopt(source).start(Trivial, Order(number), key=f"order-{number}")
        if hasattr(started, "__await__"):
            await started

    async with DRIVERS[name](url) as driver:

        async def insert(source: Any) -> None:
            await driver.insert(source, one_more(dialect))

        kinds: list[Act] = [nothing, insert, start]
        taken: list[list[Taken]] = [[], [], []]
        for number in range(rounds + 10):
            for turn in range(3):
                kind = (turn + number) % 3  # so that each comes first as often as the others
                one = await _timed(driver.transact, kinds[kind], transactions)
                if number >= 10:
                    taken[kind].append(one)
    _tell(name, *taken)


def _tell(name: str, *kinds: list[Taken]) -> None:
    bare, inserted, started = kinds
    told = [
        [one.cpu for one in bare],
        _more(inserted, bare, "cpu"),
        _more(started, bare, "cpu"),
        *(_more(started, inserted, clock) for clock in Taken._fields),
    ]
    nothing, insert, start = (quantiles([one.cpu for one in kind], n=10)[0] for kind in kinds)
    best = (
        f"{start - nothing:16.0f}{start - insert:9.0f}{(start - nothing) / (insert - nothing):7.2f}"
    )
    print("".join([f"{name:{_NAMES}}", *map(_told, told), best]), flush=True)


def _more(ones: Sequence[Taken], others: Sequence[Taken], clock: str) -> list[float]:
    """By how much each round of the ones took longer than the same of the others."""
    return list(map(sub, *([getattr(one, clock) for one in all] for all in (ones, others))))


def _told(rounds: Sequence[float]) -> str:
    low, middle, high = quantiles(rounds, n=4)
    return f"{f'{middle:.0f} ({low:.0f} to {high:.0f})':>{_WIDTH}}"


async def _timed(transact: Callable[[Act], Awaitable[None]], between: Act, times: int) -> Taken:
    clocks = (time.process_time, time.thread_time, time.perf_counter)
    gc.collect(1)
    begin = [clock() for clock in clocks]
    for _ in range(times):
        await transact(between)
    return Taken(*(1e6 * (clock() - at) / times for clock, at in zip(clocks, begin, strict=True)))
