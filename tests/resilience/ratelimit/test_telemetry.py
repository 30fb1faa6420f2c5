"""What a limiter tells."""

import asyncio
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider

from standfast.errors import RateLimited
from standfast.resilience import telemetry
from standfast.resilience.ratelimit import RateLimiter
from standfast.testing.manual_clock import ManualClock


async def test_waits_are_recorded_in_seconds(monkeypatch):
    recorded = []

    class Histogram:
        def record(self, value, attributes):
            recorded.append((value, attributes))

    monkeypatch.setitem(telemetry._histograms, "standfast.rate_limiter.wait", Histogram())
    clock = ManualClock()
    limit = RateLimiter(2, 1.0, burst=1, name="mail", clock=clock)
    await limit.acquire()
    waiting = [asyncio.create_task(limit.acquire(max_wait=60)) for _ in range(2)]
    await clock.settle()
    assert ("standfast.rate_limiter.waiting", 2, {"name": "mail"}) in list(limit.measures())
    await clock.run(1)
    assert all(task.done() for task in waiting)
    assert recorded == [(0.5, {"name": "mail"}), (1.0, {"name": "mail"})]


async def test_each_way_of_asking_is_counted():
    limit = RateLimiter(4, "1h", name="mail", clock=ManualClock())
    limit.check_now()
    with limit:
        pass
    await limit.check()
    async with limit:
        pass
    limit.check_now()
    with pytest.raises(RateLimited), limit:
        pass
    await limit.check()
    with pytest.raises(RateLimited):
        await limit.acquire()
    counts = {name: value for name, value, _ in limit.measures()}
    assert counts["standfast.rate_limiter.allowed"] == 4
    assert counts["standfast.rate_limiter.denied"] == 4


def test_a_rejection_is_an_event_of_the_span():
    limit = RateLimiter(1, "1h", name="mail", clock=ManualClock())
    limit.call(int)
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("work") as span, pytest.raises(RateLimited):
        limit.call(int)
    (event,) = span.events
    assert event.name == "standfast.rate_limited"
    assert event.attributes == {"name": "mail", "retry_after": 3600.0}


def test_all_that_is_measured_is_an_instrument():
    limit = RateLimiter(1)
    assert {name for name, _, _ in limit.measures()} <= telemetry.INSTRUMENTS.keys()


def test_importing_it_loads_no_driver_and_no_telemetry():
    code = (
        "import sys, standfast.resilience.ratelimit as _; "
        "print([m for m in ('msgspec', 'opentelemetry', 'redis', 'asyncpg', 'httpx', 'grpc') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
