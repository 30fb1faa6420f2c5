"""`python -m examples.shop`: run the shop while its worker is killed."""

import argparse
import asyncio
import json
import random
import signal
import sys
from pathlib import Path

import asyncpg

from examples.shop.demo import Options, run
from examples.shop.display import Display
from examples.shop.processes import ChildFailed


def main() -> int:
    """0 if the audit found nothing, 1 if it did or never came, 130 if it was interrupted."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.orders < 1 or arguments.kills < 0:
        parser.error("give --orders of 1 or more, and --kills of 0 or more")
    if arguments.database and not arguments.database.startswith(("postgresql://", "postgres://")):
        parser.error(
            f"--database {arguments.database}: give a postgresql:// URL, or none for SQLite"
        )
    if arguments.keep and arguments.keep.exists():
        parser.error(f"--keep {arguments.keep}: it is there already, and a run needs a new folder")
    options = Options(
        orders=arguments.orders,
        kills=arguments.kills,
        seed=random.randrange(1_000_000) if arguments.seed is None else arguments.seed,
        database=arguments.database,
        keep=arguments.keep,
        metrics=arguments.metrics,
    )
    try:
        return asyncio.run(_main(options, quiet=arguments.json))
    except asyncio.CancelledError:
        print("interrupted: every process is ended", file=sys.stderr)
        return 130
    except (ChildFailed, OSError, asyncpg.PostgresError) as error:
        print(f"The demo can't run: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


async def _main(options: Options, *, quiet: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    _cancel_on_signals(task)
    with Display(options.orders, quiet=quiet) as display:
        report = await run(options, display)
    display.report(report)
    if quiet:
        print(json.dumps(report.as_json(), indent=2))
    return 0 if report.is_sound else 1


def _cancel_on_signals(task: asyncio.Task[int]) -> None:
    """Ctrl-C and SIGTERM end the run in good order; a second one doesn't disturb that."""

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, cancel)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.shop", description=__doc__)
    parser.add_argument("--orders", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--kills", type=int, default=3, help="how often (default: 3)")
    parser.add_argument("--seed", type=int, help="of all bad luck (default: a random one)")
    parser.add_argument(
        "--database",
        metavar="postgresql://…",
        help="keep the shop's rows and sagas on this server, in a new database that is dropped at "
        "the end (default: SQLite)",
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave ledgers and logs in DIR")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--metrics", action="store_true", help="show the workers' metrics")
    return parser


if __name__ == "__main__":
    sys.exit(main())
