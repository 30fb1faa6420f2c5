"""What OpenTelemetry sees of the policies."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from standfast.resilience import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
    fallback,
    hedge,
    retrying,
    telemetry,
    timeout,
)
from standfast.resilience.backoff import Constant
from standfast.resilience.breaker import breaker
from standfast.resilience.bulkhead import semaphore
from standfast.resilience.ratelimit import limiter
from standfast.testing import FaultyFunction, ManualClock


@pytest.fixture
def metric(monkeypatch):
    """Reads a number by its instrument's name and some of its attributes."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    monkeypatch.setattr(telemetry, "_started", set())
    monkeypatch.setattr(telemetry, "_past", {})

    def metric(instrument, **attributes):
        data = reader.get_metrics_data()
        return sum(
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for one in scope.metrics
            if one.name == instrument
            for point in one.data.data_points
            if attributes.items() <= point.attributes.items()
        )

    yield metric
    provider.shutdown()


@pytest.fixture
def events(monkeypatch):
    """The names of the events of a span around the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("call"):
        span = trace.get_current_span()
        yield lambda: [(event.name, dict(event.attributes)) for event in span.events]
    provider.shutdown()


def test_retries_are_counted_and_told(metric, events):
    clock = ManualClock(auto=True)
    budget = RetryBudget(0, per_second=0, burst=10, name="payments", clock=clock)
    retry = Retry(3, Constant(0), budget=budget, name="charge", clock=clock)
    retry.call(FaultyFunction([OSError]).__call__)
    with pytest.raises(OSError):
        retry.call(FaultyFunction(then=OSError).__call__)
    calls = "standfast.resilience.calls"
    assert metric(calls, policy="retry", name="charge", outcome="success") == 1
    assert metric(calls, policy="retry", name="charge", outcome="failure") == 1
    assert metric("standfast.retry.retries", name="charge") == 3
    assert metric("standfast.retry.exhausted", name="charge") == 1
    assert metric("standfast.retry.budget", name="payments") == 7
    assert [name for name, _ in events()] == [
        "standfast.retry",
        "standfast.retry",
        "standfast.retry",
        "standfast.retry_exhausted",
    ]
    assert events()[0][1] == {"name": "charge", "attempt": 1, "delay": 0.0, "error": "OSError"}
    assert events()[3][1] == {
        "name": "charge",
        "attempt": 3,
        "why": "attempts=3",
        "error": "OSError",
    }


def test_a_retry_for_a_result_is_told(metric, events):
    retry = Retry(
        2, Constant("1s"), on_result=lambda one: one == "no", clock=ManualClock(auto=True)
    )
    assert retry.call(lambda: "no") == "no"
    (again, said), (exhausted, why) = events()
    assert (again, said) == ("standfast.retry", {"name": "", "attempt": 1, "delay": 1.0})
    assert exhausted == "standfast.retry_exhausted"
    assert why == {"name": "", "attempt": 2, "why": "attempts=2", "error": ""}


async def test_the_others_are_counted_and_told(metric, events):
    async def forever():
        await FaultyFunction(takes=60).awaited()

    pipeline = Pipeline(
        Fallback(0, name="f"), Timeout(0.5, name="t"), Hedge(0.01, name="h"), name="p"
    )
    assert await pipeline.call(forever) == 0
    assert metric("standfast.fallback.used", name="f", source="value") == 1
    assert metric("standfast.timeout.expired", name="t") == 1
    assert metric("standfast.hedge.launched", name="h") == 1
    assert metric("standfast.hedge.won", name="h") == 0
    assert metric("standfast.resilience.calls", policy="pipeline", name="p", outcome="success") == 1
    assert events() == [
        ("standfast.hedge", {"name": "h", "call": 2}),
        ("standfast.timeout", {"name": "t", "after": 0.5}),
        ("standfast.fallback", {"name": "f", "source": "value", "age": 0.0, "error": "TimedOut"}),
    ]


def test_the_table_in_the_docs_is_what_is_declared():
    page = (Path(__file__).parents[2] / "docs/reference/resilience-telemetry.md").read_text()
    tables = [
        telemetry.CALLS,
        *(m.INSTRUMENTS for m in (retrying, timeout, fallback, hedge, breaker, semaphore, limiter)),
    ]
    for table in tables:
        for name, (kind, unit, description) in table.items():
            row = re.search(rf"^\| `{re.escape(name)}` \|.*$", page, re.MULTILINE)
            assert row is not None, name
            cells = [cell.strip() for cell in row[0].strip("|").split("|")]
            assert (cells[1], cells[2], cells[4]) == (kind, f"`{unit}`", description)


def test_what_was_counted_stays_counted_when_its_policy_is_gone(metric):
    """A policy that is made where it is used, as in other libraries."""

    def fetch():
        for attempt in Retry(attempts=3, backoff=Constant(0), name="fetch"):
            with attempt:
                raise OSError

    for calls in range(1, 4):
        with pytest.raises(OSError):
            fetch()
        gc.collect()
        assert metric("standfast.retry.retries", name="fetch") == 2 * calls
        assert metric("standfast.retry.exhausted", name="fetch") == calls


def test_so_it_does_where_the_collector_finds_it_in_a_circle(metric):
    breaker = CircuitBreaker("circle")
    breaker.call(int)
    breaker.on_change = breaker.itself = breaker  # type: ignore[attr-defined]
    del breaker
    gc.collect()
    assert metric("standfast.resilience.calls", name="circle", outcome="success") == 1
    assert metric("standfast.circuit_breaker.state", name="circle") == 0


def test_policies_of_one_name_are_added_up(metric):
    breakers = [CircuitBreaker("bank") for _ in range(3)]
    breakers[0].force_open()
    assert metric("standfast.circuit_breaker.state", name="bank", state="forced_open") == 1
    assert metric("standfast.circuit_breaker.state", name="bank", state="closed") == 2
    bulkheads = [Bulkhead(3, name="db"), Bulkhead(50, name="db")]
    with bulkheads[0], bulkheads[1]:
        assert metric("standfast.bulkhead.limit", name="db") == 53
        assert metric("standfast.bulkhead.active", name="db") == 2


def test_a_budget_that_is_shared_counts_once_and_two_of_one_name_are_added(metric):
    shared = RetryBudget(burst=7, per_second=0, name="pool")
    retries = [Retry(budget=shared, name=name) for name in ("a", "b")]
    for retry in retries:
        retry.call(int)
    assert 7 <= metric("standfast.retry.budget", name="pool") < 8
    retries.pop(0)
    gc.collect()
    assert 7 <= metric("standfast.retry.budget", name="pool") < 8
    other = Retry(budget=RetryBudget(burst=5, per_second=0, name="pool"), name="c")
    other.call(int)
    assert 12 <= metric("standfast.retry.budget", name="pool") < 13


def test_one_that_cannot_be_measured_keeps_no_other_from_it(metric, caplog):
    class Broken(Retry):
        def measures(self):
            raise ValueError("mine")

    broken, good = Broken(name="broken"), Retry(name="good")
    broken.call(int)
    good.call(int)
    for _ in range(2):
        assert metric("standfast.resilience.calls", name="good", outcome="success") == 1
    (told,) = [one for one in caplog.records if one.name == "standfast.resilience"]
    assert "Broken(" in told.getMessage()
    assert told.exc_info


AT_THE_END = """
import threading
from standfast.resilience import CircuitBreaker, Timeout

timeout, breaker = Timeout(1), CircuitBreaker()
timeout.call(int), breaker.call(int)
threading.current_thread().kept = timeout, breaker
"""


def test_a_policy_that_outlives_its_module_ends_in_silence():
    """What a thread keeps, say, goes after names of modules have."""
    done = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
