"""Finding sagas and acting on them, on every backend."""

import pytest

from standfast import SagaParked
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.diagram import mermaid
from standfast.saga.operations import Operations
from tests.saga.engine.test_waits import Pivoted
from tests.saga.engine.world import Order, until


async def test_finds_acts_and_draws(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await app.start(Pivoted, Order("1"), key="a/1")
    with pytest.raises(SagaParked):
        await handle.result(timeout=10)
    await (await app.start(Pivoted, Order("2"), key="2")).result(timeout=10)
    ops = Operations(app.sagas, app.database)

    for address in ("pivoted/a/1", str(handle.id), str(handle.id)[:-1]):
        assert (await ops.locate(address)).id == handle.id
    for address in ("pivoted/none", "0", "", "x" * 8):
        with pytest.raises(SagaNotFound):
            await ops.locate(address)

    first = await ops.page(ops.select(name="pivoted"), limit=1)
    rest = await ops.page(ops.select(name="pivoted"), limit=1, after=first.next)
    assert {first.instances[0].key, rest.instances[0].key} == {"a/1", "2"}
    assert rest.next is None
    with pytest.raises(ConfigurationError, match="stuck"):
        ops.select(statuses=["stuck"])

    flow = mermaid(app.definitions.of("pivoted").plan, (await handle.story()).state)
    assert "    class s_ship parked\n" in flow
    assert "    class s_pay completed\n" in flow

    with pytest.raises(ConfigurationError, match="reason"):
        await anext(ops.tell(ev.SkipAsked(reason=" "), [handle.id]))
    act = ev.SkipAsked(reason="sent by hand", by="ann")
    (touched,) = await ops.matching(act, ops.select())
    assert touched.id == handle.id
    assert [n async for n in ops.tell(act, [touched.id])] == [1]
    await until(lambda: _completed(handle))
    (skipped,) = [f for f in (await handle.story()).facts if isinstance(f, fx.StepSkipped)]
    assert (skipped.reason, skipped.by) == ("sent by hand", "ann")

    await until(lambda: _at_rest(app, handle))
    assert [n async for n in ops.purge(finished_for=0, batch=1)] == [1, 2]
    assert not (await ops.page(ops.select())).instances


async def _completed(handle):
    return await handle.status() == "completed"


async def _at_rest(app, handle):
    return (await app.sagas.instance(handle.id)).owner is None
