"""An app that is left: however often that is cancelled, nothing of it goes on."""

import asyncio

import pytest

from standfast import Context, Saga, Standfast, step
from standfast.pattern import Pattern
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from tests.test_shielding import cancel_again_and_again


class Waits(Saga[int]):
    def __init__(self) -> None:
        self.begun = asyncio.Event()

    @step(no_compensation="it does nothing")
    async def wait(self, number: int, ctx: Context) -> None:
        self.begun.set()
        await asyncio.sleep(1e6)


class Slow(Pattern):
    """One that takes a while to close."""

    def __init__(self) -> None:
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.is_open = False


class Refuses(Pattern):
    """One that takes for ever to open."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def open(self) -> None:
        self.begun.set()
        await asyncio.sleep(1e6)


@pytest.fixture(params=["memory", "sqlite"])
def url(request, tmp_path):
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/app.db"


async def test_what_it_had_in_hand_goes_to_others_at_once(url):
    saga = Waits()
    app = Standfast(url).add(saga)
    async with app:
        handle = await app.start(Waits, 1)

        async def work():
            async with app.running():
                await asyncio.sleep(1e6)

        task = asyncio.create_task(work())
        await saga.begun.wait()
        before = asyncio.all_tasks() - {task}
        await cancel_again_and_again(task)
        assert task.cancelled()
        assert app.supervisor is None
        assert asyncio.all_tasks() <= before
        ((row, *_),) = [await app.database.port(JournalStore).load([handle.id])]
        assert row.instance.owner is None
        assert await app.database.port(LeaseStore).leases() == []


async def test_an_app_that_is_left_is_closed(url):
    slow = Slow()
    app = Standfast(url).add(slow)

    is_inside = asyncio.Event()

    async def use():
        async with app:
            is_inside.set()
            await asyncio.sleep(1e6)

    task = asyncio.create_task(use())
    await is_inside.wait()
    await cancel_again_and_again(task)
    assert not slow.is_open
    async with app:
        assert slow.is_open, "opened anew"


async def test_an_app_whose_opening_is_cancelled_is_closed(url):
    slow, refuses = Slow(), Refuses()
    app = Standfast(url).add(slow).add(refuses)
    task = asyncio.create_task(app.__aenter__())
    await refuses.begun.wait()
    await cancel_again_and_again(task)
    assert task.cancelled()
    assert not slow.is_open
