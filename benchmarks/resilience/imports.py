"""What importing the policies costs: ``make bench ARGS="resilience imports"``.

Milliseconds of CPU that a new Python takes more than one that imports nothing; medians of
interleaved rounds.
"""

import os
import subprocess
import sys
from statistics import median

ROUNDS = 21
PROGRAMS = {
    "nothing": "",
    "import standfast.resilience": "import standfast.resilience",
    "every policy": "from standfast.resilience import *",
    "asyncio alone": "import asyncio",
}


def cpu_milliseconds(program: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, "-c", program], check=True)
    after = os.times()
    children = (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )
    return children * 1000


def main() -> None:
    seen: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            seen[name].append(cpu_milliseconds(program))
    base = median(seen["nothing"])
    print(f"\nImports (Python {sys.version.split()[0]}, medians of {ROUNDS} rounds)")
    for name, times in seen.items():
        print(f"{name:32} {median(times) - base:9,.0f} ms of CPU")
