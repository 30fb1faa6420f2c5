"""Scenarios: stories of a saga in text form, with what the machine decided in them.

A scenario is a text file of blocks. The lines above ``----`` are what happens, those below are what
the machine made of it: the facts it wants stored, with the time; then what ought to be done next;
then the status. The machine alone is played, without any of the saga's own code: what a step
returned is told by its line.

::

    saga place-order
    input {"id": "1"}
    ----
    do reserve
    = running

    reserve -> "r1"
    ----
    0s reserve completed "r1"
    do charge
    = running

What stands below the line is written by `check_scenario` with ``update=True``, and read by people:
the file is a golden record of every decision. The form is that of etcd-io/raft's testdata.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from standfast.durations import human
from standfast.errors import ConfigurationError, CorruptRecord
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine, Resolve, Run
from standfast.saga.plan import Plan
from standfast.saga.replay import replay
from standfast.saga.saga import Saga
from standfast.testing.scenario_text import (
    Act,
    Begin,
    Crash,
    Happen,
    Input,
    Pass,
    ScenarioError,
    parse,
)
from standfast.testing.simulation.invariants import difference
from standfast.testing.virtual import EPOCH
from standfast.testing.words import describe

RULE = "----"
_ID = UUID(int=1)


class ScenarioMismatch(AssertionError):
    """A saga decided otherwise than its scenario says. The message is a diff."""


def check_scenario(path: str | Path, *sagas: Saga[Any], update: bool = False) -> None:
    """Play the scenario in a file, and compare.

    `sagas` are those that it may name, several versions included. After each line the journal is
    encoded, decoded and folded anew, and must give the same state; and the whole is played once
    more with a crash after each line. With `update` the file is rewritten instead of compared.
    Raises `ScenarioMismatch`, and `ScenarioError` (a `ConfigurationError`) for a line that can't be
    read or can't happen.
    """
    given: object = path
    if not isinstance(given, (str, Path)):
        raise ScenarioError(f"check_scenario({given!r}, …): give the path of a file, then sagas")
    file = Path(path)
    try:
        written = file.read_text(encoding="utf-8-sig")
        played = play_scenario(written, *sagas)
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{file}: it isn't in UTF-8 ({error}): save it so") from error
    except ScenarioError as error:
        raise ScenarioError(f"{file}, {error}") from error
    if update:
        if played != written:
            file.write_text(played, encoding="utf-8")
        return
    was, now = _lines(written), _lines(played)
    if was != now:
        lines = difflib.unified_diff(was, now, "written", "played", lineterm="")
        raise ScenarioMismatch(
            f"{file} says otherwise than what the saga does. If it is right now, write it anew "
            "with update=True:\n" + "\n".join(lines)
        )


def play_scenario(text: str, *sagas: Saga[Any]) -> str:
    """The scenario with what the machine decides today below each line. Errors as above."""
    given: object = text
    if not isinstance(given, str):
        raise ScenarioError(f"play_scenario({given!r}, …): give the scenario's text, then sagas")
    plans = [Definition(saga).plan for saga in sagas]
    blocks = _read(text)
    player, crashing = Player(plans), Player(plans, crashing=True)
    out: list[str] = []
    for block in blocks:
        decided: list[str] = []
        for number, line in block.acts:
            try:
                act = parse(line)
                decided += player.play(act)
                crashing.play(act)
            except (ConfigurationError, msgspec.DecodeError, ValueError) as error:
                raise ScenarioError(f"line {number}: {error}") from error
        mine, its = player.decisions, crashing.decisions
        if mine != its:
            diff = "\n".join(difflib.unified_diff(mine, its, "no crash", "crashes", lineterm=""))
            raise ScenarioMismatch(
                f"with a crash after each line, the machine decides otherwise:\n{diff}"
            )
        out.append("\n".join([*block.lines, RULE, *decided, *player.outlook()]))
    return "\n\n".join(out) + "\n"


@dataclass(slots=True)
class Block:
    """Some lines as written, and the (line number, act) among them."""

    lines: list[str]
    acts: list[tuple[int, str]]


def _read(text: str) -> list[Block]:
    blocks: list[Block] = []
    lines: list[str] = []
    acts: list[tuple[int, str]] = []
    inside = False  # below the rule, where what was decided stands
    for number, line in enumerate(_lines(text), 1):
        bare = line.strip()
        if inside:
            inside = bool(bare)
        elif bare == RULE:
            blocks.append(Block(_trimmed(lines), acts))
            lines, acts, inside = [], [], True
        else:
            lines.append(line.rstrip())
            if bare and not bare.startswith("#"):
                acts.append((number, bare))
    if acts:
        blocks.append(Block(_trimmed(lines), acts))
    if not blocks:
        raise ScenarioError("line 1: nothing happens: begin with `saga NAME`")
    return blocks


def _lines(text: str) -> list[str]:
    """The lines, however the last one ends; other signs that may break lines stand in values."""
    return text.removesuffix("\n").split("\n")


def _trimmed(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").split("\n")


class Player:
    """Tells a machine what happens, and notes what it decides.

    `crashing`: after each line the machine is replaced by one folded from its journal, where that
    goes on with the same work.
    """

    def __init__(self, plans: Sequence[Plan], *, crashing: bool = False) -> None:
        self.plans = plans
        self.crashing = crashing
        self.plan: Plan | None = None
        self.begins_at: float | None = None
        self.now = EPOCH
        self.machine: Machine | None = None
        self.journal: list[str] = []
        self.busy: dict[str, str] = {}
        self.decisions: list[str] = []
        self._told: list[str] = []

    def play(self, act: Act) -> list[str]:
        """Let one thing happen; the facts decided, as lines."""
        self._told = []
        if isinstance(act, Begin):
            self.plan = self._plan(act.name, act.version)
            self.begins_at = None if act.after is None else self.now + act.after
        elif isinstance(act, Input):
            self._start(act.value)
        else:
            machine = self._running()
            if isinstance(act, Pass):
                self._pass(machine, act.seconds)
            elif isinstance(act, Crash):
                self._crash()
            else:
                self._happen(act)
        if self.machine is not None:
            self._go_on()
            if self.crashing:
                self._crash_if_harmless()
        return self._told

    def _crash_if_harmless(self) -> None:
        """Crash, unless the machine then (rightly) goes on with something else.

        An attempt in flight when compensation began is undone at once after a crash, instead of
        being awaited; a condition is asked again; and a step that was about to be asked may have
        run, for all that the journal says.
        """
        machine, busy = self.machine, dict(self.busy)
        assert machine is not None
        copy = self._crash()
        self._go_on()
        same = all(b.touched == copy.branches[b.id].touched for b in machine.open.values())
        if self.busy != busy or not same:
            self.machine, self.busy = machine, busy

    def outlook(self) -> list[str]:
        """What goes on, how it stands, and when time alone will change that."""
        machine = self.machine
        if machine is None:
            return ["= not begun: give it an input"]
        lines = [f"{what} {branch}" for branch, what in self.busy.items()]
        status: str = machine.status
        if machine.cause and status != "completed":
            status += f": {machine.cause}"
        wake_at = machine.wake_at()
        if wake_at is not None:
            status += f" (wakes at {human(wake_at - EPOCH)})"
        return [*lines, f"= {status}"]

    def _plan(self, name: str, version: int | None) -> Plan:
        found = [p for p in self.plans if p.name == name and version in (None, p.version)]
        if not found:
            known = ", ".join(f"{p.name} version {p.version}" for p in self.plans)
            raise ScenarioError(
                f"no saga {name!r} of version {version or 'any'}: there are {known}"
            )
        return max(found, key=lambda p: p.version)

    def _running(self) -> Machine:
        if self.machine is None:
            if self.plan is None:
                raise ScenarioError("begin with `saga NAME`")
            self._start(msgspec.Raw(b"null"))
            self._go_on()
        assert self.machine is not None
        return self.machine

    def _start(self, input: msgspec.Raw) -> None:
        if self.plan is None or self.machine is not None:
            raise ScenarioError("an input comes right after `saga NAME`")
        begins_at = self.now if self.begins_at is None else self.begins_at
        deadline = None if self.plan.deadline is None else begins_at + self.plan.deadline
        started = fx.Started(
            at=self.now,
            input=input,
            version=self.plan.version,
            key="scenario",
            correlation_id="scenario",
            deadline_at=deadline,
            begins_at=self.begins_at,
        )
        self.machine = Machine(_ID, self.plan)
        self.machine.apply(started)
        self.journal.append(fx.encode(started))

    def _pass(self, machine: Machine, seconds: float | None) -> None:
        if seconds is None:
            wake_at = machine.wake_at()
            if wake_at is None:
                raise ScenarioError("it never wakes by itself: only an event can move it")
            self.now = max(self.now, wake_at)
        else:
            self.now += seconds
        self._tell(ev.Tick())

    def _happen(self, act: Happen) -> None:
        if act.of:
            wanted = "undo" if act.undo else "ask" if isinstance(act.event, ev.Answered) else "do"
            going = self.busy.get(act.of)
            asked = going == "ask" and isinstance(act.event, ev.Failed)  # its `when` raised
            if going != wanted and not asked:
                known = ", ".join(f"{what} {branch}" for branch, what in self.busy.items())
                raise ScenarioError(f"`{wanted} {act.of}` isn't going on: {known or 'nothing is'}")
            del self.busy[act.of]
        self._tell(act.event)

    def _tell(self, event: ev.Event) -> None:
        machine = self.machine
        assert machine is not None
        if isinstance(event, ev.MigrateAsked):
            machine, event = self._moved(machine, event)
        facts = machine.handle(event, self.now)
        for fact in facts:
            text = fx.encode(fact)
            self.journal.append(text)
            decided = f"{human(self.now - EPOCH)} {describe(fact)}{_timer(fact)}"
            self._told.append(decided)
            self.decisions.append(decided)
        self.machine, self.plan = machine, machine.plan
        found = difference(machine, self._refold())
        if found:
            raise ScenarioMismatch(
                f"after {event}, the machine isn't what its journal says: {found}"
            )

    def _moved(self, machine: Machine, event: ev.MigrateAsked) -> tuple[Machine, ev.MigrateAsked]:
        """The machine of the other version, folded from the same journal, if it fits.

        As in `standfast.saga.move`: what is going on ends first.
        """
        if self.busy:
            going = ", ".join(f"{what} {branch}" for branch, what in self.busy.items())
            raise ScenarioError(f"an instance moves only when nothing is going on: {going}")
        other = Machine(_ID, self._plan(machine.plan.name, event.version))
        try:
            replay(other, self._facts(), renamed=event.renamed)
        except CorruptRecord as error:
            problem = f"it can't move to version {event.version}: {error}"
            return machine, ev.MigrateAsked(machine.plan.version, problem=problem)
        if not bytes(event.input):
            event.input = machine.started.input
        return other, event

    def _refold(self) -> Machine:
        assert self.plan is not None
        copy = Machine(_ID, self.plan)
        replay(copy, self._facts())
        return copy

    def _facts(self) -> list[fx.AnyFact]:
        return [fx.decode(text, number) for number, text in enumerate(self.journal)]

    def _crash(self) -> Machine:
        """What was going on is lost, and what it did isn't known."""
        self.busy.clear()
        self.machine = self._refold()
        return self.machine

    def _go_on(self) -> None:
        machine = self.machine
        assert machine is not None
        while commands := machine.commands(self.now):
            for command in commands:
                branch = command.branch.id
                if isinstance(command, Run):
                    self.busy[branch] = "do"
                elif isinstance(command, Resolve):
                    self.busy[branch] = "ask"
                elif command.branch.step.form == "child":
                    self._tell(ev.Undone(branch))  # to ask the child is all there is to do
                else:
                    self.busy[branch] = "undo"


def _timer(fact: fx.Fact) -> str:
    if isinstance(fact, fx.SleepStarted):
        return f", until {human(fact.until - EPOCH)}"
    retry_at = getattr(fact, "retry_at", None)
    return "" if retry_at is None else f", again at {human(retry_at - EPOCH)}"


__all__ = ["Player", "ScenarioError", "ScenarioMismatch", "check_scenario", "play_scenario"]
