"""The OpenTelemetry SDK reads what the policies count, in a process of its own."""

import json
import subprocess
import sys

PROGRAM = """
import asyncio, json
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from standfast.errors import BulkheadFull, CircuitOpen
from standfast.resilience.breaker import CircuitBreaker
from standfast.resilience.bulkhead import Bulkhead

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
trace.set_tracer_provider(TracerProvider())
breaker = CircuitBreaker("payments")
bulkhead = Bulkhead(1, queue=1, name="stock")

async def work():
    async with bulkhead:
        await asyncio.sleep(0.01)

async def main():
    results = await asyncio.gather(work(), work(), work(), return_exceptions=True)
    assert [type(one) for one in results] == [type(None), type(None), BulkheadFull], results

with trace.get_tracer("test").start_as_current_span("call") as span:
    asyncio.run(main())
    breaker.open()
    try:
        breaker.call(print)
    except CircuitOpen:
        pass
points = {
    (metric.name, *sorted(point.attributes.values())):
        getattr(point, "value", None) or getattr(point, "count", 0)
    for resource in reader.get_metrics_data().resource_metrics
    for scope in resource.scope_metrics
    for metric in scope.metrics
    for point in metric.data.data_points
}
print(json.dumps([[list(k), v] for k, v in points.items()]))
print(json.dumps([event.name for event in span.events]))
"""


def test_the_sdk_reads_counters_states_and_waits_and_spans_get_events() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    read, events = (json.loads(line) for line in done.stdout.splitlines())
    points = {tuple(key): value for key, value in read}
    assert points["standfast.circuit_breaker.state", "open", "payments"] == 1
    assert points["standfast.circuit_breaker.state", "closed", "payments"] == 0
    assert points["standfast.circuit_breaker.transitions", "open", "payments"] == 1
    assert points["standfast.circuit_breaker.rejected", "payments"] == 1
    assert points["standfast.resilience.calls", "bulkhead", "rejected", "stock"] == 1
    assert points["standfast.resilience.calls", "admitted", "bulkhead", "stock"] == 2
    assert points["standfast.bulkhead.limit", "stock"] == 1
    assert points["standfast.bulkhead.wait", "stock"] == 1
    assert events == [
        "standfast.bulkhead.rejected",
        "standfast.circuit_breaker.changed",
        "standfast.circuit_breaker.rejected",
    ]


IMPORTED_LATER = """
import sys
from standfast.errors import CircuitOpen
from standfast.resilience.breaker import CircuitBreaker

breaker = CircuitBreaker("payments")
breaker.open()
call = breaker(print)

def rejected():
    try:
        call()
    except CircuitOpen:
        return
    raise AssertionError("it was let through")

rejected()
assert "opentelemetry.trace" not in sys.modules, "this test needs it to come later"
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider

with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
    rejected()
token = context.attach(baggage.set_baggage("key", "value", context.Context()))
rejected()  # a context, but no span in it
context.detach(token)
rejected()
print([(event.name, dict(event.attributes)) for event in span.events], breaker.rejected)
"""


def test_spans_get_events_also_if_tracing_is_imported_after_the_breaker_was_made() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_LATER],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    event = ("standfast.circuit_breaker.rejected", {"name": "payments"})
    assert done.stdout.strip() == f"{[event]} 4"
