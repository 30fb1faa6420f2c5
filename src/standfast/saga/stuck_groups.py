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

_SIGNS = {r"\<": r"(?<![^\W_])", r"\>": r"(?![^\W_])", r"\h": "[0-9a-f]{1,4}"}
"""Of the patterns below: a token of letters and digits begins or ends, and a part of IPv6."""
_FOLDS = (
    # What the engine says of a version that isn't there stays: an operator must know which one.
    ("", r"\bversion \d+ of saga '[^']*'"),
    # A character that was spelled out: one piece.
    ("", r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"),
    # Quotes stand at the edges of words: the one in "isn't" quotes nothing.
    ("<value>", r"""(?<!\w)(?:'[^']*'|"[^"]*"|`[^`]*`)(?!\w)"""),
    ("<id>", r"\<[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\>"),
    # A MAC address.
    ("<id>", r"\<[0-9a-f]{2}(?P<sign>[:-])[0-9a-f]{2}(?:(?P=sign)[0-9a-f]{2}){4}\>"),
    # An IPv6 address, in full or shortened; with a digit, for `a::b` is mostly something else.
    (
        "<id>",
        r"(?<![\w:])(?=[a-f:]*\d)(?:(?:\h:){7}\h|(?:\h(?::\h){0,6})?::(?:\h(?::\h){0,6})?)(?!:?\w)",
    ),
    (
        "<time>",
        r"\<\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?: ?z|[+-]\d\d:?\d\d)?)?",
    ),
    ("<time>", r"\<\d\d:\d\d:\d\d(?:[.,]\d+)?"),
    # A random id with signs in it, such as a nanoid, of the length that those have.
    (
        "<id>",
        (
            r"(?<![\w-])(?=[\w-]{21,22}(?![\w-]))(?-i:(?=[\w-]*[a-z])(?=[\w-]*[A-Z]))"
            r"(?=(?:[\w-]*?(?:[a-z]\d|\d[a-z])){2})[\w-]+"
        ),
    ),
    ("<hex>", r"\<0x[0-9a-f]+\>"),
    ("<hex>", r"\<(?=\d*[a-f])(?=[a-f]*\d)[0-9a-f]{8,}\>"),
    # Other random ids: letters and digits take turns three times, but not as in 1h30m; or twice,
    # where it is long and no name in CamelCase.
    (
        "<id>",
        r"\<(?=[a-z]+\d+[a-z]+\d|\d+[a-z]+\d+[a-z])(?!(?:\d+(?:[mu]s|[smhdw]))+\>)[a-z\d]+\>",
    ),
    (
        "<id>",
        r"\<(?=[a-z\d]{12})(?:\d+[a-z]+\d+|(?-i:[a-z]+\d+[a-z]+|[A-Z]+\d+[A-Z]+))\>",
    ),
    ("<n>", r"(?:(?<!\w)[+-])?\d+(?:[.,_]\d+)*(?:e[+-]?\d+)?"),
)


def _compiled() -> re.Pattern[str]:
    """All patterns as one, each a group named after its place in `_FOLDS`: the first that fits."""
    pattern = "|".join(f"(?P<_{place}>{each})" for place, (_, each) in enumerate(_FOLDS))
    for sign, meaning in _SIGNS.items():
        pattern = pattern.replace(sign, meaning)
    return re.compile(pattern, re.IGNORECASE)


_VARYING = _compiled()
_WHY_UNDONE = re.compile(r" \(compensating, for .*\)$", re.DOTALL)


def normalised(error: str) -> str:
    """An error without what differs from one saga to the next, on one line.

    Ids (and what looks like one: addresses of IPv6 and MAC, tokens of letters and digits mixed),
    times, quoted values, hexadecimal and other numbers become ``<id>``, ``<time>``, ``<value>``,
    ``<hex>`` and ``<n>``. The version that no live worker has stays.
    """
    return on_one_line(_VARYING.sub(_folded, on_one_line(error)), LONGEST)


def _folded(found: re.Match[str]) -> str:
    word, _ = _FOLDS[int(str(found.lastgroup).removeprefix("_"))]
    return word or found[0]


@dataclass(frozen=True, slots=True)
class StuckGroup:
    """Sagas that are stuck at the same step, for the same reason.

    `status` is ``"parked"`` or ``"compensation_failed"``. `error` is what `normalised` makes of
    their causes. `since` is since when the oldest of them has been stuck at least, in seconds since
    the epoch: when its row changed last. `example` is the id of that one, and `cause` its cause as
    it stands. `due`: how many of them wait for a worker rather than an operator, for they were told
    something that none has acted on yet, or no live one has their version.
    """

    saga: str
    status: str
    step: str
    error: str
    count: int
    since: float
    example: UUID
    cause: str
    due: int = 0

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
            "due": self.due,
        }


class Grouping:
    """Puts stuck instances in groups, one after the other, without keeping them.

    `now` tells which of them are due, in seconds since the epoch.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._groups: dict[tuple[str, str, str, str], StuckGroup] = {}

    def add(self, row: Instance) -> None:
        """Count an instance; one that isn't stuck is left out."""
        if row.status not in STUCK:
            return
        error = normalised(_WHY_UNDONE.sub("", row.cause))
        key = (row.name, row.status, row.step, error)
        due = int(row.owner is None and row.wake_at is not None and row.wake_at <= self._now)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = StuckGroup(*key, 1, row.updated_at, row.id, row.cause, due)
            return
        group = replace(group, count=group.count + 1, due=group.due + due)
        if row.updated_at < group.since:
            group = replace(group, since=row.updated_at, example=row.id, cause=row.cause)
        self._groups[key] = group

    def groups(self) -> list[StuckGroup]:
        """All groups, the largest first, and of two of one size the oldest."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.since))


def grouped(rows: Iterable[Instance]) -> list[StuckGroup]:
    """The groups of some instances."""
    grouping = Grouping()
    for row in rows:
        grouping.add(row)
    return grouping.groups()
