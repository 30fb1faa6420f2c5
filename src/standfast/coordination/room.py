"""How many instances processes have room for, as their notes tell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from standfast.ports.leases import Kind


class Limits(NamedTuple):
    """How many instances a process has in memory at once, in total and of one name (None: any)."""

    total: int
    own: int | None


def slots_note(pattern: str, total: int, kinds: Mapping[Kind, int | None]) -> dict[str, Any]:
    """What a worker tells of its limits in its process's note."""
    own = {name: limit for (_, name, _), limit in kinds.items() if limit is not None}
    return {pattern: {"total": total, "own": own}}


def limits(note: str, kind: Kind) -> Limits | None:
    """The limits for a kind, by a process's note; None where it tells of none, as older ones do."""
    try:
        slots = json.loads(note)["slots"][kind[0]]
        total, own = slots["total"], slots["own"].get(kind[1])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = isinstance(total, int) and (own is None or isinstance(own, int))
    return Limits(total, own) if sound else None


class Taken(NamedTuple):
    """How many slots of a process are taken, in total and, where it matters, by one name."""

    limits: Limits
    total: int
    of_name: int = 0

    @property
    def is_full(self) -> bool:
        """Whether no slot is free."""
        return self._is_full_in_total or self.is_full_of_name

    @property
    def _is_full_in_total(self) -> bool:
        return self.total >= self.limits.total

    @property
    def is_full_of_name(self) -> bool:
        """Whether it is the limit of the name that leaves none."""
        own = self.limits.own
        return not self._is_full_in_total and own is not None and self.of_name >= own

    @property
    def counted(self) -> tuple[int, int]:
        """How many are taken, of how many: by the limit that leaves none."""
        if self.is_full_of_name and self.limits.own is not None:
            return self.of_name, self.limits.own
        return self.total, self.limits.total


def told(name: str, processes: Iterable[Taken]) -> str:
    """Why nobody takes what is due of a name; "" where there are slots free, or no processes."""
    every = list(processes)
    if not every or not all(one.is_full for one in every):
        return ""
    taken = sum(one.counted[0] for one in every)
    limit = sum(one.counted[1] for one in every)
    whose = f" of {name!r}" if any(one.is_full_of_name for one in every) else ""
    if len(every) == 1:
        limit_of = f" (the limit{whose})" if whose else ""
        return f"{taken} of max_in_flight={limit} are taken{limit_of}"
    return f"{taken} of {limit} are taken in {len(every)} processes (max_in_flight{whose})"
