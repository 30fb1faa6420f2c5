"""What a journal's facts say, in words: for the stories of simulations and scenarios."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from standfast.saga import facts as fx


def describe(fact: fx.Fact) -> str:
    """A fact in words: ``charge completed "c1"``, ``compensation began: charge refused``, …"""
    words = _WORDS.get(type(fact))
    return words(fact) if words is not None else type(fact).__name__


def _json(value: msgspec.Raw) -> str:
    text = bytes(value).decode()
    return "" if text == "null" else f" {text}"


def _because(text: str, mark: str = ": ") -> str:
    return f"{mark}{text}" if text else ""


def _failed(fact: fx.StepFailed) -> str:
    return f"{fact.branch} failed{', without effect' if fact.refused else ''}: {fact.error}"


def _again(what: str, fact: fx.AttemptFailed | fx.CompensationAttemptFailed) -> str:
    return f"{what} attempt {fact.attempt} failed: {fact.error}"


def _cancel(fact: fx.CancelRequested) -> str:
    return f"cancel requested{' by force' if fact.force else ''}{_because(fact.reason)}"


def _began(fact: fx.CompensationStarted) -> str:
    doubt = f" (in doubt: {', '.join(fact.in_doubt)})" if fact.in_doubt else ""
    return f"compensation began: {fact.cause}{doubt}"


def _fanned(fact: fx.FannedOut) -> str:
    return f"{fact.branch} has {len(fact.items)} item{'' if len(fact.items) == 1 else 's'}"


def _migrated(fact: fx.Migrated) -> str:
    names = ", ".join(f"{old} is {new}" for old, new in fact.renamed.items())
    return f"migrated to version {fact.version}{_because(names)}"


_WORDS: dict[type[fx.Fact], Callable[[Any], str]] = {
    fx.Started: lambda f: f"started with{_json(f.input) or ' nothing'}",
    fx.Begun: lambda f: "began",
    fx.StepCompleted: lambda f: f"{f.branch} completed{_json(f.result)}",
    fx.AttemptFailed: lambda f: _again(f.branch, f),
    fx.StepFailed: _failed,
    fx.StepSkipped: lambda f: f"{f.branch} skipped{_because(f.reason)}",
    fx.FannedOut: _fanned,
    fx.ChildStarted: lambda f: f"{f.branch} started its child saga",
    fx.SleepStarted: lambda f: f"{f.branch} sleeps",
    fx.SignalReceived: lambda f: f"signal {f.name} received{_json(f.payload)}",
    fx.StepParked: lambda f: f"{f.branch} parked: {f.error}",
    fx.CancelRequested: _cancel,
    fx.CompensationStarted: _began,
    fx.CompensationCompleted: lambda f: f"{f.branch} undone",
    fx.CompensationAttemptFailed: lambda f: _again(f"undo of {f.branch}:", f),
    fx.CompensationFailed: lambda f: f"undo of {f.branch} parked: {f.error}",
    fx.CompensationSkipped: lambda f: f"undo of {f.branch} skipped: {f.reason}",
    fx.ChildUndoRequested: lambda f: f"{f.branch} asked its child saga to undo itself",
    fx.Resumed: lambda f: f"{f.branch} resumed",
    fx.Resolved: lambda f: f"resolved by hand as {f.outcome}: {f.reason}",
    fx.Migrated: _migrated,
    fx.Ignored: lambda f: f"ignored: {f.act}, for {f.why}",
}
