"""What can happen to a saga, as the machine hears it."""

from __future__ import annotations

import msgspec

from standfast.errors import CorruptRecord
from standfast.saga.facts import EMPTY


class Event(msgspec.Struct):
    """Anything the machine can be told."""


class Mailed(Event):
    """An event that came by mail, so it may come at any time, also after the end."""


class Tick(Event):
    """Time passed, or the instance was just begun or loaded."""


class Died(Event):
    """The processes that ran it died, so many times in a row, before anything was done."""

    times: int


class Succeeded(Event):
    """An action returned."""

    branch: str
    result: msgspec.Raw = EMPTY


class Failed(Event):
    """An action raised. `refused`: it had no effect. Otherwise the outcome is unknown.

    `park`: it couldn't even be called, since what it would be given can't be read, and only an
    operator can mend that. `retry_after`: the participant asked for at least this many seconds
    before the next attempt. `rejected`: a policy inside didn't let it be tried, or
    the transaction that it is in was rolled back for another's sake.
    `traceback`: where it was raised, as text.
    """

    branch: str
    error: str
    refused: bool = False
    retriable: bool = True
    retry_after: float = 0.0
    rejected: bool = False
    traceback: str = ""
    park: bool = False


class Answered(Event):
    """The definition's answer: skip it, or these items, or sleep until then, or go ahead."""

    branch: str
    skip: bool = False
    items: list[msgspec.Raw] | None = None
    until: float | None = None


class Undone(Event):
    """A compensation returned (for a child: the request was sent)."""

    branch: str


class UndoFailed(Event):
    """A compensation raised. `retry_after`, `rejected`, `traceback`: as in `Failed`."""

    branch: str
    error: str
    retriable: bool = True
    retry_after: float = 0.0
    rejected: bool = False
    traceback: str = ""


class Signalled(Mailed):
    """A signal came in."""

    name: str
    payload: msgspec.Raw = EMPTY


class CancelAsked(Mailed):
    """Somebody wants it undone. `force`: also if the pivot is in doubt, taking it as not done."""

    reason: str = ""
    by: str = ""
    force: bool = False


class RetryAsked(Mailed):
    """Try what is parked again; `step` "" means all of it."""

    step: str = ""
    by: str = ""


class SkipAsked(Mailed):
    """Take what is parked as done."""

    step: str = ""
    reason: str = ""
    by: str = ""


class ResolveAsked(Mailed):
    """End it by hand, as "completed" or "compensated"."""

    outcome: str
    reason: str
    by: str = ""


class ChildFinished(Mailed):
    """A child saga ended. `undoable`: it could still undo itself if asked."""

    child: str
    outcome: str
    result: msgspec.Raw = EMPTY
    cause: str = ""
    undoable: bool = True


class UndoAsked(Mailed):
    """The parent saga wants this one undone, finished or not."""


class MigrateAsked(Mailed):
    """Move to another version of the definition.

    As mail it names the version; who reads the instance adds the rest. `problem`: why it can't.
    """

    version: int
    input: msgspec.Raw = EMPTY
    renamed: dict[str, str] = {}
    by: str = ""
    problem: str = ""


_MAIL: dict[str, type[Mailed]] = {
    "signal": Signalled,
    "cancel": CancelAsked,
    "retry": RetryAsked,
    "skip": SkipAsked,
    "resolve": ResolveAsked,
    "child_finished": ChildFinished,
    "undo": UndoAsked,
    "migrate": MigrateAsked,
}
_SUBJECTS = {event: subject for subject, event in _MAIL.items()}


def to_mail(event: Mailed) -> tuple[str, str]:
    """The subject and JSON body by which an event travels."""
    return _SUBJECTS[type(event)], msgspec.json.encode(event).decode()


def from_mail(subject: str, body: str) -> Mailed:
    """The event in a mail. Raises `CorruptRecord`."""
    try:
        return msgspec.json.decode(body, type=_MAIL[subject])
    except (KeyError, msgspec.MsgspecError, RecursionError) as error:
        raise CorruptRecord(f"mail about {subject!r} can't be read: {error}") from error
