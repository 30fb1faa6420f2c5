"""What is stuck, in groups: sagas that failed at the same step, in the same way. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from standfast.ports.journal import Instance
from standfast.saga.status import STUCK
from standfast.text import on_one_line

LONGEST = 200
"""Letters of an error that tell groups apart."""

_FOLDS = [
    (re.compile(pattern, re.IGNORECASE), word)
    for pattern, word in (
        (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>"),
        (
            r"\b\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?: ?z|[+-]\d\d:?\d\d)?)?",
            "<time>",
        ),
        (r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?", "<time>"),
        # Quotes stand at the edges of words: the one in "isn't" quotes nothing.
        (r"(?<!\w)'[^']*'(?!\w)", "<value>"),
        (r'(?<!\w)"[^"]*"(?!\w)', "<value>"),
        (r"(?<!\w)`[^`]*`(?!\w)", "<value>"),
        (r"\b0x[0-9a-f]+\b", "<hex>"),
        (r"(?<!\.)\b(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,}\b", "<hex>"),
        (r"(?<![a-z_<])[+-]?\d+(?:[.,_]\d+)*(?:e[+-]?\d+)?", "<n>"),
    )
]
_WHY_UNDONE = re.compile(r" \(compensating, for .*\)$", re.DOTALL)


def normalised(error: str) -> str:
    """An error without what differs from one saga to the next, on one line.

    Ids, times, quoted values, hexadecimal and other numbers become ``<id>``, ``<time>``,
    ``<value>``, ``<hex>`` and ``<n>``. A number that belongs to a word (``utf8``) stays.
    """
    text = on_one_line(error)
    for pattern, word in _FOLDS:
        text = pattern.sub(word, text)
    return on_one_line(text, LONGEST)


@dataclass(frozen=True, slots=True)
class StuckGroup:
    """Sagas that are stuck at the same step, for the same reason.

    `status` is ``"parked"`` or ``"compensation_failed"``. `error` is what `normalised` makes of
    their causes. `since` is since when the oldest of them has been stuck at least, in seconds since
    the epoch: when its row changed last. `example` is the id of that one, and `cause` its cause as
    it stands.
    """

    saga: str
    status: str
    step: str
    error: str
    count: int
    since: float
    example: UUID
    cause: str

    def as_json(self) -> dict[str, Any]:
        """The group as plain JSON values."""
        return {
            "saga": self.saga,
            "status": self.status,
            "step": self.step,
            "error": self.error,
            "count": self.count,
            "since": self.since,
            "example": str(self.example),
            "cause": self.cause,
        }


class Grouping:
    """Puts stuck instances in groups, one after the other, without keeping them."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str, str], StuckGroup] = {}

    def add(self, row: Instance) -> None:
        """Count an instance; one that isn't stuck is left out."""
        if row.status not in STUCK:
            return
        error = normalised(_WHY_UNDONE.sub("", row.cause))
        key = (row.name, row.status, row.step, error)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = StuckGroup(*key, 1, row.updated_at, row.id, row.cause)
        elif row.updated_at < group.since:
            self._groups[key] = replace(
                group,
                count=group.count + 1,
                since=row.updated_at,
                example=row.id,
                cause=row.cause,
            )
        else:
            self._groups[key] = replace(group, count=group.count + 1)

    def groups(self) -> list[StuckGroup]:
        """All groups, the largest first, and of two of one size the oldest."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.since))


def grouped(rows: Iterable[Instance]) -> list[StuckGroup]:
    """The groups of some instances."""
    grouping = Grouping()
    for row in rows:
        grouping.add(row)
    return grouping.groups()
