"""What goes on in the background for all has no deadline of whoever happened to begin it."""

import asyncio

import pytest

from standfast.backends.memory import MemoryDatabase
from standfast.backends.postgres import PostgresRateLimits
from standfast.backends.postgres.listener import Listener
from standfast.backends.redis import RedisRateLimits
from standfast.backends.sqlite.hints import Hints
from standfast.clock import SYSTEM_CLOCK
from standfast.coordination.membership import Membership
from standfast.coordination.supervisor import Supervisor
from standfast.ports.leases import LeaseStore
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Decision, Rate
from standfast.resilience import CircuitRegistry, LeasedRateLimits, RateLimiter, remaining, within
from standfast.resilience.breaker.control import OperatorControl

ALLOWED = Decision(True, 1, 0.0, 1.0)


class Seen:
    """Notes what is left until the deadline wherever it is told to."""

    def __init__(self):
        self.left = []
        self.now = asyncio.Event()

    def note(self):
        self.left.append(remaining())
        self.now.set()

    async def answer(self):
        """The first that was noted."""
        async with asyncio.timeout(10):
            await self.now.wait()
        return self.left[0]


@pytest.fixture
async def seen():
    return Seen()


async def test_circuit_control(seen):
    class Control:
        async def follow(self):
            seen.note()
            yield None
            await asyncio.Event().wait()

        async def orders(self):
            return {}

        async def order(self, name, order): ...

        async def hint(self, hint): ...

        async def close(self): ...

    control = OperatorControl(Control(), registry=CircuitRegistry())
    with within("1h"):
        async with control:
            assert await seen.answer() is None


async def test_the_connection_that_listens(seen):
    class Connector:
        place = "here"

        def on_leaving(self, callback): ...

        async def connect(self):
            seen.note()
            await asyncio.Event().wait()

    listener = Listener(Connector())
    with within("1h"):
        listener.subscribe("news", print)
        try:
            assert await seen.answer() is None
        finally:
            await listener.close()


async def test_the_look_for_other_processes(seen):
    async def version():
        seen.note()
        return 1

    hints = Hints(version)
    with within("1h"):
        hints.subscribe("due", print)
        try:
            assert await seen.answer() is None
        finally:
            await hints.close()


@pytest.mark.parametrize("kind", [RedisRateLimits, PostgresRateLimits])
async def test_a_batch_of_checks(seen, monkeypatch, kind):
    async def decide(self, requests):
        seen.note()
        return [ALLOWED for _ in requests]

    monkeypatch.setattr(kind, "_decide", decide)
    scheme = "redis" if kind is RedisRateLimits else "postgresql"
    store = kind(f"{scheme}://127.0.0.1:1/0")
    with within("1h"):
        await store.check([RateRequest("a", Rate(1))])
    assert await seen.answer() is None
    await store.close()


async def test_a_lease_of_units(seen):
    class Store:
        async def check(self, requests):
            seen.note()
            return [ALLOWED for _ in requests]

    with within("1h"):
        await LeasedRateLimits(Store()).check([RateRequest("a", Rate(100))])
    assert await seen.answer() is None


async def test_units_that_are_given_back(seen):
    asked, go = asyncio.Event(), asyncio.Event()

    class Store:
        async def check(self, requests):
            if requests[0].cost < 0:
                seen.note()
            else:
                asked.set()
                await go.wait()
            return [ALLOWED for _ in requests]

    limiter = RateLimiter(5, store=Store(), name="x", on_store_failure="deny")
    with within("1h"):
        taking = asyncio.create_task(limiter.acquire("a"))
        await asked.wait()
        taking.cancel()
        await asyncio.wait((taking,))
        go.set()
        assert await seen.answer() is None


async def test_a_service(seen):
    class Looks:
        name = "looks"
        exclusive = False

        async def run(self, duty):
            seen.note()
            duty.ready()
            await duty.stopping.wait()

    database = MemoryDatabase()
    await database.open()
    membership = Membership(database.port(LeaseStore), clock=SYSTEM_CLOCK, lease=10)
    supervisor = Supervisor(membership, [Looks()], clock=SYSTEM_CLOCK, watched=False)
    with within("1h"):
        await supervisor.start()
        try:
            assert await seen.answer() is None
        finally:
            await supervisor.stop(1)
