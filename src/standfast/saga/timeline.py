"""A journal told line by line, for people: when, which step, what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from standfast.durations import human
from standfast.saga import facts as fx

SHORT = 60
"""How many characters of a value are shown."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened, `after` that many seconds since the start.

    `mood` is "good", "bad", "held" (it waits for somebody) or "".
    """

    at: float
    after: float
    subject: str
    text: str
    mood: str = ""
    traceback: str = ""
    """Where the error was raised, if the entry tells of one, and it isn't that of the one before.
    """


def timeline(facts: Sequence[fx.AnyFact]) -> list[Entry]:
    """The entries of a journal, in its order."""
    return [
        Entry(
            fact.at,
            fact.at - facts[0].at,
            getattr(fact, "branch", ""),
            *_TOLD[type(fact)](fact),
            getattr(fact, "traceback", ""),
        )
        for fact in facts
    ]


def as_text(entries: Sequence[Entry]) -> str:
    """The entries as aligned plain text, one line each."""
    width = max((len(entry.subject) for entry in entries), default=0)
    return "".join(
        f"{'+' + human(max(0.0, entry.after)):>9}  {entry.subject:<{width}}  {entry.text}\n"
        for entry in entries
    )


def short(value: msgspec.Raw | str, limit: int = SHORT) -> str:
    """A value's JSON on one line, cut where it is long."""
    text = value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _started(fact: fx.Started) -> tuple[str, str]:
    parent = f" by saga {fact.parent} ({fact.parent_branch})" if fact.parent else ""
    until = "" if fact.deadline_at is None else f", deadline in {human(fact.deadline_at - fact.at)}"
    begins = "" if fact.begins_at is None else f", begins in {human(fact.begins_at - fact.at)}"
    return f"started as version {fact.version}{parent}{begins}{until}: {short(fact.input)}", ""


def _begun(fact: fx.Begun) -> tuple[str, str]:
    return "begins", ""


def _completed(fact: fx.StepCompleted) -> tuple[str, str]:
    value = "" if bytes(fact.result) == b"null" else f": {short(fact.result)}"
    return f"completed{_tries(fact.attempt)}{value}", "good"


def _attempt_failed(fact: fx.AttemptFailed) -> tuple[str, str]:
    return f"attempt {fact.attempt} {_how(fact)}, next {_in(fact)}: {fact.error}", "bad"


def _failed(fact: fx.StepFailed) -> tuple[str, str]:
    what = "refused" if fact.refused else f"failed for good{_tries(fact.attempt)}"
    return f"{what}: {fact.error}", "bad"


def _skipped(fact: fx.StepSkipped) -> tuple[str, str]:
    return f"skipped{_by(fact.by)}{_why(fact.reason)}", ""


def _fanned_out(fact: fx.FannedOut) -> tuple[str, str]:
    return f"fans out to {len(fact.items)} item{'' if len(fact.items) == 1 else 's'}", ""


def _child(fact: fx.ChildStarted) -> tuple[str, str]:
    return f"child saga {fact.child} started", ""


def _sleep(fact: fx.SleepStarted) -> tuple[str, str]:
    return f"sleeps for {human(max(0.0, fact.until - fact.at))}", ""


def _signal(fact: fx.SignalReceived) -> tuple[str, str]:
    value = "" if bytes(fact.payload) == b"null" else f": {short(fact.payload)}"
    return f"signal {fact.name!r} received{value}", ""


def _parked(fact: fx.StepParked) -> tuple[str, str]:
    return f"parked{_tries(fact.attempt)}: {fact.error}", "held"


def _cancel(fact: fx.CancelRequested) -> tuple[str, str]:
    forced = ", by force" if fact.force else ""
    return f"cancelling asked for{_by(fact.by)}{forced}{_why(fact.reason)}", ""


def _compensating(fact: fx.CompensationStarted) -> tuple[str, str]:
    doubt = f" (in doubt: {', '.join(fact.in_doubt)})" if fact.in_doubt else ""
    return f"compensating: {fact.cause}{doubt}", "bad"


def _undone(fact: fx.CompensationCompleted) -> tuple[str, str]:
    return f"undone{_tries(fact.attempt)}", "good"


def _undo_attempt_failed(fact: fx.CompensationAttemptFailed) -> tuple[str, str]:
    return f"undo: attempt {fact.attempt} {_how(fact)}, next {_in(fact)}: {fact.error}", "bad"


def _undo_failed(fact: fx.CompensationFailed) -> tuple[str, str]:
    return f"undo failed{_tries(fact.attempt)}, waits for an operator: {fact.error}", "held"


def _undo_skipped(fact: fx.CompensationSkipped) -> tuple[str, str]:
    return f"undo skipped{_by(fact.by)}{_why(fact.reason)}", ""


def _child_undo(fact: fx.ChildUndoRequested) -> tuple[str, str]:
    return "child saga asked to undo itself", ""


def _resumed(fact: fx.Resumed) -> tuple[str, str]:
    return f"resumed{_by(fact.by)}", ""


def _resolved(fact: fx.Resolved) -> tuple[str, str]:
    return f"resolved as {fact.outcome}{_by(fact.by)}{_why(fact.reason)}", ""


def _migrated(fact: fx.Migrated) -> tuple[str, str]:
    return f"moved to version {fact.version}{_by(fact.by)}", ""


def _ignored(fact: fx.Ignored) -> tuple[str, str]:
    return f"ignored {fact.act}: {fact.why}", ""


def _tries(attempt: int) -> str:
    return "" if attempt <= 1 else f" after {attempt} attempts"


def _how(fact: fx.AttemptFailed | fx.CompensationAttemptFailed) -> str:
    return "wasn't tried" if fact.rejected else "failed"


def _in(fact: fx.AttemptFailed | fx.CompensationAttemptFailed) -> str:
    return f"in {human(max(0.0, fact.retry_at - fact.at))}"


def _by(who: str) -> str:
    return f" by {who}" if who else ""


def _why(reason: str) -> str:
    return f": {reason}" if reason else ""


_TOLD: dict[type[fx.Fact], Callable[[Any], tuple[str, str]]] = {
    fx.Started: _started,
    fx.Begun: _begun,
    fx.StepCompleted: _completed,
    fx.AttemptFailed: _attempt_failed,
    fx.StepFailed: _failed,
    fx.StepSkipped: _skipped,
    fx.FannedOut: _fanned_out,
    fx.ChildStarted: _child,
    fx.SleepStarted: _sleep,
    fx.SignalReceived: _signal,
    fx.StepParked: _parked,
    fx.CancelRequested: _cancel,
    fx.CompensationStarted: _compensating,
    fx.CompensationCompleted: _undone,
    fx.CompensationAttemptFailed: _undo_attempt_failed,
    fx.CompensationFailed: _undo_failed,
    fx.CompensationSkipped: _undo_skipped,
    fx.ChildUndoRequested: _child_undo,
    fx.Resumed: _resumed,
    fx.Resolved: _resolved,
    fx.Migrated: _migrated,
    fx.Ignored: _ignored,
}
