"""The spans of a saga: one of the whole, one of each step and each undo, one of each attempt.

A step may last for weeks and outlive processes, but OpenTelemetry begins and ends a span in one. So
the span of a step is made when the step has ended, with the times that the journal tells. Its id is
derived from those of the saga and the step, so that attempts can be its children before it exists,
wherever they run. It is made after the facts were stored: a process that dies in between takes it
along, and the attempts then have a parent that nobody ever sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any
from uuid import UUID

from opentelemetry import propagate, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode

from standfast._version import __version__
from standfast.saga import facts as fx
from standfast.saga.branch import Branch
from standfast.saga.context import Context
from standfast.saga.state import SagaState
from standfast.text import named

_SCOPE = ("standfast.saga", __version__)
_chosen: ContextVar[int] = ContextVar("standfast_span_id", default=0)

FORWARD = (fx.StepCompleted, fx.StepSkipped, fx.StepFailed, fx.StepParked)
BACKWARD = (fx.CompensationCompleted, fx.CompensationSkipped)


def is_tracing() -> bool:
    """Whether a tracer provider has been set, so that spans go somewhere."""
    return not isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    )


def begin_trace(saga: str, key: str) -> dict[str, str]:
    """The trace context to keep in a new instance's journal ({} when nobody traces)."""
    return Spans().begin(saga, key) if is_tracing() else {}


class Spans:
    """Makes the spans of a worker's sagas.

    Where the tracer isn't the SDK's, so that ids can't be chosen, there are none of steps and
    undos: attempts are then children of the saga's start.
    """

    def __init__(self) -> None:
        self._tracer = trace.get_tracer(*_SCOPE)
        self._has_ids = _let_ids_be_chosen(self._tracer)

    def begin(self, saga: str, key: str) -> dict[str, str]:
        """The trace context to keep in a new instance's journal."""
        carrier: dict[str, str] = {}
        with self._tracer.start_as_current_span(
            f"saga {saga} start", attributes={"standfast.saga": saga, "standfast.key": key}
        ):
            propagate.inject(carrier)
        return carrier

    @contextmanager
    def attempt(self, state: SagaState, ctx: Context, branch: Branch) -> Iterator[None]:
        """A span around one attempt of an action or a compensation."""
        undo = ctx.operation == "compensation"
        with self._tracer.start_as_current_span(
            f"{ctx.operation} {ctx.step}",
            context=self._inside(state, _branch_name(state, branch, undo=undo)),
            attributes={
                "standfast.saga": state.plan.name,
                "standfast.saga.id": str(state.id),
                "standfast.branch": branch.id,
                "standfast.operation": ctx.operation,
                "standfast.attempt": ctx.attempt,
                "standfast.correlation_id": ctx.correlation_id,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                if not isinstance(error, asyncio.CancelledError):
                    _failed(span, error)
                raise

    def of_child(self, state: SagaState, branch: Branch) -> dict[str, str]:
        """The trace context that the child saga of a branch starts with."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier, self._inside(state, _branch_name(state, branch)))
        return carrier

    def stored(self, state: SagaState, facts: Sequence[fx.Fact]) -> None:
        """Make the spans of the steps and undos that ended with these stored facts."""
        if not self._has_parents(state):
            return
        wholes: dict[str, float] = {}
        for fact in facts:
            if isinstance(fact, BACKWARD):
                skipped = isinstance(fact, fx.CompensationSkipped)
                outcome = "skipped" if skipped else "completed"
                self._end_undo(state, state.branches[fact.branch], fact.at, outcome)
            elif isinstance(fact, fx.FannedOut) and not fact.items:
                wholes[fact.branch] = fact.at
            elif isinstance(fact, FORWARD):
                branch = state.branches[fact.branch]
                if isinstance(fact, fx.StepParked) and branch.state != "failed":
                    continue  # it may go on
                attempts = getattr(fact, "attempt", branch.attempt)
                error = getattr(fact, "error", "")
                self._end_step(state, branch, fact.at, branch.state, attempts, error)
                if branch.item is not None and state.branches[branch.step.name].is_closed:
                    wholes[branch.step.name] = fact.at
        for name, at in wholes.items():
            self._end_step(state, state.branches[name], at, "completed", None)

    def ended(self, state: SagaState, at: float) -> None:
        """Make the span of a saga that ended, and of what it left unfinished."""
        if self._has_parents(state):
            for branch in state.branches.values():
                if branch.undo in ("due", "failed") and branch.attempt:
                    self._end_undo(state, branch, at, "abandoned")
                if branch.has_begun and not branch.is_closed and not state.reopened:
                    end = state.undoing_at or at
                    self._end_step(state, branch, end, "abandoned", None)
        attributes: dict[str, str | int] = {"standfast.outcome": state.outcome}
        if state.outcome != "completed":
            attributes["standfast.cause"] = state.cause
        self._make(
            state,
            _saga_name(state),
            f"saga {state.plan.name} {state.outcome}",
            propagate.extract(state.started.trace),
            state.undoing_at if state.reopened else min(at, state.started.due_at),
            at,
            attributes,
        )

    # -- making them -------------------------------------------------------------------------

    def _end_step(
        self,
        state: SagaState,
        branch: Branch,
        at: float,
        outcome: str,
        attempts: int | None,
        error: str = "",
    ) -> None:
        item = branch.item is not None
        parent = state.branches[branch.step.name] if item else None
        name = _saga_name(state) if parent is None else _branch_name(state, parent)
        self._make(
            state,
            _branch_name(state, branch),
            f"{'item' if item else 'step'} {branch.step.name}",
            self._inside(state, name),
            branch.begun_at,
            at,
            _attributes(branch, outcome, attempts),
            error,
        )

    def _end_undo(self, state: SagaState, branch: Branch, at: float, outcome: str) -> None:
        self._make(
            state,
            _branch_name(state, branch, undo=True),
            f"undo {branch.step.name}",
            self._inside(state, _saga_name(state)),
            state.undo_began_at(branch),
            at,
            _attributes(branch, outcome, branch.attempt),
        )

    def _make(
        self,
        state: SagaState,
        id_of: str,
        name: str,
        context: TraceContext,
        began: float,
        ended: float,
        attributes: dict[str, str | int],
        error: str = "",
    ) -> None:
        """Make a span of the past; `id_of` is what its id is derived from."""
        token = _chosen.set(_span_id(state.id, id_of))
        try:
            span = self._tracer.start_span(
                name,
                context=context,
                start_time=int(began * 1e9),
                attributes={
                    "standfast.saga": state.plan.name,
                    "standfast.saga.id": str(state.id),
                    "standfast.saga.version": state.started.version,
                    **attributes,
                },
            )
        finally:
            _chosen.reset(token)
        if error:
            span.set_status(StatusCode.ERROR, error)
        span.end(int(ended * 1e9))

    # -- where they hang ---------------------------------------------------------------------

    def _has_parents(self, state: SagaState) -> bool:
        """Whether spans can be made under parents to come: the ids are ours, the trace is known."""
        return self._has_ids and _start(propagate.extract(state.started.trace)).is_valid

    def _inside(self, state: SagaState, id_of: str) -> TraceContext:
        """The trace context within the span whose id is derived from `id_of`."""
        context = propagate.extract(state.started.trace)
        start = _start(context)
        if not (self._has_ids and start.is_valid):
            return context
        parent = SpanContext(
            start.trace_id,
            _span_id(state.id, id_of),
            is_remote=True,
            trace_flags=start.trace_flags,
            trace_state=start.trace_state,
        )
        return trace.set_span_in_context(NonRecordingSpan(parent), context)


def _failed(span: trace.Span, error: BaseException) -> None:
    """Note on an attempt's span what it raised, whatever that does when it is looked at."""
    span.set_status(StatusCode.ERROR, named(error))
    with suppress(BaseException):  # the error itself is what matters, and it is raised
        span.record_exception(error)


def _start(context: TraceContext) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _attributes(branch: Branch, outcome: str, attempts: int | None) -> dict[str, str | int]:
    known: dict[str, str | int] = {"standfast.branch": branch.id, "standfast.outcome": outcome}
    if attempts is not None and branch.step.form == "action":
        known["standfast.attempts"] = attempts
    return known


def _saga_name(state: SagaState) -> str:
    """A saga that had completed has a second span when its parent has it undone."""
    return f"saga {state.reopened}"


def _branch_name(state: SagaState, branch: Branch, *, undo: bool = False) -> str:
    """By the name that it had before any migration, so that its attempts stay its children."""
    first = state.names.first(branch.id)
    return f"undo {state.reopened} {first}" if undo else f"step {first}"


def _span_id(saga: UUID, name: str) -> int:
    return int.from_bytes(blake2b(saga.bytes + name.encode(), digest_size=8).digest()) or 1


class _ChosenIds:
    """The ids of another generator, but for a span whose id was chosen beforehand."""

    def __init__(self, others: Any) -> None:
        self._others = others

    def generate_span_id(self) -> int:
        return _chosen.get() or self._others.generate_span_id()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)


def _let_ids_be_chosen(tracer: Any) -> bool:
    """Whether the tracer is the SDK's, which lets our scope's tracer have a generator of its own.

    The API has no word for a span's id; `id_generator` is a public attribute of the SDK's tracer.
    """
    others = getattr(tracer, "id_generator", None)
    if others is None:
        return False
    if not isinstance(others, _ChosenIds):  # the SDK has one tracer for each scope
        tracer.id_generator = _ChosenIds(others)
    return True
