"""What a simulation covered, for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from standfast.durations import human


@dataclass(slots=True)
class SimulationReport:
    """What `simulate` ran, and that nothing was violated.

    `seeds` were run, which went `paths` different ways (different facts or calls) and ended as
    `outcomes` tells. `coverage` counts how often each (step, fault) struck; ``undo reserve`` is the
    compensation of ``reserve``. `missed` are steps and compensations that were never called. Add
    reports to sum up the parts of a run that was split; paths that two parts share count once.
    """

    saga: str
    seeds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    seen: set[int] = field(default_factory=set, repr=False)

    @property
    def paths(self) -> int:
        """How many different ways the runs went."""
        return len(self.seen)

    @property
    def faults(self) -> Counter[str]:
        """How often each fault struck, over all steps."""
        counts: Counter[str] = Counter()
        for (_, fault), count in self.coverage.items():
            counts[fault] += count
        return counts

    def __add__(self, other: SimulationReport) -> SimulationReport:
        return SimulationReport(
            self.saga,
            self.seeds + other.seeds,
            self.outcomes + other.outcomes,
            self.coverage + other.coverage,
            [name for name in self.missed if name in other.missed],
            self.seconds + other.seconds,
            self.seen | other.seen,
        )

    def __str__(self) -> str:
        ended = ", ".join(f"{name} {count:,}" for name, count in self.outcomes.most_common())
        head = f"{self.saga}: {self.seeds:,} seeds in {human(self.seconds)}"
        lines = [
            f"{head}, {self.paths:,} different paths, nothing violated",
            f"  ended: {ended}",
        ]
        steps = list(dict.fromkeys(step for step, _ in self.coverage))
        steps.sort(key=lambda step: (step.startswith(("the ", "signal ")), step))
        width = max((len(step) for step in steps), default=0)
        for step in steps:
            own = sorted((fault, n) for (s, fault), n in self.coverage.items() if s == step)
            struck = ", ".join(f"{fault} {count:,}" for fault, count in own)
            lines.append(f"  {step:<{width}}  {struck}")
        if self.missed:
            lines.append(f"  never called: {', '.join(self.missed)}")
        return "\n".join(lines)
