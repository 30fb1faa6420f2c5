"""Adopted transactions: what `adopt` and `start` cost beside the bare insert of two rows.

Each driver does both in turns, in one process: two rows and a commit, and the same with
``app.adopt(…).start(…)`` in between. CPU is this process's own.
"""

import argparse
import asyncio
import gc
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from itertools import count
from typing import Any

from benchmarks.adopt.drivers import DRIVERS
from benchmarks.sagas.definitions import Order, Trivial
from benchmarks.servers import DurablePostgres, folder, new_postgres_database
from standfast import Standfast

Act = Callable[[int], Awaitable[None]]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks adopt", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=500, help="transactions per round")
    parser.add_argument("--only", action="append", choices=list(DRIVERS))
    options = parser.parse_args(arguments)
    print(f"medians of {options.rounds} interleaved rounds; load before: {os.getloadavg()[0]:.2f}")
    print(f"{'driver':26}{'two rows':>12}{'+ start':>12}{'more':>10}{'CPU more':>12}")
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        server = stack.enter_context(DurablePostgres())
        for name in options.only or DRIVERS:
            if "sqlite" in name:
                url = f"sqlite:///{place}/{name}.db"
            else:
                url = asyncio.run(new_postgres_database(server.dsn, "adopt"))
            asyncio.run(_measure(name, url, options.rounds, options.count))
    return 0


async def _measure(name: str, url: str, rounds: int, transactions: int) -> None:
    app = Standfast(url, migrate=True).add(Trivial())
    async with app, app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id bigint, note text)")
    numbers = count()

    async def nothing(source: Any) -> None:
        pass

    async def start(source: Any) -> None:
        started = app.adopt(source).start(Trivial, Order(next(numbers)))
        if hasattr(started, "__await__"):
            await started

    async with DRIVERS[name](url) as transact:
        for what in (nothing, start):
            await _timed(lambda what=what: transact(what), 50)
        bare, more = [], []
        for _ in range(rounds):
            bare.append(await _timed(lambda: transact(nothing), transactions))
            more.append(await _timed(lambda: transact(start), transactions))
    bare_wall, bare_cpu = map(statistics.median, zip(*bare, strict=True))
    more_wall, more_cpu = map(statistics.median, zip(*more, strict=True))
    print(
        f"{name:26}{bare_wall:9.0f} us{more_wall:9.0f} us{more_wall - bare_wall:7.0f} us"
        f"{more_cpu - bare_cpu:9.0f} us"
    )


async def _timed(act: Callable[[], Awaitable[None]], times: int) -> tuple[float, float]:
    """Microseconds for one: of time, and of this process's CPU."""
    gc.collect()
    begin, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        await act()
    return (
        1e6 * (time.perf_counter() - begin) / times,
        1e6 * (time.process_time() - cpu) / times,
    )
