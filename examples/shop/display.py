"""What the run looks like: a moving bar on a terminal, plain lines elsewhere; tables at the end."""

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from examples.shop.audit import Finding

STATES = ("completed", "compensated", "parked")


@dataclass
class Report:
    """All that a run has to tell."""

    orders: int
    seed: int
    database: str
    kills: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    tally: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether the audit was done, and found nothing."""
        return bool(self.findings) and not any(finding.found for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "orders": self.orders,
            "seed": self.seed,
            "database": self.database,
            "kills": self.kills,
            "outcomes": self.outcomes,
            "audit": {finding.name: finding.found for finding in self.findings},
            "sound": self.is_sound,
            "requests": self.tally,
            "metrics": self.metrics,
            "seconds": round(self.seconds, 1),
        }


class Display:
    """Shows how far the run is. With `quiet`, everything goes to standard error."""

    def __init__(self, orders: int, *, quiet: bool) -> None:
        self.console = Console(stderr=quiet, highlight=False)
        self.orders = orders
        self._shown = 0.0
        self._bar = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=orders, text="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Something happened."""
        self.console.print(text)

    def progress(self, accepted: int, counts: dict[str, int]) -> None:
        """How far it is."""
        ended = sum(counts.get(state, 0) for state in STATES)
        parts = [f"{accepted}/{self.orders} ordered", f"{max(0, accepted - ended)} under way"]
        parts += [f"{counts.get(state, 0)} {state}" for state in STATES]
        text = ", ".join(parts)
        self._bar.update(self._task, completed=ended, text=text)
        if not self.console.is_terminal and time.monotonic() - self._shown >= 2:
            self._shown = time.monotonic()
            self.console.print(text)

    def report(self, report: Report) -> None:
        """The tables at the end."""
        ends = Table(title=f"{report.orders} orders, the worker killed {len(report.kills)} times")
        for name in report.outcomes:
            ends.add_column(name, justify="right")
        ends.add_row(*(str(number) for number in report.outcomes.values()))
        self.console.print(ends)
        told = ", ".join(f"{number} {name}" for name, number in report.tally.items())
        self.console.print(f"Requests to the services: {told}.", soft_wrap=True)
        table = Table(title="Audit over all ledgers")
        table.add_column("must be none")
        table.add_column("found", justify="right")
        table.add_column("")
        for finding in report.findings:
            verdict = f"[red]FAILED[/] {' '.join(finding.found[:5])}" if finding.found else "ok"
            table.add_row(finding.name, str(len(finding.found)), verdict)
        self.console.print(table)
        if report.metrics:
            self.console.print("Metrics of all workers together:")
            for metric, value in sorted(report.metrics.items()):
                self.console.print(f"  {metric} {value:g}", markup=False, soft_wrap=True)
        verdict = "[green]Sound.[/]" if report.is_sound else "[red]The audit failed.[/]"
        self.console.print(f"{verdict} {report.seconds:.1f} s, seed {report.seed}.")
