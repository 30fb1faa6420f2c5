"""Recovery and rest: ``python -m benchmarks.sagas.recovery MEASUREMENT URL COUNT`` prints JSON.

Each measurement is a process of its own, as in `one`.
"""

import asyncio
import gc
import json
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.sagas.definitions import HELD, Held, Order, Patient
from standfast import Standfast
from standfast.ports.journal import Append, Start
from standfast.saga import facts as fx

BATCH = 1000
LOOK = 10.0
"""Seconds for which the store's queries are counted."""


async def fill(app: Standfast, count: int) -> None:
    """Leave `count` sagas as a worker that died leaves them: owned by it, one step done."""
    journal = app.database.journal
    dead = await app.database.leases.register(
        "dead", [("saga", Held.name, Held.version)], ttl=600.0
    )
    assert dead is not None
    done = fx.encode(fx.StepCompleted(at=time.time(), branch="reserve", result=msgspec.Raw(b"1")))
    for numbers in _batches(range(count)):
        starts: list[Start] = [app.sagas.prepare(Held, Order(n))[1] for n in numbers]
        await journal.start(starts, owner=dead)
        answers = await journal.append(dead, [Append(s.instance.id, 0, [done]) for s in starts])
        assert not any(answers)
    # Its lease runs out now, and the next worker finds it so.
    await app.database.leases.renew(dead, ttl=0.001)
    await asyncio.sleep(0.01)


async def running(url: str, count: int) -> dict[str, float]:
    """From the start of a worker until all sagas of a dead one are in the middle of a step."""
    app = Standfast(url, migrate=True).add(Held())
    async with app:
        await fill(app, count)
        gc.collect()
        HELD.expect(count)
        cpu, begin = time.process_time(), time.perf_counter()
        async with app.running(max_in_flight=count, drain=120.0) as worker:
            await HELD.all_here.wait()
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            HELD.go_on.set()
            while worker.active:
                await asyncio.sleep(0.05)
            all_done = time.perf_counter() - begin
    return {"running_s": seconds, "cpu_s": cpu, "completed_s": all_done}


async def waiting(url: str, count: int) -> dict[str, float]:
    """What many waiting sagas cost their worker: memory, and queries while nothing happens."""
    app = Standfast(url, migrate=True).add(Patient())
    async with app.running() as worker:
        await _start_waiting(app, range(BATCH))
        await _until_idle(worker)
        before, few = _memory_mb(), await _queries(app)
        await _start_waiting(app, range(BATCH, count))
        await _until_idle(worker)
        after, many = _memory_mb(), await _queries(app)
    return {
        "memory_mb": after - before,
        "queries_per_s_1000": few / LOOK,
        "queries_per_s": many / LOOK,
    }


async def _start_waiting(app: Standfast, numbers: Sequence[int]) -> None:
    for some in _batches(numbers):
        await asyncio.gather(*(app.start(Patient, Order(number)) for number in some))


async def _until_idle(worker: Any) -> None:
    """Every saga sleeps in the store, for days."""
    while worker.active or await _next_wake(worker) < time.time() + 60:
        await asyncio.sleep(0.1)
    await asyncio.sleep(3.0)  # and the looks that its last steps asked for are over
    gc.collect()


async def _next_wake(worker: Any) -> float:
    kinds = list(worker.sagas.definitions.by_kind)
    return await worker.database.journal.next_wake(kinds) or math.inf


async def _queries(app: Standfast) -> int:
    """How many statements the database is sent while nothing happens.

    PostgreSQL counts them itself; on SQLite each visit of a connection's thread counts.
    """
    if app.database.capabilities.many_workers:
        return await _statements(app)
    database: Any = app.database
    visits = 0

    def counted(submit: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        def count(work: Any) -> Awaitable[Any]:
            nonlocal visits
            visits += 1
            return submit(work)

        return count

    threads = (database._writer, database._readers)
    for thread in threads:
        thread.submit = counted(thread.submit)
    await asyncio.sleep(LOOK)
    for thread in threads:
        del thread.submit
    return visits


async def _statements(app: Standfast) -> int:
    import asyncpg

    connection = await asyncpg.connect(app.database.url)
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await connection.execute("SELECT pg_stat_statements_reset()")
        await asyncio.sleep(LOOK)
        rows = await connection.fetch(
            "SELECT query, calls FROM pg_stat_statements"
            " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND query NOT LIKE '%pg_stat_statements%' ORDER BY calls DESC"
        )
    finally:
        await connection.close()
    if os.environ.get("STANDFAST_BENCH_SHOW"):
        for query, calls in rows:
            print(f"{calls:5} {' '.join(query.split())[:110]}", file=sys.stderr)
    return sum(row[1] for row in rows)


def _memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _batches(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(numbers), BATCH):
        yield numbers[begin : begin + BATCH]


MEASUREMENTS = {"running": (running, 10_000), "waiting": (waiting, 100_000)}

if __name__ == "__main__":
    name, url, count = sys.argv[1:4]
    print(json.dumps(asyncio.run(MEASUREMENTS[name][0](url, int(count)))))
