"""Sync code: starts from 16 threads, beside 16 tasks and what SQLite can do, in the same run."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict

from benchmarks.servers import folder

CONTENDERS = ("raw_alone", "raw_grouped", "tasks", "threads", "transactions")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks blocking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=8000, help="starts per measurement")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with folder() as place:
        for round in range(options.rounds):
            for name in CONTENDERS:
                path = f"{place}/{name}-{round}.db"
                found[name].append(_one(name, path, options.count))
    print(f"medians of {options.rounds} interleaved rounds; load average before: {load:.2f}")
    print(f"{'sqlite, 16 at once':22}{'per s':>10}{'CPU ms':>9}{'p50 ms':>10}{'p99 ms':>10}")
    rows = {
        name: {field: statistics.median(one[field] for one in many) for field in many[0]}
        for name, many in found.items()
    }
    for name, row in rows.items():
        print(
            f"{name:22}{row['per_second']:10.0f}{row['cpu_ms']:9.3f}"
            f"{row['p50_ms']:10.2f}{row['p99_ms']:10.2f}"
        )
    threads, tasks, raw = (rows[name]["per_second"] for name in ("threads", "tasks", "raw_grouped"))
    print(f"threads: {threads / tasks:.2f} x tasks, {threads / raw:.2f} x the raw limit")
    return 0


def _one(name: str, path: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.blocking.one", name, path, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer
