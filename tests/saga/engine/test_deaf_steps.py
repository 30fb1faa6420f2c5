"""Steps that don't heed their cancellation: the process leaves all the same, and says which."""

import asyncio
import logging

import pytest

from standfast import Context, Saga, Standfast, Transaction, step
from standfast.coordination import membership
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.saga import executor, runner
from tests.saga.engine.world import until

pytestmark = pytest.mark.slow  # they wait for what doesn't come

BOUND = 10.0


class Deaf(Saga[str]):
    """Its step goes on until `hears` is set, whatever is raised in it."""

    def __init__(self) -> None:
        self.hears = asyncio.Event()
        self.begun: list[str] = []
        self.swallowed = 0

    async def _go_on(self, word: str) -> None:
        self.begun.append(word)
        while not self.hears.is_set():
            try:
                await self.hears.wait()
            except asyncio.CancelledError:
                self.swallowed += 1

    @step(when=lambda self, word, ctx: word == "plain", no_compensation="x")
    async def plain(self, word: str, ctx: Context) -> None:
        await self._go_on(word)

    @step(when=lambda self, word, ctx: word == "each", each=lambda *_: [1, 2], no_compensation="x")
    async def each(self, word: str, ctx: Context, item: int) -> None:
        await self._go_on(word)

    @step(when=lambda self, word, ctx: word == "tx", transactional=True, no_compensation="x")
    async def inside(self, word: str, ctx: Context, tx: Transaction) -> None:
        await self.app_store(tx).send([])
        await self._go_on(word)

    def app_store(self, tx: Transaction):
        return tx.within(JournalStore)


@pytest.fixture
async def deaf():
    deaf = Deaf()
    yield deaf
    deaf.hears.set()  # or the test would never end


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(executor, "ENDS_WITHIN", 0.05)
    monkeypatch.setattr(membership, "_LEAVES_WITHIN", 0.5)


@pytest.mark.parametrize(
    ("word", "where"), [("plain", "plain"), ("each", "each[0], each[1]"), ("tx", "inside")]
)
async def test_the_process_leaves_and_gives_up_its_lease(app_url, deaf, word, where, hasty, caplog):
    app = Standfast(app_url, migrate=True).add(deaf)
    async with app:
        running = app.running(drain=0.05)
        async with asyncio.timeout(3 * BOUND):
            await running.__aenter__()
            handle = await app.start(Deaf, word)
            await until(lambda: deaf.begun)
            async with asyncio.timeout(BOUND):
                await running.__aexit__(None, None, None)
        assert deaf.swallowed
        said = [r for r in caplog.records if "doesn't heed its cancellation" in r.getMessage()]
        assert len(said) == len(deaf.begun), "each of its attempts is told of"
        for told in said:
            assert told.levelno == logging.ERROR
            assert f"saga deaf {handle.id}" in told.getMessage()
            assert f"in step {where}" in told.getMessage()
            assert "in _go_on\n    await self.hears.wait()" in told.getMessage()
        if word != "tx":  # its transaction may keep the store from all other writes
            assert await app.database.port(LeaseStore).leases() == []
        deaf.hears.set()
        # What it does late is written by nobody, and harms nobody.
        await until(lambda: not others())
        assert not [r for r in caplog.records if "can't go on here" in r.getMessage()]


def others() -> set:
    names = ("Runner._guard", "carry_out")
    return {t for t in asyncio.all_tasks() if t.get_coro().__qualname__.endswith(names)}


async def test_another_takes_over_what_a_deaf_step_left(app_url, deaf, hasty):
    """In the same process, by the next turn: the late end of the first attempt changes nothing."""
    app = Standfast(app_url, migrate=True).add(deaf)
    async with app:
        async with asyncio.timeout(BOUND), app.running(drain=0):
            handle = await app.start(Deaf, "plain")
            await until(lambda: deaf.begun)
        async with asyncio.timeout(BOUND), app.running():
            await until(lambda: len(deaf.begun) == 2)
            deaf.hears.set()
            await handle.result(timeout=BOUND)
        assert await handle.status() == "completed"


class Stubborn(Saga[str]):
    """Each of its attempts goes on until its run is let go, whatever is raised in it."""

    def __init__(self) -> None:
        self.may_end = [asyncio.Event(), asyncio.Event()]
        self.begun = 0

    @step(each=lambda *_: [1, 2], no_compensation="x")
    async def each(self, word: str, ctx: Context, item: int) -> str:
        run = self.begun // 2
        self.begun += 1
        while not self.may_end[run].is_set():
            try:
                await self.may_end[run].wait()
            except asyncio.CancelledError:
                pass
        return f"run {run}"


async def test_what_a_deaf_attempt_answers_after_its_saga_was_read_anew_counts_for_nothing(
    app_url, monkeypatch
):
    """Another attempt of its step is under way by then."""
    monkeypatch.setattr(runner, "HEEDS_WITHIN", 0.05)
    stubborn = Stubborn()
    app = Standfast(app_url, migrate=True).add(stubborn)
    async with asyncio.timeout(BOUND), app.running(drain=0.05):
        handle = await app.start(Stubborn, "x")
        await until(lambda: stubborn.begun == 2)
        app.sagas.executor.active[handle.id].task.cancel()  # as foreign code may do it
        await until(lambda: stubborn.begun == 4)
        stubborn.may_end[0].set()
        await until(lambda: len(others()) <= 3)
        stubborn.may_end[1].set()
        assert (await handle.result(timeout=BOUND))["each"] == ["run 1", "run 1"]
