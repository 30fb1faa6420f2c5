"""A registered saga: its steps checked, and put into the shape that the machine knows."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin, is_typeddict

from standfast.codec import JSON, Codec
from standfast.durations import seconds
from standfast.errors import (
    CodecError,
    ConfigurationError,
    DefinitionError,
    ResultUnavailable,
)
from standfast.saga.branch import UNSET, Branch
from standfast.saga.context import known
from standfast.saga.inspection import check_functions
from standfast.saga.plan import Plan
from standfast.saga.saga import Saga
from standfast.saga.state import RESUME, SagaState
from standfast.saga.steps import Step, check_parameters, item_type, result_type
from standfast.text import is_storable


class Definition:
    """A registered saga: its checked plan, and the code behind each step.

    Raises `DefinitionError` if the saga can't be run.
    """

    def __init__(self, saga: Saga[Any], codec: Codec = JSON) -> None:
        if isinstance(saga, type):
            raise DefinitionError(f"add an instance, not the class: app.add({saga.__name__}(…))")
        cls = type(saga)
        self.saga: Saga[Any] = saga
        self.codec: Codec = codec
        self.name: str = cls.saga_name()
        self.version: int = cls.version
        self.max_in_flight: int | None = cls.max_in_flight
        self.max_recoveries: int | None = cls.max_recoveries
        self.input_type: Any = input_type(cls)
        self.input_class: type | None = _class_of(self.input_type)
        if not self.name or len(self.name) > 200 or not is_storable(self.name):
            raise DefinitionError(
                f"saga name {self.name[:40]!r} can't be stored: give 1 to 200 characters, without "
                "NUL or lone surrogates"
            )
        version: object = self.version
        if not isinstance(version, int) or version < 1:
            raise DefinitionError(f"saga {self.name!r}: version={version!r} must be 1 or more")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise DefinitionError(
                f"saga {self.name!r}: max_in_flight={self.max_in_flight} must be 1 or more, or None"
            )
        bound: object = self.max_recoveries
        if bound is not None and (
            not isinstance(bound, int) or isinstance(bound, bool) or bound < 0
        ):
            raise DefinitionError(
                f"saga {self.name!r}: max_recoveries={bound!r} must be 0 or more, or None for no "
                "bound"
            )
        self.steps: dict[str, Step[Any, Any]] = steps_of(cls)
        for current in self.steps.values():
            check_parameters(current)
        self.plan: Plan = _plan(cls, self.name, self.steps)
        self._check_migrations()
        self.result_types: dict[str, Any] = {s.name: result_type(s) for s in self.steps.values()}
        self.item_types: dict[str, Any] = {
            s.name: item_type(s) for s in self.steps.values() if s.each
        }

    def _check_migrations(self) -> None:
        for version, migration in self.saga.migrations.items():
            where = f"saga {self.name!r}, migration from version {version}"
            if not 0 < version != self.version:
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
        """What a branch's action returned. Raises `ResultUnavailable`."""
        if not known(branch):
            raise ResultUnavailable(
                f"{self.name}: {branch.id} has no result (it is {branch.state}): ask "
                "ctx.has_result(step) first; an undo can go by ctx.branch_key alone"
            )
        if branch.value is UNSET:
            assert branch.result is not None
            type = self.result_types[branch.step.name]
            if branch.fans_out:
                branch.value = [self.branch_result(item) for item in branch.children]
            else:
                branch.value = self.codec.decode(branch.result, type)
        return branch.value

    def result(self, state: SagaState, name: str) -> Any:
        """A step's result by name. Raises `ResultUnavailable`."""
        branch = state.branches.get(name)
        if branch is None:
            what = "hasn't begun" if name in self.steps else "isn't one of its steps"
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
        known = {step.signal for step in self.plan.steps.values() if step.signal} | {RESUME}
        if name not in known:
            raise ConfigurationError(
                f"saga {self.name!r} version {self.version} waits for no signal {name!r}: choose "
                f"from {', '.join(sorted(known))}"
            )
        data = self.codec.encode(payload)
        for candidate in self.steps.values():
            if candidate.options.get("signal") == name:
                try:
                    self.codec.decode(data, self.result_types[candidate.name])
                except CodecError as error:
                    raise CodecError(f"signal {name!r} of saga {self.name!r}: {error}") from error
        return data


def input_type(cls: type[Saga[Any]]) -> Any:
    """The I of ``Saga[I]``, or Any."""
    for origin in cls.__mro__:
        for generic in getattr(origin, "__orig_bases__", ()):
            if get_origin(generic) is Saga:
                (found,) = get_args(generic)
                return Any if isinstance(found, TypeVar) else found
    return Any


def _class_of(expected: Any) -> type | None:
    """The type if ``isinstance`` can tell: it can't for TypedDicts and generic aliases."""
    if expected is Any or is_typeddict(expected) or not isinstance(expected, type):
        return None
    return expected


def steps_of(cls: type[Saga[Any]]) -> dict[str, Step[Any, Any]]:
    """The steps of a saga class in order of definition, inherited ones first."""
    found: dict[str, Step[Any, Any]] = {}
    for origin in reversed(cls.__mro__):
        found |= {name: step for name, step in vars(origin).items() if isinstance(step, Step)}
    return found


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
            names = tuple(dict.fromkeys(s.name if isinstance(s, Step) else s for s in given))
        afters[current.name] = names
        before = current.name
    past = _past_pivot(steps, afters)
    plans = [s.plan(afters[s.name], past_pivot=s.name in past) for s in steps.values()]
    deadline = None if cls.deadline is None else seconds(cls.deadline, name=f"{name}.deadline")
    plan = Plan(name, cls.version, plans, deadline)
    check_functions(plan, steps)
    return plan


def _past_pivot(steps: dict[str, Step[Any, Any]], afters: dict[str, tuple[str, ...]]) -> set[str]:
    """The steps behind the pivot, wherever they are defined."""
    pivots = {s.name for s in steps.values() if s.options.get("pivot")}
    past: set[str] = set()
    grown = True
    while grown:
        more = {n for n, names in afters.items() if not (past | pivots).isdisjoint(names)}
        grown, past = more != past, more
    return past
