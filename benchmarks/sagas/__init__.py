"""Sagas: Standfast beside DBOS, raw commits and the group-commit floor, in the same run."""

import argparse
import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks.servers import DurablePostgres, folder, new_postgres_database

CONTENDERS = ("raw", "floor", "timed_floor", "rows", "standfast", "dbos")
DEF_STEPS = ("standfast", "def_steps")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sagas", description=__doc__)
    parser.add_argument("what", choices=["throughput", "def-steps", "recovery", "growth"])
    parser.add_argument("--backend", choices=["sqlite", "postgres"], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=5000, help="sagas per measurement in flight")
    parser.add_argument("--only", action="append", help="one measurement of recovery or growth")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    backends = options.backend or ["sqlite", "postgres"]
    if options.what in ("recovery", "growth"):
        print(f"load average before: {load:.2f}")
        for backend in backends:
            rounds = [
                _each_alone(options.what, options.only, backend, n) for n in range(options.rounds)
            ]
            _print_medians(backend, rounds)
        return 0
    contenders = CONTENDERS if options.what == "throughput" else DEF_STEPS
    results = {
        name: _throughput(name, contenders, options.rounds, options.count) for name in backends
    }
    if options.json:
        print(json.dumps({"load_average_before": load, "results": results}, indent=2))
        return 0
    print(f"medians of {options.rounds} interleaved rounds; load average before: {load:.2f}")
    for backend, rows in results.items():
        _print(backend, rows)
        if options.what == "throughput":
            _print_ratios(rows)
        else:
            _print_ratio_of_def_steps(rows)
    return 0


Row = dict[str, Any]


def _each_alone(
    what: str, only: list[str] | None, backend: str, round: int
) -> list[tuple[str, Row]]:
    """Run and print a module's measurements, each in a process and on a database of its own."""
    module = importlib.import_module(f"benchmarks.sagas.{what}")
    rows: list[tuple[str, Row]] = []
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        server = stack.enter_context(DurablePostgres()) if backend == "postgres" else None
        for name in only or module.MEASUREMENTS:
            count = module.MEASUREMENTS[name][1]
            if server is None:
                url = f"sqlite:///{place}/{name}.db"
            else:
                url = asyncio.run(new_postgres_database(server.dsn, "bench"))
            command = [sys.executable, "-m", module.__name__, name, url, str(count)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for line in done.stdout.splitlines():
                row = json.loads(line)
                rows.append((name, row))
                print(f"{backend:9} round {round}  {name:8} {count:9,}  {_text(row)}", flush=True)
    return rows


def _print_medians(backend: str, rounds: list[list[tuple[str, Row]]]) -> None:
    """Of the rounds, line by line; what isn't a number is the same in all of them."""
    for same in zip(*rounds, strict=True):
        name, first = same[0]
        row = {
            key: value if isinstance(value, str) else statistics.median(r[key] for _, r in same)
            for key, value in first.items()
        }
        print(f"{backend:9} median of {len(rounds)}  {name:8}  {_text(row)}")


def _text(row: Row) -> str:
    return "  ".join(
        f"{key} {value}" if isinstance(value, str) else f"{key} {value:,.3f}"
        for key, value in row.items()
    )


def _throughput(
    backend: str, contenders: Sequence[str], rounds: int, count: int
) -> dict[str, dict[str, float]]:
    """Medians by "contender in_flight"."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        place = stack.enter_context(folder())
        server = stack.enter_context(DurablePostgres()) if backend == "postgres" else None
        for round in range(rounds):
            for in_flight in (1, 100, 1000):
                for name in contenders:
                    if name in ("raw", "rows") and in_flight > 1:
                        continue  # one commit after the other: more in flight change nothing
                    if server is None:
                        url = f"sqlite:///{place}/{name}-{in_flight}-{round}.db"
                    else:
                        url = asyncio.run(new_postgres_database(server.dsn, "bench"))
                    few = 200 if name == "dbos" else 2000
                    size = few if in_flight == 1 or name == "dbos" else count
                    found[f"{name} {in_flight}"].append(_one(name, url, in_flight, size))
    return {
        key: {field: statistics.median(one[field] for one in many) for field in many[0]}
        for key, many in found.items()
    }


def _one(name: str, url: str, in_flight: int, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.sagas.one", name, url, str(in_flight), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _print(backend: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{backend:22}{'sagas/s':>10}{'CPU ms':>9}{'p50 ms':>10}{'p99 ms':>10}")
    for key, row in rows.items():
        print(
            f"{key:22}{row['per_second']:10.0f}{row['cpu_ms']:9.3f}"
            f"{row['p50_ms']:10.2f}{row['p99_ms']:10.2f}"
        )


def _print_ratio_of_def_steps(rows: dict[str, dict[str, float]]) -> None:
    for in_flight in (1, 100, 1000):
        blocking, others = (rows[f"{name} {in_flight}"] for name in ("def_steps", "standfast"))
        print(
            f"{in_flight} in flight: `def` steps have "
            f"{blocking['per_second'] / others['per_second']:.2f} x the throughput of `async def` "
            f"ones, at {blocking['cpu_ms'] / others['cpu_ms']:.2f} x the CPU"
        )


def _print_ratios(rows: dict[str, dict[str, float]]) -> None:
    for in_flight in (100, 1000):
        ours = rows[f"standfast {in_flight}"]["per_second"]
        dbos, floor, timed = (
            rows[f"{name} {in_flight}"]["per_second"] for name in ("dbos", "floor", "timed_floor")
        )
        print(
            f"{in_flight} in flight: {ours / dbos:.1f} x DBOS, {ours / floor:.2f} x the floor, "
            f"{ours / timed:.2f} x the timed floor"
        )
    alone, least, own = (rows[f"{name} 1"]["p50_ms"] for name in ("standfast", "raw", "rows"))
    more = rows["standfast 1000"]["per_second"] / rows["standfast 100"]["per_second"]
    print(
        f"one at a time: p50 {alone / own:.2f} x commits of its rows, {alone / least:.2f} x of one "
        f"row; 1,000 in flight {more:.2f} x of 100"
    )
