"""Attempts in one task: none sees what another left in its context, whatever it left."""

import asyncio
from contextvars import ContextVar

import pytest

from standfast.saga.isolation import Isolation

known: ContextVar[object] = ContextVar("known")
fresh: ContextVar[object] = ContextVar("fresh")
ours: ContextVar[object] = ContextVar("ours")


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
        assert await isolation.run(leaves(value)) == (mine, "none", "none")
    assert await isolation.run(seen()) == (mine, "none", "none")
    assert isolation.context().run(known.get) is mine


async def test_what_the_engine_sets_between_attempts_is_seen() -> None:
    isolation = Isolation()
    ours.set(1)
    assert (await isolation.run(leaves("left")))[2] == 1
    token = ours.set(2)
    assert (await isolation.run(seen()))[2] == 2
    ours.reset(token)
    assert (await isolation.run(leaves("left")))[1:] == ("none", 1)
    assert isolation.context().run(ours.get) == 1


async def test_one_that_leaves_nothing_costs_no_context_of_its_own() -> None:
    isolation = Isolation()

    async def tidy() -> object:
        token = known.set("for a while")
        await asyncio.sleep(0)
        known.reset(token)
        return isolation

    await isolation.run(tidy())
    ours.set(3)
    assert (await isolation.run(seen()))[2] == 3
    assert await isolation.run(leaves("x")) == ("none", "none", 3)


async def test_what_an_attempt_that_failed_left_isnt_seen_either() -> None:
    isolation = Isolation()

    async def fails() -> None:
        known.set("left")
        raise OSError

    with pytest.raises(OSError):
        await isolation.run(fails())
    assert (await isolation.run(seen()))[0] == "none"
    with pytest.raises(asyncio.CancelledError):
        await isolation.run(cancelled())
    assert (await isolation.run(seen()))[0] == "none"


async def cancelled() -> None:
    known.set("left")
    raise asyncio.CancelledError


async def test_attempts_in_tasks_beside_are_apart_as_well() -> None:
    isolation = Isolation()
    await isolation.run(leaves("left"))
    found = await asyncio.gather(*(isolation.run(leaves(n)) for n in range(3)))
    assert found == [("none", "none", "none")] * 3
