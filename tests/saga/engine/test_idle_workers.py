"""What an idle worker asks of its store, and that it finds work which nobody hinted at."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from standfast import Context, Saga, SagaCompensated, SagaHandle, Standfast, step, wait
from standfast.errors import StoreUnavailable
from standfast.ports.leases import LeaseStore
from tests.saga.engine.world import SOON, Order, until

pytestmark = pytest.mark.slow  # they wait for what doesn't come


class Short(Saga[Order]):
    @step(retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> str:
        return order.id


class Patient(Saga[Order]):
    word = wait("word")


class Single(Saga[Order]):
    """One at a time, and each for as long as `go_on` isn't set."""

    max_in_flight = 1

    def __init__(self) -> None:
        self.began: list[str] = []
        self.go_on = asyncio.Event()

    @step(timeout=None, retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> None:
        self.began.append(order.id)
        await self.go_on.wait()


def counting(app: Standfast, calls: Counter[str]) -> None:
    """Count the calls of the app's ports: each is one statement while there is nothing to do."""

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **options: Any) -> Any:
            calls[name] += 1
            return call(*args, **options)

        return count

    journal, leases = app.sagas.store, app.database.port(LeaseStore)
    for port, names in (
        (journal, ("claim", "next_wake", "collect", "load", "find", "flag_unclaimable", "reclaim")),
        (leases, ("renew", "expire", "acquire", "annotate")),
        (app.database, ("clock_offset",)),
    ):
        for name in names:
            setattr(port, name, counted(name, getattr(port, name)))


@asynccontextmanager
async def deaf(url: str, *sagas: Saga[Any], **options: Any) -> AsyncIterator[Standfast]:
    """An app with a worker, to which no hint comes from other processes."""
    app = Standfast(url, migrate=True).add(*sagas)
    app.sagas.store.on_due = lambda callback: lambda: None  # type: ignore[method-assign]
    async with app.running(**{"drain": 2, **options}):
        yield app


async def test_an_idle_worker_asks_less_than_twice_a_second(app_url):
    """In a tenth of the default times: of the lease (10 s) and of `poll` (2 s)."""
    app = Standfast(app_url, migrate=True).add(Short(), Single())
    calls: Counter[str] = Counter()
    counting(app, calls)
    async with app.running(lease=1.0, poll=0.2, linger=0.01, drain=2):
        await (await app.start(Short, Order("1"))).result(timeout=10)
        await until(lambda: calls["claim"] >= 1)
        await asyncio.sleep(0.5)  # what its last steps asked for is over
        for _ in range(3):
            calls.clear()
            begun = time.monotonic()
            await asyncio.sleep(3)
            tenths = time.monotonic() - begun
            if "annotate" not in calls:
                break  # else this machine stood still for longer than the lease
    assert calls.keys() == {
        "next_wake",
        "flag_unclaimable",
        "reclaim",
        "renew",
        "expire",
        "clock_offset",
    }
    assert calls["next_wake"] >= 5
    assert calls["renew"] >= 5
    assert calls.total() <= 2 * 10 * tenths


async def test_work_that_nobody_hinted_at_is_found(durable_url):
    async with deaf(durable_url, Short(), Single(), poll=0.3) as worker:
        await asyncio.sleep(0.5)
        calls: Counter[str] = Counter()
        counting(worker, calls)
        async with Standfast(durable_url).add(Short()) as client:
            handle = await client.start(Short, Order("1"))
            assert (await handle.result(timeout=10))["go"] == "1"
        assert calls["claim"] > 0


@pytest.mark.parametrize("linger", [0.01, 60.0])
async def test_what_this_process_tells_needs_no_hint_of_the_store(app_url, linger):
    """Also within a transaction, whether the saga is in memory or not."""
    async with deaf(app_url, Patient(), poll=60.0, linger=linger) as app:
        told, dropped = [await app.start(Patient, Order(number)) for number in "12"]
        await until(lambda: _is_waiting(told))
        await until(lambda: _is_waiting(dropped))
        async with app.transaction() as tx:
            await tx.signal(told, "word")
            await tx.cancel(dropped)
        await told.result(timeout=10)
        with pytest.raises(SagaCompensated):
            await dropped.result(timeout=10)


async def _is_waiting(handle: SagaHandle[Any]) -> bool:
    return await handle.status() == "waiting"


async def test_what_came_while_there_was_no_room_is_taken_as_soon_as_there_is(durable_url):
    saga = Single()
    async with deaf(durable_url, saga, poll=2.0) as worker:
        await asyncio.sleep(0.5)  # its first claim is over
        await worker.start(Single, Order("1"))
        await until(lambda: saga.began == ["1"])
        async with Standfast(durable_url).add(Single()) as client:
            await client.start(Single, Order("2"))
        slots = worker.sagas.executor.desk.slots
        await until(lambda: slots.starved)  # it has looked, and there was no room
        saga.go_on.set()
        await until(lambda: saga.began == ["1", "2"], within=1.0)  # sooner than it looks again


@pytest.mark.parametrize("late", [0, 2])
async def test_what_was_claimed_though_the_answer_was_lost_is_run(app_url, late):
    """As on PostgreSQL: what was claimed without an answer comes with one of the next claims."""
    app = Standfast(app_url, migrate=True).add(Short())
    claim = app.sagas.store.claim
    claimed: list[Any] = []
    calls = 0

    async def lossy(*args: Any, **options: Any) -> list[Any]:
        nonlocal calls
        if not claimed:
            claimed.extend(await claim(*args, **options))
            if claimed:
                raise StoreUnavailable("the answer was lost")
            return []
        calls += 1
        if calls == late + 1:
            return claimed
        return []

    app.sagas.store.claim = lossy  # type: ignore[method-assign]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app)
        handle = await app.start(Short, Order("1"))
        await stack.enter_async_context(app.running(poll=0.1, drain=2))
        assert (await handle.result(timeout=10))["go"] == "1"
