"""Attempts in one task: none sees what another left in its context, whatever it left."""

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

from standfast.saga.isolation import Isolation, look

known: ContextVar[object] = ContextVar("known")
fresh: ContextVar[object] = ContextVar("fresh")
ours: ContextVar[object] = ContextVar("ours")


class Runner:
    """Runs attempts as that of sagas does, in the task that drives one."""

    def __init__(self) -> None:
        driver = asyncio.current_task()
        assert driver is not None
        self.driver = driver
        self.isolation: Isolation | None = None

    async def run(self, attempt: Coroutine[Any, Any, Any]) -> Any:
        isolation, before = self.isolation, copy_context()
        try:
            return await (attempt if isolation is None else isolation.enclosed(attempt))
        finally:
            self.isolation = self.isolation or look(before, self.driver)

    def context(self) -> Context:
        return copy_context() if self.isolation is None else self.isolation.context()


async def seen() -> tuple[object, object, object]:
    await asyncio.sleep(0)
    return known.get("none"), fresh.get("none"), ours.get("none")


async def leaves(value: object) -> tuple[object, object, object]:
    found = await seen()
    known.set(value)
    fresh.set(value)
    await asyncio.sleep(0)
    assert known.get() is value
    return found


class Odd:
    """As the arrays of some libraries are, which can't be compared."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit("ambiguous")

    def __hash__(self) -> int:
        return 0


@pytest.mark.parametrize("value", ["left", Odd()])
async def test_nobody_sees_what_an_attempt_left(value: object) -> None:
    known.set(Odd() if isinstance(value, Odd) else "the worker's")
    mine = known.get()
    runner = Runner()
    for _ in range(3):
        assert await runner.run(leaves(value)) == (mine, "none", "none")
    assert await runner.run(seen()) == (mine, "none", "none")
    assert runner.context().run(known.get) is mine


async def test_what_the_engine_sets_between_attempts_is_seen() -> None:
    runner = Runner()
    ours.set(1)
    assert (await runner.run(leaves("left")))[2] == 1
    token = ours.set(2)
    assert (await runner.run(seen()))[2] == 2
    ours.reset(token)
    assert (await runner.run(leaves("left")))[1:] == ("none", 1)
    assert runner.context().run(ours.get) == 1


async def test_one_that_leaves_nothing_costs_no_context_of_its_own() -> None:
    runner = Runner()

    async def tidy() -> object:
        token = known.set("for a while")
        await asyncio.sleep(0)
        known.reset(token)
        return runner

    await runner.run(tidy())
    ours.set(3)
    assert (await runner.run(seen()))[2] == 3
    assert await runner.run(leaves("x")) == ("none", "none", 3)


async def test_what_an_attempt_that_failed_left_isnt_seen_either() -> None:
    runner = Runner()

    async def fails() -> None:
        known.set("left")
        raise OSError

    with pytest.raises(OSError):
        await runner.run(fails())
    assert (await runner.run(seen()))[0] == "none"
    with pytest.raises(asyncio.CancelledError):
        await runner.run(cancelled())
    assert (await runner.run(seen()))[0] == "none"


async def cancelled() -> None:
    known.set("left")
    raise asyncio.CancelledError


async def test_attempts_in_tasks_beside_are_apart_as_well() -> None:
    runner = Runner()
    await runner.run(leaves("left"))
    found = await asyncio.gather(*(runner.run(leaves(n)) for n in range(3)))
    assert found == [("none", "none", "none")] * 3


async def test_one_in_a_task_of_its_own_hides_nothing_that_the_driver_left_meanwhile() -> None:
    runner, goes_on = Runner(), asyncio.Event()

    async def beside() -> None:
        fresh.set("beside")
        await goes_on.wait()

    other = asyncio.create_task(runner.run(beside()))
    await asyncio.sleep(0)
    await runner.run(leaves("left"))
    goes_on.set()
    await other
    assert await runner.run(seen()) == ("none", "none", "none")
    later = asyncio.create_task(runner.run(leaves("later")))
    await later
    assert await runner.run(seen()) == ("none", "none", "none")
