"""What an unfinished instance does or waits for, read from its state. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias
from uuid import UUID

from standfast.durations import human, moment
from standfast.saga.branch import Branch
from standfast.saga.state import SagaState
from standfast.text import on_one_line

PendingKind: TypeAlias = Literal["attempt", "slot", "retry", "signal", "child", "time", "operator"]
"""``attempt``: an attempt runs, or is due. ``slot``: one is due, but no worker has a slot free.
``retry``: the next one waits for its time. ``signal``, ``child``, ``time``: it waits for that.
``operator``: it is stuck, until somebody acts."""

LONGEST = 140
"""Letters of an error in one line."""


def plain(record: Any) -> dict[str, Any]:
    """A dataclass of plain values and ids as plain JSON values, without what is empty."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        name: str(value) if isinstance(value, UUID) else value
        for name, value in values.items()
        if value is not None and value != ""
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One thing that an instance does or waits for.

    `branch` is the step, or its item (``"pack[3]"``), `operation` whether it is done or undone.
    `since` and `until` are seconds since the epoch: since when it runs (or could) or waits, None
    for what is stuck, and when the next attempt is due, or the wait ends by itself. `attempt`
    numbers the attempt that runs or comes next; `error` is what the last one failed with. `worker`
    names the process that has the instance, "" if none has. `slots` says how many are taken, of
    what waits for one. When exactly an attempt began isn't stored: it began at `since`, or later
    where its worker was busy.
    """

    kind: PendingKind
    branch: str
    operation: Literal["action", "compensation"] = "action"
    since: float | None = None
    until: float | None = None
    attempt: int | None = None
    error: str = ""
    signal: str = ""
    child: UUID | None = None
    worker: str = ""
    slots: str = ""

    def as_json(self) -> dict[str, Any]:
        """It as plain JSON values, without what is empty."""
        return plain(self)

    def told(self, now: float) -> str:
        """It as one line for people, at the time `now`."""
        subject = self.branch or "its beginning"  # of a start that is delayed
        if self.operation != "action":
            subject = f"undo of {subject}"
        lasts = 0.0 if self.since is None else max(0.0, round(now - self.since, 1))
        since = f" for {human(lasts)}" if lasts else ""
        why = f", after {self.error}" if self.error else ""
        match self.kind:
            case "attempt":
                where = f" on {self.worker}" if self.worker else ""
                verb = "runs" if self.worker else "is due"
                text = f"{subject}: attempt {self.attempt} {verb}{since}{where}{why}"
            case "slot":
                text = f"{subject}: waits for a slot{since}: {self.slots}{why}"
            case "retry":
                text = f"{subject}: attempt {self.attempt} {_in(self.until, now)}{why}"
            case "signal":
                text = (
                    f"{subject}: waits for signal {self.signal!r}{since}{_until(self.until, since)}"
                )
            case "child":
                text = f"{subject}: waits for saga {self.child}{since}"
            case "time":
                text = f"{subject}: waits{since}{_until(self.until, since)}"
            case "operator":
                text = f"{subject}: waits for an operator{since}{why}"
        return on_one_line(text, LONGEST + len(subject))


def _in(at: float | None, now: float) -> str:
    return "soon" if at is None else f"in {human(max(0.0, round(at - now, 1)))}"


def _until(at: float | None, since: str) -> str:
    return "" if at is None else f"{',' if since else ''} until {moment(at)}"


def pending(
    state: SagaState,
    *,
    now: float,
    worker: str = "",
    wake_at: float | None = None,
    full: str = "",
) -> list[Pending]:
    """What goes on, in the order in which it began; nothing for one that has ended.

    `worker` names the process that has the instance, "" if none has; then `wake_at` says when one
    may take it, and `full` why none does though it is due: what its slots are taken by.
    """
    found = _goes_on(state, now, worker, wake_at)
    return [_without_slot(one, now, full) for one in found] if full else found


def _without_slot(one: Pending, now: float, full: str) -> Pending:
    """It, of an instance that is due and has no slot: what would go on waits for one."""
    goes_on = one.kind == "attempt" or (
        one.kind in ("retry", "time") and one.until is not None and one.until <= now
    )
    if not goes_on:
        return one
    since = one.since if one.until is None else one.until
    return replace(one, kind="slot", since=since, until=None, slots=full)


def _goes_on(state: SagaState, now: float, worker: str, wake_at: float | None) -> list[Pending]:
    if state.outcome:
        return []
    if state.undoing:
        ready = state.undo_ready()
        asked = [b for b in state.branches.values() if b.undo == "due" and b.asked_child]
        failed = [b for b in state.branches.values() if b.undo == "failed"]
        return [_undo(b, now, worker) for b in (*failed, *ready, *asked)]
    if not state.branches:  # its start is delayed
        return [Pending(kind="time", branch="", until=state.started.begins_at)]
    # A child saga that has no room yet isn't anything that goes on.
    going = [b for b in state.open.values() if not b.needs_answer or state.has_room(b)]
    found = [_forward(b, now, worker, wake_at) for b in going]
    return [one for one in found if one is not None]


def _undo(branch: Branch, now: float, worker: str) -> Pending:
    if branch.undo == "failed":
        return Pending(
            kind="operator", branch=branch.id, operation="compensation", error=branch.error
        )
    if branch.asked_child:
        return Pending(kind="child", branch=branch.id, operation="compensation", child=branch.child)
    waits = branch.retry_at > now
    return Pending(
        kind="retry" if waits else "attempt",
        branch=branch.id,
        operation="compensation",
        since=branch.retry_at if branch.retry_at and not waits else None,
        until=branch.retry_at if waits else None,
        attempt=branch.attempt + 1,
        error=branch.error if branch.attempt else "",
        worker=worker,
    )


def _forward(branch: Branch, now: float, worker: str, wake_at: float | None) -> Pending | None:
    step, id = branch.step, branch.id
    if branch.state == "parked":
        return Pending(kind="operator", branch=id, error=branch.error)
    if step.form == "wait":  # a condition is asked at once, and isn't stored where it holds
        until = None if step.timeout is None else branch.opened_at + step.timeout
        return Pending(
            kind="signal", branch=id, signal=step.signal, since=branch.opened_at, until=until
        )
    if branch.until:
        return Pending(kind="time", branch=id, since=branch.opened_at, until=branch.until)
    if branch.child is not None:
        return Pending(kind="child", branch=id, child=branch.child, since=branch.opened_at)
    if branch.fans_out and not branch.needs_answer:
        return None  # its items tell
    if not worker and wake_at is not None and wake_at > now and not branch.retry_at:
        return Pending(kind="time", branch=id, until=wake_at)
    waits = branch.retry_at > now
    return Pending(
        kind="retry" if waits else "attempt",
        branch=id,
        since=None if waits else max(branch.opened_at, branch.retry_at),
        until=branch.retry_at if waits else None,
        attempt=branch.attempt + 1,
        error=branch.error if branch.attempt else "",
        worker=worker,
    )


AT_ONCE = 3
"""How many are told in one line."""


def in_short(pending: Sequence[Pending], now: float) -> str:
    """All of it in one line: the first few, and how many more there are."""
    told = [one.told(now) for one in pending[:AT_ONCE]]
    more = len(pending) - len(told)
    return "; ".join([*told, *([f"and {more} more"] if more else [])])
