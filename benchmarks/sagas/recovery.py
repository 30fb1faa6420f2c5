"""Recovery and rest: ``python -m benchmarks.sagas.recovery MEASUREMENT URL COUNT`` prints JSON.

Each measurement is a process of its own, as in `one`. `running` and `dbos` measure the same: the
time from the start of a worker until all sagas of a dead one are in the middle of a step again.
"""

import asyncio
import gc
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.sagas.contenders import configure_dbos
from benchmarks.sagas.definitions import HELD, Held, Order, Patient
from standfast import Standfast
from standfast.coordination.membership import MEMBER
from standfast.ports.journal import Append, Start
from standfast.ports.leases import LeaseStore
from standfast.saga import facts as fx
from standfast.saga.prepared import prepare

BATCH = 1000
LOOK = 10.0
"""Seconds for which the store's queries are counted."""


async def fill(app: Standfast, count: int) -> None:
    """Leave `count` sagas as a worker that died leaves them: owned by it, one step done."""
    journal, leases = app.sagas.store, app.database.port(LeaseStore)
    names = [f"{MEMBER}dead"]
    if not app.database.capabilities.many_workers:
        names.append("service:sagas")
    note = json.dumps({"kinds": [["saga", Held.name, Held.version]]})
    tokens = [token for token in await leases.acquire(names, "dead", ttl=600.0, note=note) if token]
    assert len(tokens) == len(names)
    dead = tokens[0]
    held = app.sagas.definitions.of(Held)
    done = fx.encode(fx.StepCompleted(at=time.time(), branch="reserve", result=msgspec.Raw(b"1")))
    for numbers in _batches(range(count)):
        starts: list[Start] = [
            prepare(held, Order(number), clock=app.clock).start for number in numbers
        ]
        await journal.start(starts, owner=dead)
        answers = await journal.append(dead, [Append(s.instance.id, 0, [done]) for s in starts])
        assert not any(answers)
    # Its lease runs out now, and the next worker finds it so.
    await leases.renew(tokens, ttl=0.001)
    await asyncio.sleep(0.01)


async def running(url: str, count: int) -> dict[str, float]:
    """From the start of a worker until all sagas of a dead one are in the middle of a step."""
    app = Standfast(url, migrate=True).add(Held())
    async with app:
        await fill(app, count)
        gc.collect()
        HELD.expect(count)
        cpu, begin = time.process_time(), time.perf_counter()
        async with app.running(max_in_flight=count, drain=120.0):
            await HELD.all_here.wait()
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            HELD.go_on.set()
            while app.sagas.executor.active:
                await asyncio.sleep(0.05)
            all_done = time.perf_counter() - begin
    return {
        "running_s": seconds,
        "running_ms_each": 1e3 * seconds / count,
        "cpu_s": cpu,
        "completed_s": all_done,
    }


async def dbos(url: str, count: int) -> dict[str, float]:
    """The same of DBOS, whose process before this one was killed for real."""
    command = [sys.executable, "-m", __spec__.name, "dbos_dies", url, str(count)]
    died = await asyncio.to_thread(subprocess.run, command, check=False)
    assert died.returncode == -signal.SIGKILL
    all_here, _ = _dbos_held(url, count)
    from dbos import DBOS

    cpu, begin = time.process_time(), time.perf_counter()
    DBOS.launch()
    await asyncio.to_thread(all_here.wait)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {"running_s": seconds, "running_ms_each": 1e3 * seconds / count, "cpu_s": cpu}


async def dbos_dies(url: str, count: int) -> dict[str, float]:
    """Start `count` workflows of DBOS and die when all are in the middle of their second step."""
    all_here, workflow = _dbos_held(url, count)
    from dbos import DBOS

    DBOS.launch()
    for number in range(count):
        await DBOS.start_workflow_async(workflow, {"number": number})
    await asyncio.to_thread(all_here.wait)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it survived SIGKILL")


def _dbos_held(url: str, count: int) -> tuple[threading.Event, Any]:
    """`Held` for DBOS: when `count` are in their second step, and the workflow."""
    from dbos import DBOS

    configure_dbos(url)
    all_here, missing, lock = threading.Event(), count, threading.Lock()

    @DBOS.step()
    async def trivial() -> int:
        return 1

    @DBOS.step()
    async def held() -> int:
        nonlocal missing
        with lock:
            missing -= 1
            if not missing:
                all_here.set()
        await asyncio.Event().wait()
        return 2

    @DBOS.workflow()
    async def place_order(order: dict[str, int]) -> None:
        await trivial()
        await held()
        await trivial()

    return all_here, place_order


async def waiting(url: str, count: int) -> dict[str, float]:
    """What many waiting sagas cost their worker: memory, and queries while nothing happens."""
    app = Standfast(url, migrate=True).add(Patient())
    async with app.running():
        await _start_waiting(app, range(BATCH))
        await _until_idle(app)
        before, few = _memory_mb(), await _queries(app)
        await _start_waiting(app, range(BATCH, count))
        await _until_idle(app)
        after, many = _memory_mb(), await _queries(app)
    return {
        "memory_mb": after - before,
        "queries_per_s_1000": few / LOOK,
        "queries_per_s": many / LOOK,
    }


async def _start_waiting(app: Standfast, numbers: Sequence[int]) -> None:
    for some in _batches(numbers):
        await asyncio.gather(*(app.start(Patient, Order(number)) for number in some))


async def _until_idle(app: Standfast) -> None:
    """Every saga sleeps in the store, for days."""
    while app.sagas.executor.active or await _next_wake(app) < time.time() + 60:
        await asyncio.sleep(0.1)
    await asyncio.sleep(3.0)  # and the looks that its last steps asked for are over
    gc.collect()


async def _next_wake(app: Standfast) -> float:
    kinds = list(app.sagas.definitions.by_kind)
    return await app.sagas.store.next_wake(kinds) or math.inf


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

    threads = (database.file._writer, database.file._readers)
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


MEASUREMENTS = {"running": (running, 10_000), "dbos": (dbos, 1_000), "waiting": (waiting, 100_000)}

if __name__ == "__main__":
    name, url, count = sys.argv[1:4]
    measure = dbos_dies if name == "dbos_dies" else MEASUREMENTS[name][0]
    print(json.dumps(asyncio.run(measure(url, int(count)))), flush=True)
    if measure is dbos:
        os._exit(0)  # DBOS would wait for its workflows, which never end
