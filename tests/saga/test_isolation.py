"""Attempts in one task: none sees what another left in its context, whatever it left."""

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from standfast.saga.isolation import Isolation

known: ContextVar[object] = ContextVar("known")
fresh: ContextVar[object] = ContextVar("fresh")
ours: ContextVar[object] = ContextVar("ours")


async def attempt(isolation: Isolation, attempted: Coroutine[Any, Any, Any]) -> Any:
    """As the runner has it, in the task that drives the saga."""
    before, task = copy_context(), asyncio.current_task()
    assert task is not None
    try:
        return await isolation.enclosed(attempted)
    finally:
        isolation.look(before, task)


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
    isolation = Isolation()
    for _ in range(3):
        assert await attempt(isolation, leaves(value)) == (mine, "none", "none")
    assert await attempt(isolation, seen()) == (mine, "none", "none")
    assert isolation.context().run(known.get) is mine


async def test_what_the_engine_sets_between_attempts_is_seen() -> None:
    isolation = Isolation()
    ours.set(1)
    assert (await attempt(isolation, leaves("left")))[2] == 1
    token = ours.set(2)
    assert (await attempt(isolation, seen()))[2] == 2
    ours.reset(token)
    assert (await attempt(isolation, leaves("left")))[1:] == ("none", 1)
    assert isolation.context().run(ours.get) == 1


async def test_one_that_leaves_nothing_costs_no_context_of_its_own() -> None:
    isolation = Isolation()

    async def tidy() -> object:
        token = known.set("for a while")
        await asyncio.sleep(0)
        known.reset(token)
        return isolation

    await attempt(isolation, tidy())
    ours.set(3)
    assert (await attempt(isolation, seen()))[2] == 3
    assert await attempt(isolation, leaves("x")) == ("none", "none", 3)


async def test_what_an_attempt_that_failed_left_isnt_seen_either() -> None:
    isolation = Isolation()

    async def fails() -> None:
        known.set("left")
        raise OSError

    with pytest.raises(OSError):
        await attempt(isolation, fails())
    assert (await attempt(isolation, seen()))[0] == "none"
    with pytest.raises(asyncio.CancelledError):
        await attempt(isolation, cancelled())
    assert (await attempt(isolation, seen()))[0] == "none"


async def cancelled() -> None:
    known.set("left")
    raise asyncio.CancelledError


async def test_attempts_in_tasks_beside_are_apart_as_well() -> None:
    isolation = Isolation()
    await attempt(isolation, leaves("left"))
    found = await asyncio.gather(*(attempt(isolation, leaves(n)) for n in range(3)))
    assert found == [("none", "none", "none")] * 3


async def test_what_one_in_a_task_of_its_own_left_hides_nothing_of_the_driver() -> None:
    isolation = Isolation()
    driver = asyncio.current_task()
    assert driver is not None

    async def beside() -> None:
        before = copy_context()
        fresh.set("beside")
        await asyncio.sleep(0)
        isolation.look(before, driver)

    async def leaves_late() -> None:
        known.set("left")
        await asyncio.gather(beside())

    await attempt(isolation, leaves_late())
    assert await attempt(isolation, seen()) == ("none", "none", "none")
    await asyncio.gather(beside())
    assert await attempt(isolation, seen()) == ("none", "none", "none")
