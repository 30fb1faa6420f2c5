"""What a part of the soak is, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.soak.show import Show

Verdict = Literal["passed", "failed", "not run"]
LEAST = 30.0
"""Seconds that a part gets at least, however little is left for it."""


class CannotRun(Exception):
    """The part can't be run on this machine; the message says why and what to do."""


@dataclass(frozen=True)
class Setting:
    """What a part is told: how many seconds to go on, how many seeds, what draws the schedule."""

    seconds: float
    seeds: int | None
    seed: int
    show: Show


@dataclass
class Findings:
    """What a part brought: counts, its faults (each a text that tells all), and all in one line."""

    counts: dict[str, int | float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    in_short: str = ""


@dataclass(frozen=True)
class Part:
    """One part: `share` is its part of the time that can be given away; 0 if its length is fixed.

    `minutes` is about how long one of fixed length takes, or what another needs on top.
    """

    name: str
    tells: str
    play: Callable[[Setting], Awaitable[Findings]]
    share: float = 0.0
    minutes: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a part ended."""

    part: str
    verdict: Verdict
    seconds: float
    findings: Findings
    why: str = ""


def share_out(parts: Sequence[Part], minutes: float) -> dict[str, float]:
    """How many seconds each part may go on, so that all together take about `minutes`."""
    left = max(0.0, minutes - sum(part.minutes for part in parts)) * 60
    shares = sum(part.share for part in parts)
    return {
        part.name: max(LEAST, left * part.share / shares) if part.share else 0.0 for part in parts
    }
