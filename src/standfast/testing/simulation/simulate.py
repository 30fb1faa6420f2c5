"""`simulate`: runs seeds, and shrinks the first that fails to the few faults that matter."""

from __future__ import annotations

import asyncio
import copy
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar

from standfast.checks import is_async, plain_answer, whole
from standfast.durations import Duration
from standfast.errors import ConfigurationError, StandfastError
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.saga import Saga
from standfast.testing.simulation.call import without_items
from standfast.testing.simulation.calls import Stage, wrap
from standfast.testing.simulation.chance import Chance, Faults
from standfast.testing.simulation.given import plain_function, plain_functions, seeds_of
from standfast.testing.simulation.invariants import World
from standfast.testing.simulation.play import Play, Played
from standfast.testing.simulation.process import SimulatedDefinitions
from standfast.testing.simulation.report import SimulationReport
from standfast.testing.simulation.scene import Check, Rules
from standfast.testing.simulation.session import session

Sagas = Saga[Any] | Sequence[Saga[Any]]
SHRINKS = 400
QUIET = ("standfast.saga", "standfast.coordination", "standfast.coordination.worker")


class InvariantViolated(StandfastError, AssertionError):
    """A simulated saga did what it must not.

    `seed` is the run's, and `story` tells it, shrunk to the faults that matter, a line for each
    thing that happened. `world` is the world at its end.
    """

    def __init__(self, message: str, *, seed: int, story: str, world: World) -> None:
        super().__init__(message)
        self.seed = seed
        self.story = story
        self.world = world


def simulate(
    saga: Sagas | Callable[[], Sagas],
    input: Any = None,
    *,
    seeds: int | Iterable[int] = 10_000,
    seed: int | None = None,
    invariants: Check | Sequence[Check] = (),
    always: Check | Sequence[Check] = (),
    signals: Mapping[str, Any] | None = None,
    faults: Faults | None = None,
    schema: str = "",
    after: Duration | None = None,
    progress: Callable[[SimulationReport], None] | None = None,
) -> SimulationReport:
    """Run a saga many times in virtual time, each time with other faults, and check it.

    What runs is the real engine and your saga's own methods, on the fakes that you give it. A
    worker is killed at commits and within steps and goes on from its journal, requests and answers
    are lost, late or doubled, steps time out and refuse, undos fail, people cancel, send signals at
    bad moments and skip what is parked; `Faults` tells which and how often.

    Args:
        saga: a factory (a saga class, say) that is called for each run, so that fakes are new each
            time; or a saga, which is copied (``copy.deepcopy``) for each. A sequence has the saga
            first and then those that it starts, as its children or through ``tx.start``.
        input: its input, or a function of a ``random.Random`` that makes one.
        seeds: how many runs (seeds 0, 1, 2 …), or which seeds. ``pytest --standfast-seeds`` asks
            for another number.
        seed: run this seed alone, to look into a violation.
        invariants: checks of the `World` when all is quiet: an ``AssertionError`` or False is a
            violation.
        always: the same, but after each commit and each effect.
        signals: a payload for each signal that the saga waits for; those without a type may be
            left out.
        faults: what goes wrong, by default all of it.
        schema: SQL that makes the tables which transactional steps write (SQLite, in memory; a
            UUID, Decimal, date or time is taken and given back as on PostgreSQL).
        after: how long after the start it begins, by default at once.
        progress: called about once a second with the report so far.

    Always checked: nothing ends its sleep or begins before its time; the saga ends completed or
    compensated, or is parked, or waits for what was kept from it; no step begins before those
    before it are done, or once compensation has begun; nothing is undone before what builds on it,
    or past the pivot; when it ends compensated, all that may have taken effect is undone; a refused
    step had no effect; the keys of a branch are stable; an undo can succeed once all faults are
    over; the journal folds to the state that it came from. Of each `Ledger` that a step uses,
    wherever it is kept: no branch took effect twice, and nothing is left or taken back wrongly. An
    ``assert`` that fails inside a step is a violation too.

    Returns a `SimulationReport`. Raises `InvariantViolated` for the first seed that fails. A seed
    gives the same run each time, if your code draws chance from the `random` module only (it is
    seeded) and takes time from `asyncio` and ``ctx.deadline``. Steps can't do real I/O: sockets,
    processes, threads and ``time.sleep`` raise `RealIO`, a `ConfigurationError`.

    Not guaranteed: that what isn't found isn't there. Read the report to see what was covered.
    """
    checked = seeds_of(seeds, seed)
    numbers = session().seeds(seeds if isinstance(seeds, int) and seed is None else checked)
    if progress is not None:
        plain_function(progress, name="progress", wanted="a plain function of the report")
    simulation = Simulation(
        saga,
        input,
        invariants,
        always,
        signals or {},
        faults or Faults(),
        schema=schema,
        after=after,
    )
    return simulation.run(numbers, session().told_of(numbers, progress))


def split_seeds(total: int, parts: int) -> list[range]:
    """``range(total)`` in so many parts, for ``pytest.mark.parametrize`` with pytest-xdist."""
    if whole(parts, name="parts") > whole(total, name="total"):
        raise ConfigurationError(f"parts={parts!r}: give {total} or fewer, or some have no seeds")
    asked = session().count
    total = total if asked is None else max(asked, parts)  # each has one at least
    ends = [total * index // parts for index in range(parts + 1)]
    return [range(begin, end) for begin, end in pairwise(ends)]


class Simulation:
    """The runs of one saga. `machine`: the class that decides, for testing the tests.

    `asked` is the function of the test kit that was called for them.
    """

    asked: ClassVar[str] = "simulate"

    def __init__(
        self,
        saga: Sagas | Callable[[], Sagas],
        input: Any = None,
        invariants: Check | Sequence[Check] = (),
        always: Check | Sequence[Check] = (),
        signals: Mapping[str, Any] | None = None,
        faults: Faults | None = None,
        *,
        schema: str = "",
        after: Duration | None = None,
        machine: type[Machine] = Machine,
    ) -> None:
        check_alone(self.asked)
        self.make = _factory(saga)
        self.input = input
        self.faults = faults or Faults()
        self.stage = Stage()
        self.definitions = SimulatedDefinitions(machine)
        self.name = self._define(self.make())
        self.rules = Rules(
            self.definitions,
            self._payloads(signals or {}),
            plain_functions(invariants, name="invariants", wanted=_CHECK),
            plain_functions(always, name="always", wanted=_CHECK),
            schema,
            after=after,
            asked=self.asked,
        )

    def _define(self, sagas: Sequence[Saga[Any]]) -> str:
        for saga in sagas:
            wrap(self.definitions.add(saga), self.stage)
        for definition in self.definitions.by_class.values():
            for step in definition.steps.values():
                if step.child is not None and step.child not in self.definitions.by_class:
                    raise ConfigurationError(
                        f"{definition.name!r} starts {step.child.__name__}, which isn't known "
                        f"here: give both, as [{type(sagas[0]).__name__}(…), "
                        f"{step.child.__name__}(…)]"
                    )
        return self.definitions.of(type(sagas[0])).name

    def _payloads(self, signals: Mapping[str, Any]) -> dict[str, bytes]:
        payloads: dict[str, bytes] = {}
        for definition in self.definitions.by_class.values():
            for step in definition.plan.steps.values():
                if step.form != "wait" or step.signal in payloads:
                    continue
                typed = definition.steps[step.name].options.get("type") is not None
                if typed and step.signal not in signals:
                    raise ConfigurationError(
                        f"{definition.name!r} waits for signal {step.signal!r}, which has a type: "
                        f"give a payload with signals={{{step.signal!r}: …}}"
                    )
                payload = definition.check_signal(step.signal, signals.get(step.signal))
                payloads[step.signal] = payload
        unknown = sorted(signals.keys() - payloads.keys(), key=str)
        if unknown:
            raise ConfigurationError(
                f"signals={unknown}: nothing waits for them; it waits for {sorted(payloads)}"
            )
        return payloads

    # -- runs --------------------------------------------------------------------------------

    def run(
        self,
        seeds: Iterable[int],
        progress: Callable[[SimulationReport], None] | None = None,
    ) -> SimulationReport:
        """Run these seeds. Raises `InvariantViolated`."""
        report = SimulationReport(self.name)
        called: set[str] = set()
        begun = told = time.monotonic()
        with alone():
            for seed in seeds:
                outcome = self.play(seed)
                if outcome.violation is not None:
                    raise self._violated(seed, outcome)
                report.seeds += 1
                report.outcomes[outcome.world.status] += 1
                report.coverage.update(outcome.strikes)
                report.seen.add(outcome.path)
                called |= {
                    ("undo " if c.operation == "compensation" else "") + without_items(c.branch)
                    for c in outcome.world.calls
                }
                now = time.monotonic()
                report.seconds = now - begun
                if progress is not None and now - told >= 1:
                    told = now
                    progress(report)
        report.missed = [name for name in self._functions() if name not in called]
        return report

    def play(self, seed: int, spared: Iterable[str] = (), *, tell: bool = False) -> Played:
        """One run."""
        random.seed(seed)
        sagas = self.make()
        for saga in sagas:
            self._take(saga)
        given = self.input
        value = given
        if callable(given):
            value = plain_answer(given(random.Random(seed)), name="input=")  # noqa: S311
        play = Play(self.rules, sagas, value, Chance(seed, self.faults, set(spared)), tell=tell)
        self.stage.scene = play
        return play.run()

    def _take(self, saga: Saga[Any]) -> None:
        """Let its definition speak of this run's own object."""
        known = self.definitions.by_class.get(type(saga))
        if known is None:
            # A factory that makes its class anew each time: the definition has to be new as well.
            kind = ("saga", type(saga).saga_name(), type(saga).version)
            self.definitions.by_kind.pop(kind, None)
            known = self.definitions.add(saga)
            wrap(known, self.stage)
        known.saga = saga

    def _functions(self) -> Iterator[str]:
        main = self.definitions.by_class.values()
        first: Definition = next(iter(main))
        for step in first.steps.values():
            if step.function is not None:
                yield step.name
            if step.undo_function is not None:
                yield f"undo {step.name}"

    # -- a violation -------------------------------------------------------------------------

    def _violated(self, seed: int, found: Played) -> InvariantViolated:
        assert found.violation is not None
        spared = self._shrink(seed, found)
        told = self.play(seed, spared, tell=True)
        if told.violation is None:
            return InvariantViolated(
                f"{self.name}: {found.violation}\nseed {seed} doesn't fail again, so something in "
                "the saga or its fakes isn't the same each time (uuid4, the order of a set, the "
                "clock, state that outlives a run): use `random` and asyncio, and a factory",
                seed=seed,
                story="",
                world=found.world,
            )
        story = "\n".join(
            f"{number:>4}  {at:>9.2f}s  {text}" for number, (at, text) in enumerate(told.story, 1)
        )
        left = "\n".join(f"  - {place}" for place in told.struck) or "  - none"
        return InvariantViolated(
            f"{self.name}: {told.violation}\n\n"
            f"What happened (seed {seed}, in virtual seconds, shrunk to what matters):\n{story}\n\n"
            f"Faults left after shrinking:\n{left}\n\n"
            f"To run it again: simulate(…, seed={seed})",
            seed=seed,
            story=story,
            world=told.world,
        )

    def _shrink(self, seed: int, found: Played) -> set[str]:
        """The places to spare so that as few faults as possible are left: delta debugging."""
        assert found.violation is not None
        rule = found.violation.rule
        spared: set[str] = set()
        struck = list(found.struck)
        size = max(1, len(struck) // 2)
        for _ in range(SHRINKS):
            smaller = False
            for begin in range(0, len(struck), size):
                tried = spared | set(struck[begin : begin + size])
                outcome = self.play(seed, tried)
                if outcome.violation is not None and outcome.violation.rule == rule:
                    spared, struck, smaller = tried, list(outcome.struck), True
                    break
            if smaller:
                size = min(size, max(1, len(struck) // 2))
            elif size == 1:
                break
            else:
                size = max(1, size // 2)
        return spared


def _factory(saga: Sagas | Callable[[], Sagas]) -> Callable[[], Sequence[Saga[Any]]]:
    given: Callable[[], Sagas]
    if isinstance(saga, (Saga, Sequence)):
        original = saga

        def given() -> Sagas:
            return copy.deepcopy(original)
    elif not is_async(saga) and callable(saga):
        given = saga
    else:
        raise ConfigurationError(f"simulate({saga!r}): {_WANTED}")

    def make() -> Sequence[Saga[Any]]:
        made: object = given()
        sagas = listed(made)
        if sagas is None:
            made_what = "" if isinstance(saga, Sequence) else f"; this one made {made!r}"
            raise ConfigurationError(f"simulate({saga!r}): {_WANTED}{made_what}")
        return sagas

    return make


_CHECK = "plain functions of the World, which nobody awaits"
_WANTED = (
    "give a saga, or a function that makes one (a sequence if it starts child sagas, itself first)"
)


def listed(sagas: object) -> list[Saga[Any]] | None:
    """One saga, or several, as a list; None for what is neither."""
    found = [sagas] if isinstance(sagas, Saga) else sagas
    every = list(found) if isinstance(found, Iterable) else []
    return every if every and all(isinstance(one, Saga) for one in every) else None


def check_alone(asked: str) -> None:
    """Raise `ConfigurationError` where an event loop runs, for the function that was `asked`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError(
        f"{asked} has an event loop of its own: call it from a plain `def test_…`, not from "
        "`async def`"
    )


@contextmanager
def alone() -> Iterator[None]:
    """No log lines of ten thousand crashes, and `random` as it was after."""
    logs = [logging.getLogger(name) for name in QUIET]
    was, state = [log.disabled for log in logs], random.getstate()
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log, disabled in zip(logs, was, strict=True):
            log.disabled = disabled
        random.setstate(state)
