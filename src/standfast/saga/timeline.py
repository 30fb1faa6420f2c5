"""The timeline of an instance: what happened, entry by entry, and what goes on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast
from uuid import UUID

import msgspec

from standfast.durations import human
from standfast.saga import facts as fx
from standfast.saga.pending import Pending, plain
from standfast.saga.status import Status
from standfast.text import on_one_line

SHORT = 60
"""How many characters of a value are shown."""

Mood: TypeAlias = Literal["", "good", "bad", "held"]
"""How an entry is meant: "held" waits for somebody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that happened to an instance.

    `at` is in seconds since the epoch, `after` in seconds since the start. `kind` is a word such as
    ``"step_completed"`` (all of them: the `kind` of the facts in an exported journal), `branch` the
    step (``"charge"``), or the item of one that fans out (``"pack[3]"``), and "" where it is about
    the whole. `text` tells it on one line. The others are set where the kind has them: the number
    of the `attempt`, its `error`, when the next is due (`retry_at`, seconds since the epoch), who
    asked (`by`) and why (`reason`), the id of a `child` saga, and the `value`: an input, a result,
    a signal's payload or the items, as plain JSON values, and the `traceback` of the error, where
    it isn't that of the one before.
    """

    at: float
    after: float
    kind: str
    branch: str = ""
    text: str = ""
    mood: Mood = ""
    attempt: int | None = None
    error: str = ""
    retry_at: float | None = None
    by: str = ""
    reason: str = ""
    child: UUID | None = None
    value: Any = None
    traceback: str = ""

    def as_json(self) -> dict[str, Any]:
        """The entry as plain JSON values, without what is empty."""
        return plain(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """All that happened to one instance, in order, and what it does or waits for now.

    A picture of one moment: it doesn't change by itself. ``str(timeline)`` are the lines that
    ``standfast sagas show`` prints. `problem` says, where the code at hand can't read all of it,
    why; then `entries` are those before the damage, and `pending` is empty. `read_at` is that
    moment, in seconds since the epoch by the app's clock.
    """

    id: UUID
    saga: str
    version: int
    key: str
    status: Status
    entries: Sequence[Entry]
    pending: Sequence[Pending] = ()
    problem: str = ""
    read_at: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The timeline as plain JSON values; what an entry doesn't have is left out of it."""
        return {
            "id": str(self.id),
            "saga": self.saga,
            "version": self.version,
            "key": self.key,
            "status": self.status,
            "entries": [entry.as_json() for entry in self.entries],
            "pending": [one.as_json() for one in self.pending],
            "problem": self.problem,
        }

    def __str__(self) -> str:
        return as_text(self.entries)


def entries(facts: Iterable[fx.AnyFact]) -> list[Entry]:
    """The entries of a journal, in its order."""
    out: list[Entry] = []
    for fact in facts:
        text, mood = _TOLD[type(fact)](fact)
        out.append(
            Entry(
                at=fact.at,
                after=fact.at - (out[0].at if out else fact.at),
                kind=cast(str, fact.__struct_config__.tag),
                branch=getattr(fact, "branch", ""),
                text=on_one_line(text),
                mood=cast(Mood, mood),
                attempt=getattr(fact, "attempt", None),
                error=getattr(fact, "error", ""),
                retry_at=getattr(fact, "retry_at", None),
                by=getattr(fact, "by", ""),
                reason=getattr(fact, "reason", ""),
                child=getattr(fact, "child", None),
                value=_value(fact),
                traceback=getattr(fact, "traceback", ""),
            )
        )
    return out


def _value(fact: fx.AnyFact) -> Any:
    if isinstance(fact, fx.FannedOut):
        return [msgspec.json.decode(item) for item in fact.items]
    for name in ("input", "result", "payload"):
        data = getattr(fact, name, None)
        if data is not None:
            return msgspec.json.decode(data)
    return None


def as_text(entries: Sequence[Entry]) -> str:
    """The entries as aligned plain text, one line each."""
    subjects = [on_one_line(entry.branch) for entry in entries]
    times = [since_start(entry) for entry in entries]
    left, width = max([9, *map(len, times)]), max(map(len, subjects), default=0)
    return "".join(
        f"{time:>{left}}  {subject:<{width}}  {entry.text}\n"
        for time, subject, entry in zip(times, subjects, entries, strict=True)
    )


def since_start(entry: Entry) -> str:
    """When it happened, as ``"+1m30s"`` after the start."""
    return f"+{human(max(0.0, entry.after))}"


def short(value: msgspec.Raw | str, limit: int = SHORT) -> str:
    """A value's JSON on one line, cut where it is long."""
    text = value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
    return on_one_line(text, limit)


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
    text = f"resolved as {fact.outcome}{_by(fact.by)}{_why(fact.reason)}"
    return f"{text} ({go_on(fact.children)})" if fact.children else text, ""


def go_on(children: Sequence[UUID]) -> str:
    """That child sagas go on though their parent was ended by hand."""
    named = ", ".join(map(str, children[:3])) + (", …" if len(children) > 3 else "")
    one = len(children) == 1
    sagas = "1 child saga goes on" if one else f"{len(children)} child sagas go on"
    return f"{sagas} all the same: {named}; cancel or resolve {'it' if one else 'them'} as well"


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
