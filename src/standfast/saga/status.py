"""How a saga can stand: the one vocabulary of statuses, of the machine, the store and operators."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

Status: TypeAlias = Literal[
    "running",
    "waiting",
    "parked",
    "compensating",
    "compensation_failed",
    "completed",
    "compensated",
]
"""``running``: a step is under way or due. ``waiting``: for a signal, a child or a time.
``parked``: a step failed for good, and an operator must decide. ``compensating``: what was done is
being undone. ``compensation_failed``: an undo failed for good, and an operator must decide.
``completed`` and ``compensated``: it ended, with everything done, or with everything undone.
"""

Outcome: TypeAlias = Literal["", "completed", "compensated"]
"""How it ended, "" before that."""

STATUSES: Final[tuple[Status, ...]] = get_args(Status)
FINISHED: Final[frozenset[Status]] = frozenset({"completed", "compensated"})
UNFINISHED: Final[tuple[Status, ...]] = tuple(s for s in STATUSES if s not in FINISHED)
STUCK: Final[tuple[Status, ...]] = ("parked", "compensation_failed")
"""Nothing goes on by itself: an operator must act."""
AT_REST: Final[tuple[Status, ...]] = ("completed", "compensated", *STUCK)
"""A caller that awaits the result is answered."""
