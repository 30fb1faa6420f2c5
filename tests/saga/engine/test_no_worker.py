"""Whoever waits for a result is told that nobody runs the saga."""

import asyncio
import logging

import pytest

from standfast import Context, Saga, SagaNotFound, Standfast, step
from standfast.coordination.membership import MEMBER
from standfast.ids import new_id
from standfast.ports.leases import LeaseStore
from standfast.saga import sagas as module
from tests.saga.engine.test_waits import Approved
from tests.saga.engine.world import Order, Trip, World, until


async def test_no_time_left_is_a_timeout_at_once(app_url, world):
    async with Standfast(app_url, migrate=True).add(Trip(world)) as app:
        handle = await app.start(Trip, Order("1"), key="k")
        for left in (0.0, -0.0047):
            with pytest.raises(TimeoutError, match="didn't end within 0s: no time was left to ask"):
                await handle.result(timeout=left)


async def test_a_timeout_says_that_no_live_worker_has_it(app_url, world):
    async with Standfast(app_url, migrate=True).add(Trip(world)) as app:
        handle = await app.start(Trip, Order("1"), key="k")
        with pytest.raises(TimeoutError) as told:
            await handle.result(timeout=0.3)
    assert str(told.value) == (
        "saga 'trip' with key 'k' didn't end within 0.3s: it is running, and no live worker has "
        "version 1 of saga 'trip': `standfast run` an app that has it (see `standfast sagas show "
        f"{handle.id}`)"
    )


async def test_a_worker_that_lacks_the_version_is_no_help(durable_url, world):
    """Its own sagas run there; it is another's that nobody has."""
    async with (
        Standfast(durable_url, migrate=True).add(Approved(world)).running(drain=1),
        Standfast(durable_url).add(Trip(world), Approved(world)) as client,
    ):
        lacking = await client.start(Trip, Order("1"))
        waiting = await client.start(Approved, Order("1"))

        async def waits():
            return await waiting.status() == "waiting"

        await until(waits)
        with pytest.raises(TimeoutError, match="no live worker has version 1 of saga 'trip'"):
            await lacking.result(timeout=0.4)
        with pytest.raises(TimeoutError) as told:
            await waiting.result(timeout=0.4)
        assert "it is waiting (see" in str(told.value)


async def test_a_worker_whose_lease_ran_out_is_no_help(app_url, world):
    """It died, and where no other is alive nobody has ended its lease."""
    async with Standfast(app_url, migrate=True).add(Trip(world)) as app:
        leases, note = app.database.port(LeaseStore), '{"kinds": [["saga", "trip", 1]]}'
        await leases.acquire([f"{MEMBER}dead"], "dead", ttl=0.01, note=note)
        await asyncio.sleep(0.05)
        handle = await app.start(Trip, Order("1"))
        with pytest.raises(TimeoutError, match="no live worker has version 1 of saga 'trip'"):
            await handle.result(timeout=0.3)


async def test_in_the_worker_itself_the_timeout_tells_how_it_stands(work, world):
    blocked = asyncio.Event()
    world.will("reserve", blocked.wait)
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"), key="k")
    with pytest.raises(
        TimeoutError, match=r"key .k. .*it is running in this process, in step reserve "
    ):
        await handle.result(timeout=0.2)
    blocked.set()
    await handle.result(timeout=10)


async def test_what_no_worker_has_a_slot_for_is_told_to_wait_for_one(durable_url):
    """Also where another process asks, and for a limit of the saga's own."""

    free, begun = asyncio.Event(), []

    class Held(Saga[int]):
        @step(no_compensation="it only waits")
        async def hold(self, number: int, ctx: Context) -> None:
            begun.append(number)
            await free.wait()

    class Lone(Held):
        max_in_flight = 1

    async with (
        Standfast(durable_url, migrate=True).add(Held(), Lone()).running(max_in_flight=2),
        Standfast(durable_url).add(Held(), Lone()) as client,
    ):
        first = await client.start(Lone, 1)
        await until(lambda: begun == [1])
        lone = await client.start(Lone, 2)
        await waits_for_a_slot(client, lone, "1 of max_in_flight=1 are taken (the limit of 'lone')")
        second = await client.start(Held, 3)
        await until(lambda: begun == [1, 3])
        other = await client.start(Held, 4, key="k")
        await waits_for_a_slot(client, other, "2 of max_in_flight=2 are taken")
        with pytest.raises(TimeoutError) as told:
            await other.result(timeout=0.4)
        why = "it is running, and waits for a slot: 2 of max_in_flight=2 are taken (see"
        assert why in str(told.value)
        free.set()
        for handle in (first, lone, second, other):
            await handle.result(timeout=10)
        assert not (await other.timeline()).pending


async def waits_for_a_slot(app, handle, taken):
    """As its timeline tells, and as operators are told."""
    (one,) = (await handle.timeline()).pending
    assert (one.kind, one.slots) == ("slot", taken)
    row = await app.sagas.instance(handle.id)
    assert (await app.operations.pending([row]))[handle.id] == [one]


async def test_somebody_elses_timeout_stays_as_it_is(app_url, world):
    async with Standfast(app_url, migrate=True).add(Trip(world)) as app:
        handle = await app.start(Trip, Order("1"))
        with pytest.raises(TimeoutError) as told:
            async with asyncio.timeout(0.1):
                await handle.result(timeout=60)
        assert str(told.value) == ""
        with pytest.raises(SagaNotFound):
            await app.handle(new_id()).result(timeout=60)


async def test_without_a_timeout_it_is_logged_once_for_all_who_wait(
    app_url, world, monkeypatch, caplog
):
    monkeypatch.setattr(module, "LOOK_FOR_WORKERS", 0.02)
    caplog.set_level(logging.WARNING, logger="standfast.saga")
    async with Standfast(app_url, migrate=True).add(Trip(World())) as app:
        handles = [await app.start(Trip, Order(str(number))) for number in range(5)]
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        await until(lambda: caplog.records)
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    (line,) = [one.getMessage() for one in caplog.records]
    assert line.startswith("still waiting for saga ")
    assert "no live worker has version 1 of saga 'trip'" in line


async def test_one_that_was_parked_for_lack_of_a_worker_is_told_to_run_once_it_does(
    durable_url, world
):
    """Not only once it has ended, or waits."""
    go = asyncio.Event()
    world.will("charge", go.wait)
    app = Standfast(durable_url, migrate=True).add(Trip(world))
    async with app:
        id = (await app.start(Trip, Order("1"))).id
        later = app.sagas.clock.now() + 60
        (row,) = await app.sagas.store.flag_unclaimable(
            "saga", due_before=later, status="parked", cause="no live worker"
        )
        assert (row.id, row.status) == (id, "parked")
    async with app.running(drain=2):
        await until(lambda: "charge" in world.calls)
        row = await app.sagas.instance(id)
        assert (row.status, row.cause) == ("running", "")
        go.set()
        await app.handle(id).result("10s")
