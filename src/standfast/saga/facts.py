"""The facts of a saga's journal: one small record per thing that happened, stored as JSON.

A journal is read back by decoding its rows to these types and folding them, so a field may be added
with a default, but never renamed or removed. Times (`at`, `retry_at`, …) are wall-clock seconds
since the Unix epoch. `branch` names one lane of execution: a step (``"reserve"``) or one item of a
step that fans out (``"pack[3]"``). `traceback` tells where an error was raised, cut where it is
long; it is "" where there is none, or where the error is the same as that of the attempt before.
"""

from __future__ import annotations

from typing import TypeAlias
from uuid import UUID

import msgspec

from standfast.errors import CorruptRecord

EMPTY = msgspec.Raw(b"null")


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """Something that happened, at a time."""

    at: float


class Started(Fact, frozen=True, tag="started"):
    """The instance was started, with this input. Always fact 0.

    `begins_at`: when its first steps may run, None for at once.
    """

    input: msgspec.Raw
    version: int
    key: str
    correlation_id: str
    deadline_at: float | None = None
    trace: dict[str, str] = {}
    parent: UUID | None = None
    parent_branch: str = ""
    begins_at: float | None = None

    @property
    def due_at(self) -> float:
        """From when its deadline and its duration count."""
        return self.at if self.begins_at is None else self.begins_at


class Begun(Fact, frozen=True, tag="begun"):
    """The time has come for an instance whose start was delayed."""


class StepCompleted(Fact, frozen=True, tag="step_completed"):
    """A branch's action succeeded (or its wait, or its child saga, ended well)."""

    branch: str
    result: msgspec.Raw = EMPTY
    attempt: int = 1


class AttemptFailed(Fact, frozen=True, tag="attempt_failed"):
    """An attempt failed, or its outcome is unknown; the next is due at `retry_at`.

    `rejected`: a policy didn't let it be tried, or the transaction that it was in was rolled back
    for another's sake, so that it costs none of the step's attempts.
    """

    branch: str
    attempt: int
    error: str
    retry_at: float
    since: float
    delay: float = 0.0
    rejected: bool = False
    traceback: str = ""


class StepFailed(Fact, frozen=True, tag="step_failed"):
    """A branch is given up. `refused`: it is known to have had no effect."""

    branch: str
    error: str
    attempt: int = 1
    refused: bool = False
    traceback: str = ""


class StepSkipped(Fact, frozen=True, tag="step_skipped"):
    """A branch counts as done without having run: its condition, or an operator with a `reason`."""

    branch: str
    reason: str = ""
    by: str = ""


class FannedOut(Fact, frozen=True, tag="fanned_out"):
    """A step's items are fixed: one branch each."""

    branch: str
    items: list[msgspec.Raw]


class ChildStarted(Fact, frozen=True, tag="child_started"):
    """A child saga was started, in the same commit."""

    branch: str
    child: UUID


class SleepStarted(Fact, frozen=True, tag="sleep_started"):
    """A step sleeps, until that time at least."""

    branch: str
    until: float


class SignalReceived(Fact, frozen=True, tag="signal_received"):
    """A signal came in; a wait step takes the first of its name."""

    name: str
    payload: msgspec.Raw = EMPTY


class StepParked(Fact, frozen=True, tag="step_parked"):
    """A branch waits for an operator or a ``resume`` signal. Its outcome is unknown."""

    branch: str
    error: str
    attempt: int = 1
    traceback: str = ""


class CancelRequested(Fact, frozen=True, tag="cancel_requested"):
    """Somebody asked to cancel."""

    reason: str = ""
    by: str = ""
    force: bool = False


class CompensationStarted(Fact, frozen=True, tag="compensation_started"):
    """From here on, backwards. `in_doubt`: unfinished branches that may have had an effect."""

    cause: str
    step: str = ""
    in_doubt: list[str] = []


class CompensationCompleted(Fact, frozen=True, tag="compensation_completed"):
    """A branch is undone."""

    branch: str
    attempt: int = 1


class CompensationAttemptFailed(Fact, frozen=True, tag="compensation_attempt_failed"):
    """An attempt to undo failed; the next is due at `retry_at`. `rejected`: it wasn't tried."""

    branch: str
    attempt: int
    error: str
    retry_at: float
    since: float
    delay: float = 0.0
    rejected: bool = False
    traceback: str = ""


class CompensationFailed(Fact, frozen=True, tag="compensation_failed"):
    """The undo of a branch is exhausted: it waits for an operator."""

    branch: str
    error: str
    attempt: int = 1
    traceback: str = ""


class CompensationSkipped(Fact, frozen=True, tag="compensation_skipped"):
    """An operator declared a branch's undo unnecessary, or done by hand."""

    branch: str
    reason: str
    by: str = ""


class ChildUndoRequested(Fact, frozen=True, tag="child_undo_requested"):
    """A child saga was asked, in the same commit, to undo itself."""

    branch: str


class Resumed(Fact, frozen=True, tag="resumed"):
    """A parked branch, or its exhausted undo, may be tried again with a fresh retry budget."""

    branch: str
    by: str = ""


class Resolved(Fact, frozen=True, tag="resolved"):
    """An operator ended the saga by hand. `children`: its child sagas that go on all the same."""

    outcome: str
    reason: str
    by: str = ""
    children: list[UUID] = []


class Migrated(Fact, frozen=True, tag="migrated"):
    """The instance moved to another version of its definition, with this input from now on."""

    version: int
    input: msgspec.Raw
    renamed: dict[str, str] = {}
    by: str = ""


class Ignored(Fact, frozen=True, tag="ignored"):
    """A request came in that can't apply, or not any more, and why.

    `signal`: the name of one that had been received, and that no wait takes: the oldest such.
    """

    act: str
    why: str
    signal: str = ""


AnyFact: TypeAlias = (
    Started
    | Begun
    | StepCompleted
    | AttemptFailed
    | StepFailed
    | StepSkipped
    | FannedOut
    | ChildStarted
    | SleepStarted
    | SignalReceived
    | StepParked
    | CancelRequested
    | CompensationStarted
    | CompensationCompleted
    | CompensationAttemptFailed
    | CompensationFailed
    | CompensationSkipped
    | ChildUndoRequested
    | Resumed
    | Resolved
    | Migrated
    | Ignored
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyFact] = msgspec.json.Decoder(AnyFact)


def by_hand(reason: str) -> str:
    """The cause of what an operator ended."""
    return f"resolved by hand: {reason}"


def encode(fact: Fact) -> str:
    """The fact as JSON text."""
    return _encoder.encode(fact).decode()


def decode(text: str, number: int) -> AnyFact:
    """The fact in row `number` of a journal. Raises `CorruptRecord`, which names the row."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptRecord(
            f"journal row {number} can't be read ({error}): repair the row or export the "
            "instance, then `standfast sagas retry`"
        ) from error
