"""What a worker tells about its sagas: OpenTelemetry metrics over plain counters, and spans.

Counting costs an integer addition; spans and histograms cost nothing until an SDK is set. The trace
context of a saga's start is kept in its journal, so the spans of one saga form one trace over
crashes, restarts and machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import CallbackOptions, Observation

from standfast._version import __version__
from standfast.saga import facts as fx
from standfast.saga.context import Context
from standfast.saga.state import SagaState

_NOTHING: AbstractContextManager[None] = nullcontext()


def is_tracing() -> bool:
    """Whether a tracer provider has been set, so that spans go somewhere."""
    return not isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    )


def begin_trace(saga: str, key: str) -> dict[str, str]:
    """The trace context to keep in a new instance's journal ({} when nobody traces)."""
    if not is_tracing():
        return {}
    carrier: dict[str, str] = {}
    with trace.get_tracer("standfast.saga", __version__).start_as_current_span(
        f"saga {saga} start", attributes={"standfast.saga": saga, "standfast.key": key}
    ):
        propagate.inject(carrier)
    return carrier


class SagaTelemetry:
    """Counters of one worker. Attributes are plain numbers, readable without any SDK."""

    def __init__(self, in_flight: Callable[[], dict[str, int]] | None = None) -> None:
        self.started: Counter[str] = Counter()
        self.finished: Counter[tuple[str, str]] = Counter()
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.compensations: Counter[tuple[str, str, str]] = Counter()
        self.parked: Counter[tuple[str, str]] = Counter()
        self.recovered: int = 0
        self.set_aside: int = 0
        self.in_flight: Callable[[], dict[str, int]] = in_flight or dict
        self.tracing: bool = is_tracing()
        self._tracer = trace.get_tracer("standfast.saga", __version__)
        meter = metrics.get_meter("standfast.saga", __version__)
        self._duration = meter.create_histogram(
            "standfast.saga.duration", unit="s", description="From start to end, by outcome"
        )
        self._observe(meter)

    def _observe(self, meter: metrics.Meter) -> None:
        def counter(name: str, what: str, read: Callable[[], Iterable[Observation]]) -> None:
            def callback(options: CallbackOptions) -> Iterable[Observation]:
                return read()

            meter.create_observable_counter(name, callbacks=[callback], description=what)

        def by(counts: Counter[Any], *names: str) -> Iterator[Observation]:
            for key, count in list(counts.items()):
                values = key if isinstance(key, tuple) else (key,)
                yield Observation(count, dict(zip(names, values, strict=True)))

        counter("standfast.saga.started", "Sagas started", lambda: by(self.started, "saga"))
        counter(
            "standfast.saga.finished",
            "Sagas ended, by outcome",
            lambda: by(self.finished, "saga", "outcome"),
        )
        counter(
            "standfast.saga.step.failures",
            "Failed attempts, by step and kind",
            lambda: by(self.failures, "saga", "step", "kind"),
        )
        counter(
            "standfast.saga.compensations",
            "Compensations, by step and outcome",
            lambda: by(self.compensations, "saga", "step", "outcome"),
        )
        counter(
            "standfast.saga.parked",
            "Sagas that came to wait for an operator, by step",
            lambda: by(self.parked, "saga", "step"),
        )
        counter(
            "standfast.saga.recovered",
            "Instances taken over from a worker that died, or resumed from the store",
            lambda: [Observation(self.recovered)],
        )
        counter(
            "standfast.saga.set_aside",
            "Instances that this worker couldn't run",
            lambda: [Observation(self.set_aside)],
        )

        def flying(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(n, {"saga": name}) for name, n in self.in_flight().items()]

        meter.create_observable_up_down_counter(
            "standfast.saga.in_flight", callbacks=[flying], description="Instances in memory"
        )

    def begun(self, saga: str) -> None:
        """Count a start that was committed here."""
        self.started[saga] += 1

    def count(self, saga: str, fact: fx.Fact) -> None:
        """Count what a stored fact says."""
        if isinstance(fact, fx.AttemptFailed):
            self.failures[saga, _step(fact.branch), "retried"] += 1
        elif isinstance(fact, fx.StepFailed):
            how = "refused" if fact.refused else "exhausted"
            self.failures[saga, _step(fact.branch), how] += 1
        elif isinstance(fact, fx.StepParked):
            self.failures[saga, _step(fact.branch), "parked"] += 1
            self.parked[saga, _step(fact.branch)] += 1
        elif isinstance(fact, fx.CompensationCompleted):
            self.compensations[saga, _step(fact.branch), "completed"] += 1
        elif isinstance(fact, fx.CompensationAttemptFailed):
            self.compensations[saga, _step(fact.branch), "retried"] += 1
        elif isinstance(fact, fx.CompensationFailed):
            self.compensations[saga, _step(fact.branch), "failed"] += 1
            self.parked[saga, _step(fact.branch)] += 1

    def ended(self, saga: str, state: SagaState, at: float) -> None:
        """Count an end, and record how long the saga took."""
        self.finished[saga, state.outcome] += 1
        self._duration.record(at - state.started.at, {"saga": saga, "outcome": state.outcome})
        if self.tracing:
            parent = propagate.extract(state.started.trace)
            span = self._tracer.start_span(
                f"saga {saga} {state.outcome}",
                context=parent,
                start_time=int(state.started.at * 1e9),
                attributes={"standfast.saga.id": str(state.id), "standfast.saga": saga},
            )
            if state.outcome != "completed":
                span.set_attribute("standfast.cause", state.cause)
            span.end(int(at * 1e9))

    def attempt(self, state: SagaState, ctx: Context, branch: str) -> AbstractContextManager[None]:
        """A span around one attempt of an action or a compensation."""
        return self._span(state, ctx, branch) if self.tracing else _NOTHING

    @contextmanager
    def _span(self, state: SagaState, ctx: Context, branch: str) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            f"{ctx.operation} {ctx.step}",
            context=propagate.extract(state.started.trace),
            attributes={
                "standfast.saga": state.plan.name,
                "standfast.saga.id": str(state.id),
                "standfast.branch": branch,
                "standfast.operation": ctx.operation,
                "standfast.attempt": ctx.attempt,
                "standfast.correlation_id": ctx.correlation_id,
            },
        ):
            yield


def _step(branch: str) -> str:
    return branch.partition("[")[0]
