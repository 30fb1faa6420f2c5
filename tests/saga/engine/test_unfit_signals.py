"""A signal whose payload isn't what the wait takes: whoever sent it knew no code, or another's."""

import asyncio
from typing import Any

import attrs
import msgspec
import pytest

from standfast import Context, Saga, Standfast, step, wait
from standfast.errors import Unreadable
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.classes import saga_class
from tests.saga.engine.world import until


@attrs.frozen
class Approval:
    by: str
    level: int = 1


class Pay(Saga[str]):
    """Pays once it is approved, and parks if it can't wait for that."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    approved = wait("approved", type=Approval)

    @step(pivot=True)
    async def pay(self, order: str, ctx: Context) -> str:
        self.log.append(f"paid, by {ctx.result(self.approved).by}")
        return "paid"


class Hurried(Pay):
    name = "hurried"
    approved = wait("approved", type=Approval, timeout="20ms", on_timeout="park")


async def send(app: Standfast, handle: Any, payload: bytes, name: str = "approved") -> None:
    """As `standfast sagas signal` does where it is given the address of the database."""
    await app.sagas.send(handle.id, ev.Signalled(name, msgspec.Raw(payload)))


async def ignored(handle: Any) -> list[str]:
    facts = (await handle.story()).facts
    return [f"{fact.act}: {fact.why}" for fact in facts if isinstance(fact, fx.Ignored)]


@pytest.mark.parametrize("payload", [b'"ann"', b"null", b'{"by":7}', b'{"level":1}'])
async def test_it_is_ignored_and_told_and_the_next_is_taken(work, payload):
    log: list[str] = []
    app = await work(Pay(log))
    handle = await app.start(Pay, "1")
    await send(app, handle, payload)
    await until(lambda: ignored(handle))
    assert await handle.status() == "waiting"
    assert log == []
    (told,) = await ignored(handle)
    assert told.startswith(
        "signal approved: its payload isn't an Approval, which approved waits for ("
    )
    assert "ignored signal approved: its payload isn't" in f"{await handle.timeline()}"
    await send(app, handle, b'{"by":"bob"}')
    await handle.result(timeout=10)
    assert log == ["paid, by bob"]


async def test_it_doesnt_wake_what_is_parked(work):
    log: list[str] = []
    app = await work(Hurried(log))
    handle = await app.start(Hurried, "1")

    async def is_parked():
        return await handle.status() == "parked"

    await until(is_parked)
    await send(app, handle, b'"ann"')
    await until(lambda: ignored(handle))
    assert await handle.status() == "parked"
    assert not [f for f in (await handle.story()).facts if isinstance(f, fx.Resumed)]


async def test_one_for_no_wait_is_kept(work):
    app = await work(Pay([]))
    handle = await app.start(Pay, "1")
    await send(app, handle, b'"ann"', name="other")
    await send(app, handle, b'"ann"', name="resume")
    await send(app, handle, b'{"by":"bob"}')
    await handle.result(timeout=10)
    assert await ignored(handle) == []


def asking(type_: Any) -> Saga[Any]:
    """A saga whose second wait takes a `type_`."""
    body = {"name": "asks", "first": wait("first"), "second": wait("second", type=type_)}
    return saga_class(Saga[str], body, "Asks")()


async def test_one_that_came_early_is_ignored_by_code_with_another_type(durable_url):
    app = Standfast(durable_url, migrate=True).add(asking(str))
    async with app.running(drain=5):
        handle = await app.start("asks", "1")
        await handle.signal("second", "ann")

        async def is_stored():
            facts = (await handle.story()).facts
            return any(isinstance(fact, fx.SignalReceived) for fact in facts)

        await until(is_stored)
    app = Standfast(durable_url).add(asking(int))
    async with app.running(drain=5):
        handle = app.handle(handle.id)
        await handle.signal("first")
        await until(lambda: ignored(handle))
        assert await handle.status() == "waiting"
        await handle.signal("second", 7)
        assert (await handle.result(timeout=10))["second"] == 7
    app = Standfast(durable_url).add(asking(int))
    async with app:  # its journal says the same once more
        assert (await app.handle(handle.id).result(timeout=10))["second"] == 7


async def test_a_result_that_new_code_cant_read_is_an_error_of_ours(durable_url):
    app = Standfast(durable_url, migrate=True).add(asking(str))
    async with app.running(drain=5):
        handle = await app.start("asks", "1")
        await asyncio.gather(handle.signal("first"), handle.signal("second", "ann"))
        await handle.result(timeout=10)
    async with Standfast(durable_url).add(asking(int)) as app:
        result = await app.handle(handle.id).result(timeout=10)
        with pytest.raises(Unreadable, match="the result of second can't be read"):
            result["second"]
