"""A registered saga: its steps checked, and put into the shape that the machine knows."""

from __future__ import annotations

from typing import Any

import msgspec

from standfast.checks import flag, whole
from standfast.codec import JSON, Codec, is_loose
from standfast.durations import time_limit
from standfast.errors import (
    CodecError,
    ConfigurationError,
    DefinitionError,
    ResultUnavailable,
    Unreadable,
)
from standfast.saga.annotations import Annotations, class_of_input, told
from standfast.saga.blocking import AsyncFunction, Awaitables, Blocking
from standfast.saga.branch import UNSET, Branch
from standfast.saga.context import known
from standfast.saga.inheritance import RESERVED, steps_of
from standfast.saga.inspection import check_functions, check_parameters
from standfast.saga.misspelling import check_attributes
from standfast.saga.plan import Plan
from standfast.saga.read_back import difference, equality_tells
from standfast.saga.saga import Migration, Saga
from standfast.saga.sharing import Values, is_immutable
from standfast.saga.state import RESUME, SagaState
from standfast.saga.step import Step
from standfast.saga.step_checks import is_blocking
from standfast.saga.unknown_fields import unknown_field
from standfast.text import did_you_mean, is_storable, on_one_line, with_article

LONGEST_NAME = 200


class Definition:
    """A registered saga: its checked plan, and the code behind each step.

    `blocking` is where its ``def`` functions run; None for one that is only looked at. Raises
    `DefinitionError` if the saga can't be run.
    """

    def __init__(
        self, saga: Saga[Any], codec: Codec = JSON, blocking: Blocking | None = None
    ) -> None:
        if isinstance(saga, type):
            raise DefinitionError(f"add an instance, not the class: app.add({saga.__name__}(…))")
        given: object = saga
        if not isinstance(given, Saga):
            raise DefinitionError(f"{given!r} isn't a saga: give an instance of a Saga subclass")
        cls = type(saga)
        self.saga: Saga[Any] = saga
        self.codec: Codec = codec
        self.steps: dict[str, Step[Any, Any]] = steps_of(cls)
        self.name: str = _checked_name(cls)
        try:
            self.version: int = whole(cls.version, name="version")
            self.max_in_flight: int | None = cls.max_in_flight
            if self.max_in_flight is not None:
                whole(self.max_in_flight, name="max_in_flight", note=", or None")
            self.max_recoveries: int | None = cls.max_recoveries
            if self.max_recoveries is not None:
                whole(self.max_recoveries, name="max_recoveries", least=0, note=", or None")
            self.threads: int | None = cls.threads
            if self.threads is not None:
                whole(self.threads, name="threads", note=", or None")
            flag(cls.deadline_ends_parked, name="deadline_ends_parked")
        except ConfigurationError as error:
            raise DefinitionError(f"saga {self.name!r}: {error}") from error
        self._check_instance()
        check_attributes(cls, self.name, self.steps)
        for current in self.steps.values():
            check_parameters(current)
        self.plan: Plan = _plan(cls, self.name, self.steps)
        self._check_migrations()
        annotations = Annotations(cls, self.name)
        self.input_type: Any = annotations.input_type
        self.input_class: type | None = class_of_input(self.input_type)
        self.is_loose: bool = is_loose(self.input_type)
        """Whether inputs that mean the same may be encoded as different text."""
        self.equality_tells: bool = equality_tells(self.input_type)
        """Whether inputs that are equal surely mean the same."""
        self.shares_input: bool = is_immutable(self.input_type)
        """Whether all attempts may be given the same input: its type lets nobody change it."""
        self.result_types: dict[str, Any] = {
            step.name: annotations.result(step) for step in self.steps.values()
        }
        self.results_of: dict[str, Values] = {
            name: Values(annotation) for name, annotation in self.result_types.items()
        }
        self.item_types: dict[str, Any] = {
            step.name: annotations.item(step) for step in self.steps.values() if step.each
        }
        self.items_of: dict[str, Values] = {
            name: Values(annotation) for name, annotation in self.item_types.items()
        }
        self._check_types(annotations)
        self.actions: dict[str, AsyncFunction] = {}
        """What runs each step, by its name: it is awaited, whether it is a ``def`` or not."""
        self.undos: dict[str, AsyncFunction] = {}
        """What undoes it, if anything does."""
        self.blocking: set[str] = set()
        """The steps of which something runs in a thread: they, or their undos."""
        if blocking is not None:
            self._run_by(blocking.share(self.name, self.threads))

    def _run_by(self, share: Awaitables) -> None:
        for name, step in self.steps.items():
            for functions, function, options in (
                (self.actions, step.function, step.options),
                (self.undos, step.undo_function, step.undo_options),
            ):
                if function is None:
                    continue
                if is_blocking(function):
                    self.blocking.add(name)
                    transactional = bool(options.get("transactional"))
                    function = share.awaited(function, transactional=transactional)
                functions[name] = function

    def _check_instance(self) -> None:
        """An attribute of the instance would hide the step, or the option, of its name."""
        own = getattr(self.saga, "__dict__", {})
        for name in own.keys() & (self.steps.keys() | RESERVED):
            what = "the step" if name in self.steps else "the class's own, which is the one used"
            raise DefinitionError(
                f"saga {self.name!r}: self.{name} = … hides {what}: rename the attribute"
                + ("" if name in self.steps else f", or set {name} in the body of the class")
            )

    def _check_types(self, annotations: Annotations) -> None:
        codec = self.codec
        annotations.check_decodable(codec, self.input_type, "its input")
        for name, type in self.result_types.items():
            wait = self.steps[name].form == "wait"
            what = f"the payload of {name!r}" if wait else f"the result of step {name!r}"
            annotations.check_decodable(codec, type, what)
        for name, type in self.item_types.items():
            annotations.check_decodable(codec, type, f"an item of step {name!r}")
        for step in self.steps.values():
            annotations.check_input(step)
            annotations.check_transactions(step)

    def _check_migrations(self) -> None:
        migrations: object = self.saga.migrations
        if not isinstance(migrations, dict):
            raise DefinitionError(
                f"saga {self.name!r}: migrations={migrations!r}: give a dict by the version that "
                "they start from, such as {1: Migration()}"
            )
        for version, migration in migrations.items():
            where = f"saga {self.name!r}, migration from version {version!r}"
            if not isinstance(migration, Migration):
                raise DefinitionError(f"{where}: give a Migration(), not {migration!r}")
            if type(version) is not int or not 0 < version != self.version:
                raise DefinitionError(f"{where}: give the number of another version, 1 or more")
            for old, new in migration.renamed.items():
                if new not in self.steps:
                    raise DefinitionError(
                        f"{where}: {old!r} is renamed to {new!r}, which isn't a step: choose from "
                        f"{', '.join(self.steps)}"
                    )
                if old in self.steps:
                    raise DefinitionError(
                        f"{where}: {old!r} is renamed, but a step has that name: the keys of the "
                        "two would be taken for each other. Call the new step something else"
                    )

    @property
    def kind(self) -> tuple[str, str, int]:
        """(pattern, name, version), as stores know it."""
        return ("saga", self.name, self.version)

    def input(self, state: SagaState) -> Any:
        """The instance's input as its own type."""
        return self.codec.decode(state.started.input, self.input_type)

    def branch_result(self, branch: Branch) -> Any:
        """What a branch's action returned. Raises `ResultUnavailable`, `Unreadable`."""
        if not known(branch):
            raise ResultUnavailable(
                f"{self.name}: {branch.id!r} has no result: it is {branch.state}"
            )
        if branch.value is not UNSET:
            return branch.value
        if branch.fans_out:
            return [self.branch_result(item) for item in branch.children]
        assert branch.result is not None
        results = self.results_of[branch.step.name]
        try:
            value = self.codec.decode(branch.result, results.annotation)
        except CodecError as error:
            raise Unreadable(f"the result of {branch.id} can't be read: {error}") from error
        if results.is_immutable:
            branch.value = value
        return value

    def result(self, state: SagaState, name: str) -> Any:
        """A step's result by name. Raises `ResultUnavailable`."""
        branch = state.branches.get(name)
        if branch is None:
            unknown = f"isn't one of its steps{did_you_mean(name, self.steps)}"
            what = "hasn't begun" if name in self.steps else unknown
            raise ResultUnavailable(f"{self.name}: {name!r} has no result: it {what}")
        if branch.fans_out and branch.state == "completed":
            return [self.branch_result(item) for item in branch.children]
        return self.branch_result(branch)

    def results(self, state: SagaState) -> dict[str, Any]:
        """All results known, by step name."""
        found = {}
        for name in self.steps:
            try:
                found[name] = self.result(state, name)
            except ResultUnavailable:
                continue
        return found

    def check_signal(self, name: str, payload: Any) -> bytes:
        """Encode a signal's payload, checked against its wait's type.

        Raises `ConfigurationError` when no step waits for it, `CodecError`.
        """
        known = sorted({step.signal for step in self.plan.steps.values() if step.signal})
        if name not in known and name != RESUME:
            raise ConfigurationError(
                f"saga {self.name!r} version {self.version} waits for no signal {name!r}: "
                + (f"choose from {', '.join(known)}" if known else "it waits for none")
                + f" ({RESUME!r} goes on with what is parked)"
            )
        data = self.codec.encode(payload)
        for candidate in self.steps.values():
            if candidate.options.get("signal") == name:
                self._check_payload(name, self.result_types[candidate.name], payload, data)
        return data

    def _check_payload(self, name: str, type: Any, payload: Any, data: bytes) -> None:
        """Raise `CodecError` for a payload that a wait of that type doesn't take as it is."""
        signal = f"signal {name!r} of saga {self.name!r}"
        try:
            value = self.codec.decode(data, type)
        except CodecError as error:
            given = "none" if payload is None else on_one_line(data.decode(), 80)
            raise CodecError(
                f"{signal} takes {told(type)} as its payload, "
                f"and not {given} ({error.__cause__ or error})"
            ) from error
        try:
            if payload == self.codec.decode(data, Any):  # JSON itself, with which slips are made
                lost: object = unknown_field(type, data)
            else:
                lost = difference(value, payload, plain=True)
        except RecursionError as error:
            raise CodecError(f"the payload of {signal} is nested too deep") from error
        if lost:
            raise CodecError(f"the payload of {signal} {lost}")

    def misfit(self, step: str, payload: msgspec.Raw) -> str:
        """Why a wait can't take a payload; "" if it can.

        Who sent it may not know this code, or know another release of it.
        """
        type = self.result_types[step]
        if type is Any:
            return ""
        try:
            self.codec.decode(payload, type)
        except CodecError as error:
            cause = error.__cause__ or error
            return f"its payload isn't {with_article(told(type))}, which {step} waits for ({cause})"
        return ""


def _checked_name(cls: type[Saga[Any]]) -> str:
    name: object = cls.saga_name()
    if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and is_storable(name):
        return name
    shown = name[:40] if isinstance(name, str) else name
    raise DefinitionError(
        f"saga name {shown!r} can't be stored: give 1 to {LONGEST_NAME} characters, without NUL or "
        "lone surrogates"
    )


def _plan(cls: type[Saga[Any]], name: str, steps: dict[str, Step[Any, Any]]) -> Plan:
    before: str | None = None
    afters: dict[str, tuple[str, ...]] = {}
    for current in steps.values():
        after = current.options.get("after")
        names: tuple[str, ...]
        if after is None:
            names = () if before is None else (before,)
        else:
            given = list(after) if isinstance(after, (list, tuple, set, frozenset)) else [after]
            for one in given:
                if not isinstance(one, (str, Step)):
                    raise DefinitionError(
                        f"saga {name!r}, step {current.name!r} comes after {one!r}, which isn't a "
                        f"step of this saga: choose from {', '.join(steps)}"
                    )
            names = tuple(dict.fromkeys(s.name if isinstance(s, Step) else s for s in given))
        afters[current.name] = names
        before = current.name
    past = _past_pivot(steps, afters)
    plans = [s.plan(afters[s.name], past_pivot=s.name in past) for s in steps.values()]
    deadline = time_limit(cls.deadline, name=f"{name}.deadline")
    plan = Plan(name, cls.version, plans, deadline, deadline_ends_parked=cls.deadline_ends_parked)
    check_functions(plan, steps)
    return plan


def _past_pivot(steps: dict[str, Step[Any, Any]], afters: dict[str, tuple[str, ...]]) -> set[str]:
    """The steps behind the pivot, wherever they are defined."""
    later: dict[str, list[str]] = {}
    for name, befores in afters.items():
        for before in befores:
            later.setdefault(before, []).append(name)
    past: set[str] = set()
    ahead = [s.name for s in steps.values() if s.options.get("pivot")]
    while ahead:
        found = [name for name in later.get(ahead.pop(), ()) if name not in past]
        past.update(found)
        ahead.extend(found)
    return past
