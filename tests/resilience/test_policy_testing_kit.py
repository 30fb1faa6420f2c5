"""ManualClock and FaultyFunction, which other tests rest on."""

import asyncio

import pytest

from standfast.testing import FaultyFunction, ManualClock


async def test_sleepers_wake_in_the_order_of_their_times():
    clock, woken = ManualClock(), []

    async def sleeper(duration):
        await clock.sleep(duration)
        woken.append((duration, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(d)) for d in (3, 1, 2)]
    await clock.run(2.5)
    assert woken == [(1, 1), (2, 2)]
    clock.advance("500ms")
    await asyncio.gather(*tasks)
    assert woken[-1] == (3, 3)
    assert clock.slept == [3, 1, 2]


async def test_who_sleeps_again_wakes_again_in_one_run():
    clock, woken = ManualClock(), []

    async def ticks():
        for _ in range(5):
            await clock.sleep(1)
            woken.append(clock.monotonic())

    task = asyncio.create_task(ticks())
    await clock.run(10)
    assert task.done()
    assert woken == [1, 2, 3, 4, 5]
    assert clock.monotonic() == 10


async def test_a_cancelled_sleeper_is_no_trouble():
    clock = ManualClock()
    task = asyncio.create_task(clock.sleep(1))
    await clock.settle()
    task.cancel()
    await asyncio.wait([task])
    await clock.run(2)
    assert task.cancelled()


async def test_an_automatic_clock_moves_by_itself():
    clock = ManualClock(auto=True, wall=100)
    await clock.sleep(5)
    clock.pause(2)
    await clock.sleep(-1)
    assert (clock.monotonic(), clock.now()) == (7, 107)
    clock.set_wall(0)
    clock.advance(1)
    assert (clock.monotonic(), clock.now()) == (8, 1)


async def test_a_faulty_function_follows_its_script():
    faulty = FaultyFunction([1, OSError, KeyError("k")], then="last")
    assert faulty(7, a=8) == 1
    with pytest.raises(OSError):
        await faulty.awaited()
    with pytest.raises(KeyError, match="k"):
        faulty()
    assert await faulty.awaited() == faulty() == "last"
    assert faulty.calls[0] == ((7,), {"a": 8})
    assert len(faulty.calls) == 5
    assert faulty.most_at_once == 1


async def test_an_instance_is_raised_afresh_with_its_attributes():
    error = OSError(13, "no")
    error.retry_after = 5
    faulty = FaultyFunction(then=error)
    for _ in range(2):
        with pytest.raises(OSError, match="no") as caught:
            faulty()
        assert caught.value is not error
        assert caught.value.retry_after == 5


async def test_it_counts_who_runs_together_and_who_was_cancelled():
    faulty = FaultyFunction(takes=60)
    tasks = [asyncio.create_task(faulty.awaited()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert (faulty.most_at_once, faulty.cancelled) == (3, 3)
