"""One call of a user's function, as a simulation saw it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from standfast.branch_key import Operation


@dataclass(slots=True, eq=False)
class Call:
    """One call of a step's function, or of its compensation.

    `branch` is the step, or one item of a step that fans out (``"pack[3]"``); in a child saga it
    follows the step that started it (``"ship/pack"``, ``"ship[3]/pack"``). `began`: the user's
    function was entered, and `returned`: it got to its end. `ended` tells what the engine was
    answered: ``"done"``, ``"refused"``, an error's text, or ``"cut off"``. `late`: nobody waited
    for the answer any more.
    """

    at: float
    instance: str
    branch: str
    operation: Operation
    attempt: int
    key: str
    began: bool = False
    returned: bool = False
    ended: str = ""
    late: bool = False

    def __str__(self) -> str:
        undo = "undo " if self.operation == "compensation" else ""
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{undo}{self.branch}{again}"


def without_items(branch: str) -> str:
    """The step of a branch, whichever of its items it is, with the steps that lead to it."""
    return re.sub(r"\[\d+\]", "", branch)
