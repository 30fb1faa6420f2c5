"""Chance, by seed and by place: what goes wrong in one run, and where.

Each draw is a hash of the seed and the name of the place ("charge action 2: lost answer"), not the
next number of a stream. So one fault can be taken away without changing what the others do, which
is what lets a failing run be shrunk to the few faults that matter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from hashlib import blake2b

from standfast.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely each fault is, from 0 (never) to 1, at each place where it can strike.

    Each seed uses only some of them and at rates of its own around these, so that runs with many
    faults of few kinds come up too (swarm testing: Groce et al., ISSTA 2012).

    - `crash`: the process dies, at a commit (before it is written, or after) or within an attempt.
    - `pause`: the process stands still for longer than its lease, so that another takes over, and
      then goes on without knowing.
    - `unknown`: an attempt ends in a connection error, and took effect or didn't.
    - `outage`: a participant can't be reached for up to half an hour, so that retries may be
      exhausted.
    - `timeout`: an attempt outlasts its timeout, having taken effect or not.
    - `refused`: an action that hasn't been tried yet raises `Refused`.
    - `duplicate`: the participant gets a request twice in a row.
    - `late`: the request seems lost, but arrives after all, up to ten minutes later.
    - `undo`: as `unknown` and `timeout`, but of compensations.
    - `cancel`: somebody cancels the saga.
    - `signal`: a signal comes too early, late, twice or never, rather than in time.
    - `store`: the store writes, but its answer is lost.
    - `operator`: the operator does something else than to retry what is parked: skip it where it
      is known to be done, send the ``resume`` signal, cancel by force, or stay away.
    - `latency`: an attempt or a commit takes some time, so that others overtake it.
    """

    crash: float = 0.04
    pause: float = 0.01
    unknown: float = 0.08
    outage: float = 0.02
    timeout: float = 0.04
    refused: float = 0.06
    duplicate: float = 0.06
    late: float = 0.04
    undo: float = 0.15
    cancel: float = 0.02
    signal: float = 0.4
    store: float = 0.02
    operator: float = 0.4
    latency: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ConfigurationError(f"{field.name}={value!r}: give a chance from 0 to 1")

    @classmethod
    def none(cls) -> Faults:
        """No faults at all."""
        return cls(**{field.name: 0.0 for field in fields(cls)})


_KINDS = tuple(field.name for field in fields(Faults))
_SWARM = (0.0, 0.0, 0.5, 1.0, 1.0, 2.0)
_MANY = 60


class Chance:
    """All draws of one run.

    `struck` are the places where something was decided otherwise than in a run without faults, in
    order. Those in `spared` are decided as without faults. `healed`: no faults from here on.
    """

    def __init__(self, seed: int, faults: Faults, spared: Collection[str] = ()) -> None:
        self._key = seed.to_bytes(16, "big", signed=True)
        self._spared = spared
        self.struck: list[str] = []
        self.healed: bool = False
        self.rates: dict[str, float] = {}
        calm = self.draw("calm") < 1 / 16
        for kind in _KINDS:
            factor = _SWARM[int(self.draw(f"swarm {kind}") * len(_SWARM))]
            self.rates[kind] = 0.0 if calm else min(1.0, getattr(faults, kind) * factor)

    def draw(self, place: str) -> float:
        """A number in [0, 1) that belongs to this place."""
        digest = blake2b(place.encode(), digest_size=7, key=self._key).digest()
        return int.from_bytes(digest, "big") / 2**56

    def strikes(self, kind: str, place: str) -> bool:
        """Whether a fault of this kind strikes here."""
        rate = self.rates[kind]
        if not rate or self.healed or place in self._spared or self.draw(place) >= rate:
            return False
        self.struck.append(place)
        if len(self.struck) >= _MANY:
            self.healed = True  # so that every run ends
        return True

    def choose(self, place: str, options: int) -> int:
        """One of that many options, evenly."""
        return int(self.draw(place) * options)
