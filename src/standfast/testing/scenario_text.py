"""The language of scenarios: one line is one thing that happens to a saga."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from standfast.durations import seconds
from standfast.errors import ConfigurationError
from standfast.saga import events as ev
from standfast.testing.virtual import EPOCH

_NULL = msgspec.Raw(b"null")


class ScenarioError(ConfigurationError):
    """A scenario can't be read or played. The message names the line and the remedy."""


@dataclass(frozen=True, slots=True)
class Begin:
    """``saga NAME [version N] [after 3d]``: the saga that this is about, and how long from now it
    begins.
    """

    name: str
    version: int | None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """``input JSON``."""

    value: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Pass:
    """``wait 5s``, or ``wake``: time passes, so many seconds or until the next timer."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Crash:
    """``crash``: the process dies, and another reads the journal."""


@dataclass(frozen=True, slots=True)
class Happen:
    """Anything that the machine is told. `of` is the branch whose attempt this ends."""

    event: ev.Event
    of: str = ""
    undo: bool = False


Act = Begin | Input | Pass | Crash | Happen

_OUTCOME = re.compile(r"(undo\s+|child\s+)?(\S+)\s*->\s*(.*)")
_WORDS = """\
saga NAME [version N] [after DURATION] · input JSON
STEP -> JSON · STEP -> done|timeout|refused|error|fatal|busy … · STEP -> skip · STEP -> go
STEP -> items JSON · STEP -> until DURATION · undo STEP -> done|timeout|error|fatal …
child STEP -> completed JSON|completed for good JSON|compensated CAUSE · signal NAME [JSON]
cancel [REASON] · cancel by force [REASON] · retry [STEP] · skip [STEP]: REASON · resume
resolve completed|compensated: REASON · parent undoes · migrate to N [input JSON] [A=B …]
wait DURATION · wake · crash"""


def parse(line: str) -> Act:
    """The act that a line describes. Raises `ScenarioError`."""
    found = _OUTCOME.fullmatch(line)
    if found:
        kind, branch, rest = (found[1] or "").strip(), found[2], found[3].strip()
        if kind == "undo":
            return Happen(_undone(branch, rest, line), branch, True)
        if kind == "child":
            return Happen(_child(branch, rest, line))
        return Happen(_ended(branch, rest, line), branch)
    word, _, rest = line.partition(" ")
    rest = rest.strip()
    if word == "saga" and rest:
        rest, _, after = rest.partition(" after ")
        name, _, version = rest.partition(" version ")
        delay = seconds(after, name="after") if after else None
        return Begin(name.strip(), int(version) if version else None, delay)
    if word == "input":
        return Input(_json(rest, line))
    if word == "wait":
        return Pass(seconds(rest, name="wait"))
    if line == "wake":
        return Pass(None)
    if line == "crash":
        return Crash()
    return Happen(_asked(word, rest, line))


def _unknown(line: str) -> ScenarioError:
    return ScenarioError(f"{line!r} isn't understood; a line is one of:\n{_WORDS}")


def _json(text: str, line: str) -> msgspec.Raw:
    try:
        msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        raise ScenarioError(f"{line!r}: {text!r} isn't JSON ({error})") from error
    return msgspec.Raw(text.encode())


def _ended(branch: str, rest: str, line: str) -> ev.Event:
    word, _, text = rest.partition(" ")
    text = text.strip()
    if word == "done":
        return ev.Succeeded(branch, _NULL)
    if word == "timeout":
        return ev.Failed(branch, "timed out: the outcome is unknown")
    if word == "refused":
        return ev.Failed(branch, text or "refused", refused=True)
    if word in ("error", "fatal"):
        return ev.Failed(branch, text or word, retriable=word == "error")
    if word == "busy":
        return ev.Failed(branch, "busy", retry_after=seconds(text, name="busy"))
    if word in ("skip", "go"):
        return ev.Answered(branch, skip=word == "skip")
    if word == "items":
        items = msgspec.json.decode(_json(text, line), type=list[msgspec.Raw])
        return ev.Answered(branch, items=[msgspec.Raw(bytes(item)) for item in items])
    if word == "until":
        return ev.Answered(branch, until=EPOCH + seconds(text, name="until", positive=False))
    return ev.Succeeded(branch, _json(rest, line))


def _undone(branch: str, rest: str, line: str) -> ev.Event:
    word, _, text = rest.partition(" ")
    if word == "done":
        return ev.Undone(branch)
    if word == "timeout":
        return ev.UndoFailed(branch, "timed out: the outcome is unknown")
    if word in ("error", "fatal"):
        return ev.UndoFailed(branch, text.strip() or word, word == "error")
    raise _unknown(line)


def _child(branch: str, rest: str, line: str) -> ev.Event:
    word, _, text = rest.partition(" ")
    text = text.strip()
    if word == "compensated":
        return ev.ChildFinished(branch, "compensated", cause=text)
    if word != "completed":
        raise _unknown(line)
    undoable = not text.startswith("for good")
    text = text.removeprefix("for good").strip()
    result = _json(text, line) if text else _NULL
    return ev.ChildFinished(branch, "completed", result, undoable=undoable)


def _asked(word: str, rest: str, line: str) -> ev.Event:
    if word == "signal" and rest:
        name, _, payload = rest.partition(" ")
        return ev.Signalled(name, _json(payload, line) if payload else _NULL)
    if line == "resume":
        return ev.Signalled("resume")
    if word == "cancel":
        force = rest.startswith("by force")
        return ev.CancelAsked(rest.removeprefix("by force").strip(), force=force)
    if word == "retry":
        return ev.RetryAsked(rest)
    if word == "skip" and ":" in rest:
        step, _, reason = rest.partition(":")
        return ev.SkipAsked(step.strip(), reason.strip())
    if word == "resolve" and ":" in rest:
        outcome, _, reason = rest.partition(":")
        if outcome.strip() in ("completed", "compensated"):
            return ev.ResolveAsked(outcome.strip(), reason.strip())
    if line == "parent undoes":
        return ev.UndoAsked()
    found = re.fullmatch(r"to (\d+)(?: input (\{.*\}|\[.*\]|\S+))?((?: \S+=\S+)*)", rest)
    if word == "migrate" and found:
        renamed = dict(pair.split("=", 1) for pair in found[3].split())
        given = _json(found[2], line) if found[2] else msgspec.Raw()
        return ev.MigrateAsked(int(found[1]), given, renamed)
    raise _unknown(line)
