"""Starting: idempotent by key, and run whatever becomes of the caller who started it."""

import asyncio

import pytest

from standfast import SagaConflict, SagaNotFound, Standfast
from tests.saga.engine.world import Order, Trip, until


async def test_starting_again_answers_with_the_one_there_is(work, world):
    app = await work(Trip(world))
    first = await app.start(Trip, Order("1"), key="k")
    running = await app.start(Trip, Order("1"), key="k")
    assert (first.created, running.created) == (True, False)
    assert running.id == first.id
    await first.result(timeout=5)
    finished = await app.start(Trip, Order("1"), key="k")
    assert (finished.id, finished.created) == (first.id, False)
    assert (await finished.result(timeout=5))["note"] == "note of charge"
    assert (await app.saga(Trip, "k")).id == first.id
    with pytest.raises(SagaConflict, match="another input"):
        await app.start(Trip, Order("2"), key="k")
    with pytest.raises(SagaNotFound, match="'other'"):
        await app.saga(Trip, "other")
    assert world.log == ["reserve", "charge", "note"], "it ran once"


async def test_many_starts_with_one_key_at_once_are_one(work, world):
    app = await work(Trip(world))
    handles = await asyncio.gather(*(app.start(Trip, Order("1"), key="k") for _ in range(50)))
    assert len({handle.id for handle in handles}) == 1
    assert sum(handle.created for handle in handles) == 1
    await handles[0].result(timeout=5)
    assert world.log == ["reserve", "charge", "note"]


async def test_one_whose_caller_gave_up_runs_all_the_same(work, world):
    """Committed under this worker's lease, it would belong to a worker that doesn't know it."""
    app = await work(Trip(world), poll=0.1)
    given_up = []
    for number in range(30):
        start = asyncio.create_task(app.start(Trip, Order(str(number)), key=str(number)))
        for _ in range(number % 10):
            await asyncio.sleep(0)
        if not start.done():
            start.cancel()
            given_up.append(str(number))
        await asyncio.wait([start])
    assert given_up

    async def written():
        found = []
        for key in given_up:
            try:
                found.append(await app.saga(Trip, key))
            except SagaNotFound:
                continue  # given up before it was written, or not written yet
        return found

    await until(written)  # nobody waits for these writes, so they come when they come
    for handle in await written():
        assert (await handle.result(timeout=10))["note"] == "note of charge"
    executor = app.sagas.executor
    await until(lambda: not executor.active)
    assert executor.desk.slots.taken == 0


async def test_a_start_in_a_transaction_is_rolled_back_with_it(work, world):
    app = await work(Trip(world))
    with pytest.raises(ZeroDivisionError):
        async with app.transaction() as tx:
            await tx.start(Trip, Order("1"), key="k")
            raise ZeroDivisionError
    with pytest.raises(SagaNotFound):
        await app.saga(Trip, "k")
    async with app.transaction() as tx:
        handle = await tx.start(Trip, Order("1"), key="k")
        assert world.calls == [], "it isn't run before it is committed"
    assert (await handle.result(timeout=5))["note"] == "note of charge"


async def test_one_started_by_another_process_is_found_by_the_worker(durable_url, world):
    async with Standfast(durable_url, migrate=True).add(Trip(world)) as client:
        handle = await client.start(Trip, Order("1"), key="k")
        assert await handle.status() == "running"
        worker = Standfast(durable_url).add(Trip(world))
        async with worker.running(drain=2):
            assert (await handle.result(timeout=10))["note"] == "note of charge"
