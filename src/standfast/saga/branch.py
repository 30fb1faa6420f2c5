"""One lane of a saga's execution: a step, or one item of a step that fans out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from standfast.saga.plan import StepPlan

UNSET: Any = object()


class Branch:
    """The state of a branch.

    `state` goes from "open" to "completed", "skipped", "refused" (known to have had no effect),
    "failed" (outcome unknown) or "parked", which may open again. `undo` is "" (not needed), "due",
    "done", "failed" or "skipped". `attempt` counts the failed attempts of whichever of the two is
    going on, of which `forgiven` don't count against the retry policy; `tried` those of the action
    when its undo became due, for it may be in flight then. `value` is what `result` decodes to,
    where nobody can change it. `begun_at` is when it opened first, `opened_at` when it did last.
    `until` is when a sleep ends, 0 while that isn't known. `children` are the items of a step that
    fans out, `live` counts their child sagas that go on.
    """

    __slots__ = (
        "answered",
        "asked_child",
        "attempt",
        "begun_at",
        "child",
        "children",
        "completed_at",
        "delay",
        "error",
        "forgiven",
        "id",
        "item",
        "item_value",
        "live",
        "opened_at",
        "result",
        "retry_at",
        "since",
        "state",
        "step",
        "touched",
        "tried",
        "undo",
        "undone_at",
        "unsettled_items",
        "until",
        "value",
    )

    def __init__(
        self,
        id: str,
        step: StepPlan,
        opened_at: float,
        item: int | None = None,
        item_value: msgspec.Raw | None = None,
    ) -> None:
        self.id: str = id
        self.step: StepPlan = step
        self.begun_at: float = opened_at
        self.opened_at: float = opened_at
        self.item: int | None = item
        self.item_value: msgspec.Raw | None = item_value
        self.state: str = "open"
        self.undo: str = ""
        self.undone_at: float = 0.0
        self.attempt: int = 0
        self.tried: int = 0
        self.forgiven: int = 0
        self.retry_at: float = 0.0
        self.since: float = 0.0
        self.delay: float = 0.0
        self.error: str = ""
        self.touched: bool = False
        self.answered: bool = False
        self.result: msgspec.Raw | None = None
        self.value: Any = UNSET
        self.completed_at: float = 0.0
        self.child: UUID | None = None
        self.asked_child: bool = False
        self.children: Sequence[Branch] = ()
        self.unsettled_items: int = 0
        self.live: int = 0
        self.until: float = 0.0

    @property
    def action_attempt(self) -> int:
        """The number of the action's attempt that goes on, or would be next."""
        return (self.tried if self.undo else self.attempt) + 1

    @property
    def is_open(self) -> bool:
        """Whether its forward work isn't settled and may go on."""
        return self.state == "open"

    @property
    def is_closed(self) -> bool:
        """Whether its forward work is settled for good."""
        return self.state not in ("open", "parked")

    @property
    def has_begun(self) -> bool:
        """Whether its forward work was begun, as far as is known."""
        waits = self.step.form in ("wait", "sleep") and not self.step.conditional
        return self.touched or self.answered or waits or self.is_closed

    @property
    def fans_out(self) -> bool:
        """Whether this is the step as a whole, whose items do the work."""
        return self.step.fans_out and self.item is None

    @property
    def needs_answer(self) -> bool:
        """Whether the definition must be asked (condition, items, child's input, time) first."""
        step = self.step
        if self.answered or self.state != "open":
            return False
        if self.item is not None:
            return step.form == "child"
        return (
            step.conditional
            or step.fans_out
            or step.form == "child"
            or (step.form == "sleep" and step.duration is None)
        )

    @property
    def is_runnable(self) -> bool:
        """Whether its action may be run."""
        step = self.step
        is_whole = step.fans_out and self.item is None
        return self.state == "open" and step.form == "action" and not is_whole

    @property
    def is_wait(self) -> bool:
        """Whether it waits for a signal."""
        return self.step.form == "wait" and self.state == "open" and not self.needs_answer

    @property
    def is_sleep(self) -> bool:
        """Whether it waits for a time."""
        return self.step.form == "sleep" and self.state == "open" and not self.needs_answer

    @property
    def is_passive(self) -> bool:
        """Whether nothing but mail or time can move it."""
        if self.needs_answer:
            return False
        if self.state == "parked" or self.child is not None or self.fans_out:
            return True
        return self.is_wait or self.is_sleep

    @property
    def undoable(self) -> bool:
        """Whether there is something that would undo it."""
        if self.step.form == "child":
            return self.child is not None and not self.step.no_compensation
        return self.step.undo and not self.fans_out

    @property
    def may_need_undo(self) -> bool:
        """Whether, unfinished, it may have had an effect."""
        return self.state in ("open", "parked") and self.undoable and self.touched

    def restart(self) -> None:
        """Count attempts anew, for the undo."""
        self.tried = self.attempt
        self.attempt = self.forgiven = 0
        self.retry_at = self.since = self.delay = 0.0

    def resume(self, at: float) -> None:
        """Go on after being parked, with a fresh retry budget; attempt numbers go on.

        A child saga that had been undone is started afresh, under an id of its own.
        """
        if self.state == "parked" and self.child is not None and not self.undo:
            self.child = None
            self.answered = False
        self.forgiven = self.attempt
        self.retry_at = self.since = self.delay = 0.0
        self.opened_at = at
