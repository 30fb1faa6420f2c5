"""What is done to its end, however often who does it is cancelled."""

import asyncio

import pytest

from standfast.shielding import shielded
from standfast.testing.virtual import VirtualLoop


async def cancel_again_and_again(task, message="enough"):
    """As the scopes of anyio do: in each iteration of the event loop."""
    while not task.done():
        task.cancel(message)
        await asyncio.sleep(0)


async def test_it_gives_what_comes_of_the_work():
    async def works():
        return 1

    async def fails():
        raise OSError("no")

    assert await shielded(works()) == 1
    with pytest.raises(OSError, match="no"):
        await shielded(fails())


@pytest.mark.parametrize("error", [None, OSError("no")])
async def test_the_caller_is_cancelled_once_the_work_is_done(error):
    done = []

    async def work():
        for _ in range(20):
            await asyncio.sleep(0)
        done.append(True)
        if error is not None:
            raise error

    task = asyncio.create_task(shielded(work()))
    await asyncio.sleep(0)
    await cancel_again_and_again(task)
    with pytest.raises(asyncio.CancelledError, match="enough") as found:
        await task
    assert (done, found.value.__cause__) == ([True], error)


async def test_work_that_is_cancelled_itself_ends_it():
    """As when `asyncio.run` ends all tasks."""

    async def work():
        await asyncio.sleep(1e6)

    task = asyncio.create_task(shielded(work()))
    await asyncio.sleep(0)
    (inner,) = asyncio.all_tasks() - {task, asyncio.current_task()}
    inner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("patient", [False, True])
def test_it_may_take_no_longer_than_that_once_its_caller_is_cancelled(patient):
    loop = VirtualLoop(max_turns=10_000)

    async def work():
        await asyncio.sleep(1e6)

    async def judge():
        task = asyncio.create_task(shielded(work(), within=2.0))
        await asyncio.sleep(100.0)
        assert not task.done()
        while not task.done():
            if patient and task.cancelling():
                break
            task.cancel()
            await asyncio.sleep(0.1)
        await asyncio.wait((task,))
        assert task.cancelled()
        assert loop.time() - 100.0 == pytest.approx(2.0, abs=0.2)

    try:
        loop.run_until_complete(judge())
    finally:
        loop.end()
