"""Starts that begin later: at a time, or after one."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from standfast import (
    ConfigurationError,
    Saga,
    SagaCompensated,
    SagaConflict,
    Standfast,
    wait,
)
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.operations import Operations
from standfast.saga.timeline import as_text, entries
from tests.saga.engine.world import Order, Trip, until


async def test_it_begins_after_a_while_and_not_before(work, world):
    app = await work(Trip(world), linger=0.01)
    handle = await app.start(Trip, Order("1"), key="k", after="400ms")
    assert handle.created
    row = await app.sagas.instance(handle.id)
    assert (row.status, row.owner) == ("waiting", None)
    assert row.wake_at == pytest.approx(row.created_at + 0.4)
    assert world.calls == []
    assert (await handle.result(timeout=10))["note"] == "note of charge"
    facts = (await handle.story()).facts
    assert isinstance(facts[1], fx.Begun)
    assert facts[1].at >= row.wake_at
    told = as_text(entries(facts))
    assert "begins in 0.4s" in told


async def test_at_a_time_in_a_transaction(work, world):
    app = await work(Trip(world))
    at = datetime.now(UTC) + timedelta(seconds=0.3)
    async with app.transaction() as tx:
        handle = await tx.start(Trip, Order("1"), at=at)
    assert await handle.status() == "waiting"
    await handle.result(timeout=10)
    (begun,) = [f for f in (await handle.story()).facts if isinstance(f, fx.Begun)]
    assert begun.at >= at.timestamp()


async def test_a_time_that_has_passed_is_at_once(work, world):
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"), at=datetime(2001, 1, 1, tzinfo=UTC))
    await handle.result(timeout=5)
    again = await app.start(Trip, Order("2"), after=0)
    await again.result(timeout=5)
    for one in (handle, again):
        assert not any(isinstance(fact, fx.Begun) for fact in (await one.story()).facts)


async def test_cancelled_before_it_begins_nothing_runs(work, world):
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"), after="3d")
    await handle.cancel("never mind")
    with pytest.raises(SagaCompensated, match="never mind"):
        await handle.result(timeout=5)
    assert world.calls == []


async def test_a_signal_that_comes_before_it_begins_is_kept(work, world):
    class Asked(Saga[Order]):
        answer = wait("answer", type=str)

    app = await work(Asked())
    handle = await app.start(Asked, Order("1"), after="300ms")
    await handle.signal("answer", "yes")
    await until(lambda: _has(handle, fx.SignalReceived))
    assert await handle.status() == "waiting"
    assert (await handle.result(timeout=10))["answer"] == "yes"


async def test_the_deadline_counts_from_the_beginning(work, world):
    class Hurried(Trip):
        deadline = "1h"

    app = await work(Hurried(world))
    handle = await app.start(Hurried, Order("1"), after="2h")
    row = await app.sagas.instance(handle.id)
    assert row.deadline_at == pytest.approx(row.created_at + 3 * 3600)
    assert await handle.status() == "waiting"


async def test_after_a_time_that_has_passed_there_is_the_whole_deadline(work, world):
    class Hurried(Trip):
        deadline = "1h"

    app = await work(Hurried(world))
    handle = await app.start(Hurried, Order("1"), at=datetime.now(UTC) - timedelta(hours=2))
    row = await app.sagas.instance(handle.id)
    assert row.deadline_at == pytest.approx(row.created_at + 3600)
    assert (await handle.result(timeout=10))["note"] == "note of charge"


async def test_the_first_start_of_a_key_says_when(work, world):
    app = await work(Trip(world))
    first = await app.start(Trip, Order("1"), key="k", after="3d")
    again = await app.start(Trip, Order("1"), key="k", after="5d")
    at_once = await app.start(Trip, Order("1"), key="k")
    assert (again.id, again.created) == (at_once.id, at_once.created) == (first.id, False)
    row = await app.sagas.instance(first.id)
    assert row.wake_at == pytest.approx(row.created_at + 3 * 86_400)
    with pytest.raises(SagaConflict):
        await app.start(Trip, Order("2"), key="k", after="3d")
    assert world.calls == []


async def test_what_makes_no_sense_is_refused(work, world):
    app = await work(Trip(world))
    at = datetime(2030, 1, 1)
    with pytest.raises(ConfigurationError, match="has no time zone"):
        await app.start(Trip, Order("1"), at=at)
    with pytest.raises(ConfigurationError, match="give one of the two"):
        await app.start(Trip, Order("1"), at=at.replace(tzinfo=UTC), after="3d")
    with pytest.raises(ConfigurationError, match="after=-1: a duration"):
        await app.start(Trip, Order("1"), after=-1)
    with pytest.raises(ConfigurationError, match=r"at='2030-01-01': give a datetime"):
        await app.start(Trip, Order("1"), at="2030-01-01")
    async with app.transaction() as tx:
        with pytest.raises(ConfigurationError, match="has no time zone"):
            await tx.start(Trip, Order("1"), at=at)


async def test_operators_start_later_too(work, world):
    app = await work(Trip(world))
    handle = await Operations(app.sagas).start("trip", b'{"id": "1"}', after="3d")
    assert await handle.status() == "waiting"
    await app.sagas.send(handle.id, ev.ResolveAsked("compensated", "it isn't wanted", "me"))
    await until(lambda: _is(handle, "compensated"))
    assert world.calls == []


async def test_another_process_begins_it_in_time(durable_url, world):
    async with Standfast(durable_url, migrate=True).add(Trip(world)) as client:
        worker = Standfast(durable_url).add(Trip(world))
        async with worker.running(drain=2, poll=30):
            handle = await client.start(Trip, Order("1"), after="300ms")
            begun = time.monotonic()
            await handle.result(timeout=20)
            assert time.monotonic() - begun < 10, "it was found by a poll"


async def test_a_duration_is_told_from_the_beginning(work, world):
    app = await work(Trip(world))
    seen = []
    app.sagas.telemetry._duration = Recorder(seen)
    handle = await app.start(Trip, Order("1"), after="500ms")
    await handle.result(timeout=10)
    cancelled = await app.start(Trip, Order("1"), after="3d")
    await cancelled.cancel()
    await until(lambda: len(seen) == 2)
    assert 0 <= seen[0] < 0.45
    assert seen[1] == 0


class Recorder:
    """A histogram that keeps what it is told."""

    def __init__(self, seen: list[float]) -> None:
        self.seen = seen

    def record(self, value: float, attributes: dict[str, str]) -> None:
        self.seen.append(value)


async def _has(handle, kind):
    return any(isinstance(fact, kind) for fact in (await handle.story()).facts)


async def _is(handle, wanted):
    return await handle.status() == wanted
