"""A process that runs blocks of seeds: `python -m tests.soak.seeds.player`.

Each line of its input is a campaign and two numbers; each line of its output is JSON that says how
it went. It ends with its input.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from typing import Any

from standfast.testing import InvariantViolated
from tests.soak.seeds.campaigns import CAMPAIGNS

FAILURES = 3


def run(campaign: str, first: int, end: int) -> dict[str, Any]:
    """Run a block; a seed that fails is told, and the others go on until too many have failed."""
    outcomes: Counter[str] = Counter()
    failed: dict[int, str] = {}
    while first < end and len(failed) < FAILURES:
        try:
            report = CAMPAIGNS[campaign](range(first, end))
        except InvariantViolated as violation:
            failed[violation.seed] = str(violation)
            first = violation.seed + 1
        else:
            outcomes.update(report.outcomes)
            first = end
    return {"outcomes": outcomes, "failed": list(failed.items())}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        name, begin, stop = line.split()
        print(json.dumps(run(name, int(begin), int(stop))), flush=True)
