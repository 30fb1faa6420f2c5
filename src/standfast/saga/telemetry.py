"""What a worker tells about its sagas: OpenTelemetry metrics over plain counters, and spans.

Counting costs an integer addition; spans and histograms cost nothing until an SDK is set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from standfast._version import __version__
from standfast.coordination.slots import Slots
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.definition import Definition
from standfast.saga.spans import Spans, is_tracing
from standfast.saga.state import SagaState
from standfast.saga.status import STUCK
from standfast.saga.threads import Threads

DURATIONS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 259200.0, 604800.0, 2592000.0),
)
"""Seconds: bounds of the buckets that are advised for what takes from milliseconds to a month."""

FAILURES = ("retried", "rejected", "refused", "exhausted", "parked")
UNDOS = ("completed", "retried", "rejected", "failed")


class SagaTelemetry:
    """Counters of one worker. Attributes are plain numbers, readable without any SDK."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.finished: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.compensations: Counter[tuple[str, str, str]] = Counter()
        self.parked: Counter[tuple[str, str]] = Counter()
        self.recovered: int = 0
        self.set_aside: int = 0
        self.stuck: Callable[[], Mapping[tuple[str, str], tuple[int, float]]] | None = None
        """By saga and status, how many are stuck, and for how many seconds the first of them; None
        where another process counts."""
        self.slots: Slots | None = None
        """The places of the worker in this process, while there is one."""
        self.threads: Threads | None = None
        """Those in which ``def`` functions run."""
        self.spans: Spans | None = None
        self._stuck_at_first: dict[tuple[str, str], tuple[int, float]] = {}
        self._duration: metrics.Histogram | None = None

    def expect(self, definition: Definition) -> None:
        """Let the counters of a saga begin at 0, so that a rise to the first event can be seen."""
        name = definition.name
        self.started[name] += 0
        for outcome in ("completed", "compensated"):
            self.finished[name, outcome] += 0
        for status in STUCK:
            self._stuck_at_first[name, status] = 0, 0.0
        for step in definition.plan.steps.values():
            self.parked[name, step.name] += 0
            for how in FAILURES:
                self.failures[name, step.name, how] += 0
            for how in UNDOS if step.undo else ():
                self.compensations[name, step.name, how] += 0
        if self.threads is not None:
            for step_name in definition.blocking:
                self.threads.given_up[name, step_name] += 0

    def connect(self) -> None:
        """Speak to the OpenTelemetry SDK that is set by now; before that it only counts."""
        if self._duration is not None:
            return
        self.spans = Spans() if is_tracing() else None
        meter = metrics.get_meter("standfast.saga", __version__)
        self._duration = meter.create_histogram(
            "standfast.saga.duration",
            unit="s",
            description="From start to end, by outcome",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        self._observe(meter)

    def _observe(self, meter: metrics.Meter) -> None:
        def counter(
            name: str, unit: str, what: str, read: Callable[[], Iterable[Observation]]
        ) -> None:
            def callback(options: CallbackOptions) -> Iterable[Observation]:
                return read()

            meter.create_observable_counter(name, [callback], unit, what)

        def by(counts: Counter[Any], *names: str) -> Iterator[Observation]:
            for key, count in list(counts.items()):
                values = key if isinstance(key, tuple) else (key,)
                yield Observation(count, dict(zip(names, values, strict=True)))

        counter(
            "standfast.saga.started",
            "{saga}",
            "Sagas started",
            lambda: by(self.started, "saga"),
        )
        counter(
            "standfast.saga.finished",
            "{saga}",
            "Sagas ended, by outcome",
            lambda: by(self.finished, "saga", "outcome"),
        )
        counter(
            "standfast.saga.step.failures",
            "{attempt}",
            "Failed attempts, by step and what followed",
            lambda: by(self.failures, "saga", "step", "outcome"),
        )
        counter(
            "standfast.saga.compensations",
            "{attempt}",
            "Compensations, by step and outcome",
            lambda: by(self.compensations, "saga", "step", "outcome"),
        )
        counter(
            "standfast.saga.parked",
            "{saga}",
            "Sagas that came to wait for an operator, by step",
            lambda: by(self.parked, "saga", "step"),
        )
        counter(
            "standfast.saga.recovered",
            "{saga}",
            "Instances taken over from a worker that died, or resumed from the store",
            lambda: [Observation(self.recovered)],
        )
        counter(
            "standfast.saga.set_aside",
            "{saga}",
            "Instances that this worker couldn't run",
            lambda: [Observation(self.set_aside)],
        )

        def flying(options: CallbackOptions) -> Iterable[Observation]:
            taken = {} if self.slots is None else dict(self.slots.by_name)
            return [Observation(count, {"saga": name}) for name, count in taken.items()]

        meter.create_observable_up_down_counter(
            "standfast.saga.in_flight", [flying], "{saga}", "Instances in memory"
        )

        counter(
            "standfast.saga.threads.given_up",
            "{attempt}",
            "Attempts whose function went on in its thread after they were given up, by step",
            lambda: by(
                Counter() if self.threads is None else self.threads.given_up, "saga", "step"
            ),
        )

        def threads(options: CallbackOptions) -> Iterable[Observation]:
            if (its := self.threads) is not None:
                for state, count in (
                    *(("busy", its.busy), ("given_up", its.hung), ("waited_for", its.waiting)),
                ):
                    yield Observation(count, {"state": state})

        meter.create_observable_up_down_counter(
            "standfast.saga.threads",
            [threads],
            "{thread}",
            "Threads of `def` functions that are busy, or kept by what was given up; calls that "
            "wait for one",
        )

        def stuck(which: int) -> Callable[[CallbackOptions], Iterable[Observation]]:
            def read(options: CallbackOptions) -> Iterable[Observation]:
                if self.stuck is not None:
                    for (saga, status), told in {**self._stuck_at_first, **self.stuck()}.items():
                        yield Observation(told[which], {"saga": saga, "status": status})

            return read

        meter.create_observable_gauge(
            "standfast.saga.stuck", [stuck(0)], "{saga}", "Sagas that wait for an operator now"
        )
        meter.create_observable_gauge(
            "standfast.saga.stuck.age",
            [stuck(1)],
            "s",
            "For how long the first of them has been waiting",
        )

    def begun(self, saga: str) -> None:
        """Count a start that was committed here."""
        self.started[saga] += 1

    def stored(self, saga: str, fact: fx.Fact) -> None:
        """Count what a fact says that was just stored."""
        if isinstance(fact, fx.AttemptFailed):
            how = "rejected" if fact.rejected else "retried"
            self.failures[saga, _step(fact.branch), how] += 1
        elif isinstance(fact, fx.StepFailed):
            how = "refused" if fact.refused else "exhausted"
            self.failures[saga, _step(fact.branch), how] += 1
        elif isinstance(fact, fx.StepParked):
            self.failures[saga, _step(fact.branch), "parked"] += 1
            self.parked[saga, _step(fact.branch)] += 1
        elif isinstance(fact, fx.CompensationCompleted):
            self.compensations[saga, _step(fact.branch), "completed"] += 1
        elif isinstance(fact, fx.CompensationAttemptFailed):
            how = "rejected" if fact.rejected else "retried"
            self.compensations[saga, _step(fact.branch), how] += 1
        elif isinstance(fact, fx.CompensationFailed):
            self.compensations[saga, _step(fact.branch), "failed"] += 1
            self.parked[saga, _step(fact.branch)] += 1

    def ended(self, saga: str, state: SagaState, at: float) -> None:
        """Count an end, and record how long the saga took."""
        self.finished[saga, state.outcome] += 1
        if self._duration is not None:
            took = max(0.0, at - state.started.due_at)
            self._duration.record(took, {"saga": saga, "outcome": state.outcome})
        if self.spans is not None:
            self.spans.ended(state, at)

    def trace_of_child(self, state: SagaState, branch: Branch) -> dict[str, str]:
        """The trace context that the child saga of a branch starts with."""
        return state.started.trace if self.spans is None else self.spans.of_child(state, branch)


def _step(branch: str) -> str:
    return branch.partition("[")[0]
