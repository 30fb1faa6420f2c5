"""Sagas that can't be run any more can be ended all the same: without their code, or unreadable."""

import asyncio
import json
import sqlite3

import asyncpg
import pytest

from standfast import Context, Saga, SagaCompensated, Standfast, child, step, wait
from standfast.saga.operations import Operations
from tests.saga.engine.world import SOON, until


class Gone(Saga[int]):
    go = wait("go")


class Part(Saga[int]):
    go = wait("go")


class Whole(Saga[int]):
    part = child(Part, lambda self, number, ctx: number)


async def status_of(handle):
    return await handle.status()


@pytest.mark.parametrize("working", [True, False])
async def test_one_whose_code_is_gone_is_resolved(durable_url, working):
    app = Standfast(durable_url, migrate=True).add(Gone(), Part(), Whole())
    async with app.running(drain=2):
        gone = await app.start(Gone, 1)
        whole = await app.start(Whole, 2)
        await until(lambda: _waits(gone))
        await until(lambda: _waits(whole))
        part = await app.sagas.store.by_key("saga", "part", f"{whole.id}:part")
        await until(lambda: _waits(app.handle(part.id)))
    left = Standfast(durable_url).add(Whole())  # and what it waits for is gone as well
    left.sagas.definitions.check_children = lambda: None  # type: ignore[method-assign]
    async with left.running(poll=0.2, drain=2) if working else left:
        operations = Operations(left.sagas)
        assert await operations.resolve(left.handle(gone.id), "completed", reason="by phone") == 1
        found = await left.sagas.instance(gone.id)
        assert (found.status, found.cause) == ("completed", "resolved by hand: by phone")
        assert found.finished_at is not None
        assert found.owner is None
        last = (await left.handle(gone.id).timeline()).entries[-1]
        assert last.text == "resolved as completed: by phone"
        assert await operations.resolve(part.id, "compensated", reason="by phone") == 1
        assert (await left.sagas.instance(part.id)).status == "compensated"
        assert [lease for lease in await _leases(left) if lease.startswith("resolve")] == []
        if working:
            with pytest.raises(SagaCompensated, match="child saga compensated: resolved by hand"):
                await left.handle(whole.id).result("10s")


async def _leases(app):
    from standfast.ports.leases import LeaseStore

    return [one.name for one in await app.database.port(LeaseStore).leases()]


async def _waits(handle):
    return await handle.status() == "waiting"


async def test_one_that_a_live_worker_has_is_left_to_it(durable_url):
    """It may be in the middle of an attempt, which only that worker knows."""
    app = Standfast(durable_url, migrate=True).add(Gone())
    async with app.running(drain=2), Standfast(durable_url) as elsewhere:
        handle = await app.start(Gone, 1)
        await until(lambda: _waits(handle))
        await Operations(elsewhere.sagas).resolve(handle.id, "completed", reason="x")
        await handle.result("10s")
        assert (await handle.timeline()).entries[-1].text == "resolved as completed: x"


async def _damage(url, id):
    text = json.dumps({"kind": "of a release to come"})
    if url.startswith("sqlite"):
        con = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        con.execute("UPDATE standfast_journal SET fact = ? WHERE id = ?", (text, id.bytes))
        con.close()
        return
    con = await asyncpg.connect(url)
    await con.execute("UPDATE standfast.journal SET fact = $1 WHERE id = $2", text, id)
    await con.close()


async def test_one_that_cant_be_read_is_resolved_and_its_parent_goes_on(durable_url, caplog):
    app = Standfast(durable_url, migrate=True).add(Part(), Whole())
    async with app.running(drain=2):
        whole = await app.start(Whole, 2)
        await until(lambda: _waits(whole))
        part = await app.sagas.store.by_key("saga", "part", f"{whole.id}:part")
        await until(lambda: _waits(app.handle(part.id)))
    await _damage(durable_url, part.id)
    async with app.running(poll="1h", drain=2):  # each tells the next one
        operations = Operations(app.sagas)
        whole = app.handle(whole.id)
        await whole.cancel("too late")
        await until(lambda: _status(app, part.id, "parked"))
        assert await whole.status() == "compensating"
        await operations.resolve(part.id, "compensated", reason="by hand")
        await until(lambda: _status(app, part.id, "compensated"))
        await until(lambda: _status(app, whole.id, "compensated"))
        assert "which can't be run, was resolved by hand" in caplog.text
        await operations.skip(part.id, reason="nothing is stuck")
        await asyncio.sleep(0.5)
        assert await _status(app, part.id, "compensated"), "it stays ended"


async def _status(app, id, wanted):
    return (await app.sagas.instance(id)).status == wanted


class Slow(Saga[int]):
    @step(retry=SOON)
    async def one(self, number: int, ctx: Context) -> None: ...

    @one.compensation
    async def undo(self, number: int, ctx: Context) -> None:
        raise OSError("away")

    go = wait("go")


async def test_a_parent_that_waits_for_an_undo_and_an_undo_that_pauses_can_be_resolved(app_url):
    app = Standfast(app_url, migrate=True).add(Slow(), Part(), Whole())
    async with app.running(drain=2):
        handle = await app.start(Slow, 1)
        await until(lambda: _waits(handle))
        await handle.cancel("stop")
        await until(lambda: _paused(handle))
        await Operations(app.sagas).resolve(handle, "compensated", reason="by hand")
        await until(lambda: _status(app, handle.id, "compensated"))
        text = (await handle.timeline()).entries[-1].text
        assert text == "resolved as compensated: by hand"


async def _paused(handle):
    return any(one.kind == "retry" for one in (await handle.timeline()).pending)
