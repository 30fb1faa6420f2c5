"""One measurement, in a process of its own: ``python -m benchmarks.sagas.one …`` prints JSON.

A fresh process each time, so that contenders share neither threads nor memory nor settings.
"""

import asyncio
import gc
import json
import statistics
import sys
import time

from benchmarks.sagas.contenders import CONTENDERS, RunOne


async def measure(contender: str, url: str, in_flight: int, count: int) -> dict[str, float]:
    """Run `count` sagas, `in_flight` at a time, after some to warm up.

    Alone, a commit to SQLite is dearer while the file of its log still grows to its full size, so
    there the warm-up is longer.
    """
    warm_up = max(count // 10, min(count, in_flight))
    if in_flight == 1 and contender != "dbos":
        warm_up = 2000
    async with CONTENDERS[contender](url) as run_one:
        await _run(run_one, in_flight, warm_up)
        gc.collect()
        cpu, begin = time.process_time(), time.perf_counter()
        latencies = await _run(run_one, in_flight, count)
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "per_second": count / seconds,
        "cpu_ms": 1e3 * cpu / count,
        "p50_ms": 1e3 * statistics.median(latencies),
        "p99_ms": 1e3 * statistics.quantiles(latencies, n=100)[98],
    }


async def _run(run_one: RunOne, in_flight: int, count: int) -> list[float]:
    numbers = iter(range(count))
    latencies: list[float] = []

    async def lane() -> None:
        for number in numbers:
            begin = time.perf_counter()
            await run_one(number)
            latencies.append(time.perf_counter() - begin)

    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return latencies


if __name__ == "__main__":
    name, url, in_flight, count = sys.argv[1:5]
    print(json.dumps(asyncio.run(measure(name, url, int(in_flight), int(count)))))
