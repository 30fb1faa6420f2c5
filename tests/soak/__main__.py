"""`python -m tests.soak [PART…]`: see `tests.soak`."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys

from tests.soak.run import PARTS, run
from tests.soak.show import Show


def main() -> int:
    """Run the parts; 1 if any of them failed."""
    parser = argparse.ArgumentParser(prog="make soak", description="What takes long.")
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, default=20, help="about how long in all (20)")
    parser.add_argument("--seeds", type=int, help="how many seeds to simulate, however long")
    parser.add_argument("--seed", type=int, help="draws what is broken when")
    parser.add_argument("--list", action="store_true", help="tell what there is, and run nothing")
    parser.add_argument("--json", action="store_true", help="print the results as JSON at the end")
    given = parser.parse_args()
    unknown = set(given.parts) - set(names)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    show = Show(aside=given.json)
    if given.list:
        for part in PARTS:
            show.say(f"{part.name:<12} {part.tells}")
        return 0
    chosen = [part for part in PARTS if not given.parts or part.name in given.parts]
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    # As in the test suite, what is missing fails CI and is told elsewhere; unless it is asked for.
    must_run = bool(given.parts) or os.environ.get("CI") == "true"
    soak = run(
        chosen,
        minutes=given.minutes,
        seeds=given.seeds,
        seed=seed,
        show=show,
        must_run=must_run,
    )
    try:
        return asyncio.run(soak)
    except (KeyboardInterrupt, asyncio.CancelledError):
        show.say("interrupted; with the next run the seeds go on where they are")
        return 130


if __name__ == "__main__":
    sys.exit(main())
