"""One measurement, in a process of its own: ``python -m benchmarks.blocking.one NAME PATH COUNT``.

`threads` start sagas by ``app.blocking``, `tasks` by the app itself in its event loop, and
`transactions` are threads that start one in a transaction of their own, with a row beside it.
`raw_alone` commits the rows that a start has, one start at a time; `raw_grouped` those of sixteen
starts at once, which is the least that sixteen who wait for each other's commits can take.
"""

import asyncio
import json
import sqlite3
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Callable

from benchmarks.sagas.definitions import Order, Patient
from standfast import Standfast

AT_ONCE = 16


def measured(path: str, count: int, lanes: Callable[[int, list[float]], None]) -> dict[str, float]:
    """Warm up, then measure."""
    lanes(count // 5, [])
    latencies: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    lanes(count, latencies)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "per_second": count / seconds,
        "cpu_ms": 1e3 * cpu / count,
        "p50_ms": 1e3 * statistics.median(latencies),
        "p99_ms": 1e3 * statistics.quantiles(latencies, n=100)[98],
    }


def in_threads(act: Callable[[int], object], count: int, latencies: list[float]) -> None:
    numbers = iter(range(count))

    def lane() -> None:
        for number in numbers:
            begin = time.perf_counter()
            act(number)
            latencies.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=lane) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def threads(path: str, count: int) -> dict[str, float]:
    app = Standfast(f"sqlite:///{path}").add(Patient())
    with app.blocking as client:

        def act(number: int) -> object:
            return client.start(Patient, Order(number))

        return measured(path, count, lambda size, times: in_threads(act, size, times))


def transactions(path: str, count: int) -> dict[str, float]:
    app = Standfast(f"sqlite:///{path}").add(Patient())
    with app.blocking as client:
        with client.transaction() as tx:
            tx.execute("CREATE TABLE orders (number INTEGER)")

        def act(number: int) -> None:
            with client.transaction() as tx:
                tx.execute("INSERT INTO orders VALUES ($1)", number)
                tx.start(Patient, Order(number))

        return measured(path, count, lambda size, times: in_threads(act, size, times))


def tasks(path: str, count: int) -> dict[str, float]:
    app = Standfast(f"sqlite:///{path}").add(Patient())
    with asyncio.Runner() as runner:

        def lanes(size: int, latencies: list[float]) -> None:
            numbers = iter(range(size))

            async def lane() -> None:
                for number in numbers:
                    begin = time.perf_counter()
                    await app.start(Patient, Order(number))
                    latencies.append(time.perf_counter() - begin)

            async def all_lanes() -> None:
                await asyncio.gather(*(lane() for _ in range(AT_ONCE)))

            runner.run(all_lanes())

        runner.run(app.__aenter__())
        try:
            return measured(path, count, lanes)
        finally:
            runner.run(app.__aexit__())


def raw(path: str, count: int, grouped: int) -> dict[str, float]:
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode = WAL")
    con.execute("PRAGMA synchronous = FULL")
    con.execute("PRAGMA wal_autocheckpoint = 8000")
    con.execute("CREATE TABLE i (id BLOB PRIMARY KEY, row TEXT) WITHOUT ROWID")
    con.execute("CREATE TABLE j (id BLOB, seq INT, fact TEXT, PRIMARY KEY (id, seq)) WITHOUT ROWID")

    def lanes(size: int, latencies: list[float]) -> None:
        for _ in range(0, size, grouped):
            begin = time.perf_counter()
            ids = [uuid.uuid4().bytes for _ in range(grouped)]
            con.execute("BEGIN IMMEDIATE")
            con.executemany("INSERT INTO i VALUES (?, ?)", [(id, "r" * 200) for id in ids])
            con.executemany("INSERT INTO j VALUES (?, 0, ?)", [(id, "f" * 200) for id in ids])
            con.execute("COMMIT")
            latencies += [time.perf_counter() - begin] * grouped

    try:
        return measured(path, count, lanes)
    finally:
        con.close()


MEASUREMENTS: dict[str, Callable[[str, int], dict[str, float]]] = {
    "threads": threads,
    "transactions": transactions,
    "tasks": tasks,
    "raw_alone": lambda path, count: raw(path, count, 1),
    "raw_grouped": lambda path, count: raw(path, count, AT_ONCE),
}


if __name__ == "__main__":
    name, path, count = sys.argv[1:4]
    print(json.dumps(MEASUREMENTS[name](path, int(count))))
