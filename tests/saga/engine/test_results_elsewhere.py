"""Waiting for results in a process that has no worker."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from standfast import Context, Refused, Saga, SagaCompensated, SagaNotFound, Standfast, step
from standfast.errors import StoreUnavailable, TimedOut
from tests.saga.engine.world import SOON, Order, until

MANY = 60


class Held(Saga[Order]):
    """Ends when it is let go; those of an amount of 0 are refused."""

    def __init__(self) -> None:
        self.began: set[str] = set()
        self.go_on = asyncio.Event()

    @step(timeout=None, retry=SOON, no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> str:
        self.began.add(order.id)
        await self.go_on.wait()
        if not order.amount:
            raise Refused("nothing to do")
        return order.id


@pytest.fixture
async def held(durable_url) -> AsyncIterator[Held]:
    """The saga of a worker on `durable_url`."""
    saga = Held()
    async with Standfast(durable_url, migrate=True).add(saga).running(drain=2):
        yield saga


class Client:
    """An app without a worker. `finds` has the number of ids of each look for rows."""

    def __init__(self, url: str) -> None:
        self.app = Standfast(url).add(Held())
        self.journal: Any = self.app.sagas.store
        self.find, self.load = self.journal.find, self.journal.load
        self.journal.find, self.journal.load = self._find, self._load
        self.finds: list[int] = []
        self.loads: list[int] = []
        self.fails = False

    async def _find(self, filter: Any, **options: Any) -> Any:
        self.finds.append(len(filter.ids))
        if self.fails:
            raise StoreUnavailable("it is away")
        return await self.find(filter, **options)

    async def _load(self, ids: Any) -> Any:
        self.loads.append(len(ids))
        return await self.load(ids)

    async def start(self, saga: Held, amount: int = 1) -> list[Any]:
        """Start many, and see them run."""
        handles = await asyncio.gather(
            *(self.app.start(Held, Order(str(n), amount=amount)) for n in range(MANY))
        )
        await until(lambda: len(saga.began) == MANY)
        return list(handles)


@pytest.fixture
async def client(held, durable_url) -> AsyncIterator[Client]:
    client = Client(durable_url)
    async with client.app:
        yield client


async def test_all_who_wait_share_their_looks(held, client):
    handles = await client.start(held)
    begun = time.monotonic()
    waiting = [asyncio.create_task(handle.result(timeout=30)) for handle in handles]
    await asyncio.sleep(1.0)
    looks, took = len(client.finds), time.monotonic() - begun
    assert 5 < looks < took / 0.01, "each for itself would have looked more often"
    assert sum(client.finds) > looks * MANY / 2, "they don't share"
    held.go_on.set()
    results = await asyncio.gather(*waiting)
    assert [result["go"] for result in results] == [str(n) for n in range(MANY)]
    assert sum(client.loads) == MANY
    looks = len(client.finds)
    await asyncio.sleep(1.0)
    assert len(client.finds) == looks, "nobody waits, and it looks"


async def test_a_result_comes_soon_after_the_end(held, client):
    """Of those that take long, and of those that have ended already."""
    (handle, *_) = await client.start(held)
    waiting = asyncio.create_task(handle.result(timeout=30))
    await asyncio.sleep(0.2)
    assert client.app.sagas.poll == 0.5
    begun = time.monotonic()
    held.go_on.set()
    await waiting
    # A quarter of 0.2 s at most, and what a busy machine takes.
    assert time.monotonic() - begun < 0.35
    looks = len(client.finds)
    await handle.result(timeout=30)
    assert len(client.finds) == looks + 1


async def test_one_who_gives_up_leaves_the_others_alone(held, client):
    handles = await client.start(held)
    waiting = [asyncio.create_task(handle.result(timeout=30)) for handle in handles[1:]]
    with pytest.raises(TimeoutError):
        await handles[0].result(timeout=0.1)
    for task in waiting[::2]:
        task.cancel()
    held.go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers[::2]} == {asyncio.CancelledError}
    assert [answer["go"] for answer in answers[1::2]] == [str(n) for n in range(2, MANY, 2)]


async def test_each_gets_the_error_of_its_own_saga(held, client):
    handles = await client.start(held, amount=0)
    gone = client.app.handle("0190b5a1-0000-7000-8000-000000000000")
    waiting = [asyncio.create_task(h.result(timeout=30)) for h in [*handles, gone]]
    await asyncio.sleep(0.05)
    held.go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [*[SagaCompensated] * MANY, SagaNotFound]
    assert len({str(answer) for answer in answers}) == MANY + 1


async def test_a_database_that_is_away_is_waited_out(held, client):
    handles = await client.start(held)
    waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
    await asyncio.sleep(0.05)
    client.fails = True
    held.go_on.set()
    with pytest.raises(TimedOut, match="the database doesn't answer"):
        await handles[0].result(timeout=0.3)
    client.fails = False
    results = await asyncio.gather(*waiting)
    assert [result["go"] for result in results] == [str(number) for number in range(MANY)]


async def test_one_that_is_purged_meanwhile_is_gone(held, client):
    handles = await client.start(held)
    held.go_on.set()
    for handle in handles:
        await handle.result(timeout=30)
    find = client.find

    async def purging(filter: Any, **options: Any) -> Any:
        found = await find(filter, **options)
        await client.journal.purge("saga", finished_before=time.time() + 60, limit=MANY)
        return found

    client.find = purging  # between the look at the row and the one at the journal
    with pytest.raises(SagaNotFound):
        await handles[0].result(timeout=30)
