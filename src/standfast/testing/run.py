"""`run_saga`: one run of a saga in memory and in virtual time, for unit tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from standfast.durations import Duration
from standfast.errors import ConfigurationError, ResultUnavailable
from standfast.saga.saga import Saga
from standfast.saga.step import Step, name_of
from standfast.testing.simulation.call import Call, without_items
from standfast.testing.simulation.chance import Faults
from standfast.testing.simulation.given import Raises, errors_of
from standfast.testing.simulation.simulate import InvariantViolated, Simulation, alone, listed

R = TypeVar("R")


@dataclass(slots=True)
class SagaRun:
    """What came of `run_saga`.

    `status` is one of `standfast.saga.STATUSES`; `cause` says why it failed or parked. `results`
    are by step name; ``run[PlaceOrder.ship]`` is typed, and ``run["ship"]`` the same without it;
    ``PlaceOrder.ship in run`` tells whether there is one. `calls` are all calls that were made, and
    `trace` is the same in words: ``["reserve", "charge refused", "undo reserve"]``. `time` is how
    long it took, in virtual seconds. `story` tells it all, a line for each thing that happened.
    """

    status: str
    cause: str
    results: dict[str, Any]
    calls: list[Call]
    time: float
    story: str

    @overload
    def __getitem__(self, step: Step[Any, R], /) -> R: ...
    @overload
    def __getitem__(self, step: str, /) -> Any: ...
    def __getitem__(self, step: Step[Any, Any] | str, /) -> Any:
        name = name_of(step)
        if name not in self.results:
            raise ResultUnavailable(
                f"{name!r} has no result: the saga is {self.status}, and there are those of "
                f"{', '.join(self.results) or 'none'}"
            )
        return self.results[name]

    def __contains__(self, step: Step[Any, Any] | str, /) -> bool:
        """Whether the step has a result."""
        return name_of(step) in self.results

    if not TYPE_CHECKING:  # they see for themselves that it can't be iterated over

        def __iter__(self):
            # Else Python would ask for the results of 0, 1, …
            raise TypeError("a SagaRun can't be iterated over: write run.results")

    @property
    def trace(self) -> list[str]:
        """The calls in order: ``"charge"``, ``"charge refused"``, ``"charge failed"``, …"""
        words: list[str] = []
        for call in self.calls:
            undo = "undo " if call.operation == "compensation" else ""
            how = {"done": "", "refused": " refused", "cut off": " cut off"}
            words.append(f"{undo}{call.branch}{how.get(call.ended, ' failed')}")
        return words


def run_saga(
    saga: Saga[Any] | Sequence[Saga[Any]],
    input: Any = None,
    *,
    raises: Mapping[str, Raises] | None = None,
    signals: Mapping[str, Any] | None = None,
    schema: str = "",
    after: Duration | None = None,
) -> SagaRun:
    """Run a saga until it is at rest, with the real engine in memory and in virtual time.

    ::

        run = run_saga(PlaceOrder(…), order, raises={"charge": Refused("no funds")})
        assert run.status == "compensated"
        assert run.trace == ["reserve", "charge refused", "undo reserve"]

    `saga` is used as it is, with its fakes; a sequence has the sagas that it starts too, as
    its children or through ``tx.start``.
    `raises` makes calls fail instead of being made, by step (``"charge"``, ``"pack[2]"``) or
    compensation (``"undo charge"``): an exception for the first call, a sequence for the first few,
    a class for all of them. `signals` are sent soon after they are waited for; one that isn't given
    never comes, so that its wait times out, or the saga stays ``"waiting"``. Nobody resumes what is
    parked. `schema` makes tables for transactional steps (SQLite, in memory; a UUID, Decimal, date
    or time is taken and given back as on PostgreSQL). `after` starts it with a delay. Virtual
    time begins with the year 2000, and jumps over whatever sleeps.

    Raises `InvariantViolated` for what `simulate` would always complain about, and
    `ConfigurationError` for wrong names, real I/O, and inside a running event loop.
    """
    sagas = listed(saga)
    if sagas is None:
        raise ConfigurationError(
            f"run_saga({saga!r}): give an instance of a Saga subclass (a sequence if it starts "
            "child sagas, itself first)"
        )
    simulation = _Once(lambda: sagas, input, signals=signals, faults=Faults.none(), schema=schema)
    known = simulation.names()
    told: dict[str, Sequence[BaseException] | type[BaseException]] = {}
    for name, what in (raises or {}).items():
        given: object = name
        if not isinstance(given, str) or without_items(given) not in known:
            raise ConfigurationError(f"raises={name!r}: give one of {', '.join(sorted(known))}")
        told[name] = errors_of(name, what)
    simulation.rules = replace(simulation.rules, raises=told, operated=False, after=after)
    with alone():
        outcome = simulation.play(0, tell=True)
    story = "\n".join(f"{at:>9.2f}s  {text}" for at, text in outcome.story)
    world = outcome.world
    if outcome.violation is not None:
        raise InvariantViolated(
            f"{simulation.name}: {outcome.violation}\n\n{story}", seed=0, story=story, world=world
        )
    return SagaRun(world.status, world.cause, world.results, world.calls, world.time, story)


class _Once(Simulation):
    """Only the signals that are given come."""

    asked = "run_saga"

    def _payloads(self, signals: Mapping[str, Any]) -> dict[str, bytes]:
        waits = {
            step.signal: definition
            for definition in self.definitions.by_class.values()
            for step in definition.plan.steps.values()
            if step.form == "wait"
        }
        unknown = sorted(signals.keys() - waits.keys(), key=str)
        if unknown:
            raise ConfigurationError(f"signals={unknown}: it waits for {sorted(waits) or 'none'}")
        return {name: waits[name].check_signal(name, value) for name, value in signals.items()}

    def names(self) -> set[str]:
        """The steps and compensations that can be called."""
        names: set[str] = set()
        definitions = list(self.definitions.by_class.values())
        labels = [""]
        for definition in definitions[:1]:
            labels += [f"{s.name}/" for s in definition.steps.values() if s.form == "child"]
        labels += [f"{definition.name}/" for definition in definitions[1:]]
        for definition in definitions:
            for step in definition.steps.values():
                for label in labels:
                    if step.function is not None:
                        names.add(label + step.name)
                    if step.undo_function is not None:
                        names.add(f"undo {label}{step.name}")
        return names
