"""When to break what: drawn from a seed, so that a run can be made again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Blow:
    """One breakage: `at` seconds after the start, of a `kind`, lasting `lasts` seconds.

    `draw`, from 0 to 1, chooses among whatever can be hit then.
    """

    at: float
    kind: str
    lasts: float
    draw: float


@dataclass(frozen=True)
class Kind:
    """How often a kind of breakage comes, compared with the others, and how long it may last."""

    weight: float
    shortest: float = 0.0
    longest: float = 0.0


def schedule(
    seed: int,
    seconds: float,
    kinds: Mapping[str, Kind],
    *,
    pause: tuple[float, float] = (1.0, 4.0),
) -> list[Blow]:
    """The blows of a run, in order. A pause between two is drawn from `pause`.

    Each kind comes once before they are drawn by their weights, so that a short run has them all.
    """
    chance = random.Random(seed)
    names = list(kinds)
    first = list(names)
    chance.shuffle(first)
    blows: list[Blow] = []
    at = chance.uniform(*pause)
    while at < seconds:
        weights = [kinds[name].weight for name in names]
        name = first.pop() if first else chance.choices(names, weights)[0]
        lasts = chance.uniform(kinds[name].shortest, kinds[name].longest)
        blows.append(Blow(at, name, lasts, chance.random()))
        at += chance.uniform(*pause)
    return blows
