"""Finding sagas and acting on them, on every backend."""

import pytest

from standfast import SagaParked
from standfast.errors import ConfigurationError, SagaConflict, SagaNotFound
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.diagram import mermaid
from standfast.saga.operations import Operations
from tests.saga.engine.test_waits import Approved, Pivoted
from tests.saga.engine.world import Order, Trip, until


async def test_finds_acts_and_draws(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await app.start(Pivoted, Order("1"), key="a/1")
    with pytest.raises(SagaParked):
        await handle.result(timeout=10)
    await (await app.start(Pivoted, Order("2"), key="2")).result(timeout=10)
    ops = Operations(app.sagas)

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

    flow = mermaid(app.sagas.definitions.of("pivoted").plan, (await handle.story()).state)
    assert "    class s_ship parked\n" in flow
    assert "    class s_pay completed\n" in flow

    with pytest.raises(ConfigurationError, match="reason"):
        await anext(ops.tell(ev.SkipAsked(reason=" "), [handle.id]))
    act = ev.SkipAsked(reason="sent by hand", by="ann")
    (touched,) = await ops.matching(ev.SkipAsked, ops.select())
    assert touched.id == handle.id
    assert [n async for n in ops.tell(act, [touched.id])] == [1]
    await until(lambda: _completed(handle))
    (skipped,) = [f for f in (await handle.story()).facts if isinstance(f, fx.StepSkipped)]
    assert (skipped.reason, skipped.by) == ("sent by hand", "ann")

    await until(lambda: _at_rest(app, handle))
    assert [n async for n in ops.purge(finished_for=0, batch=1)] == [1, 2]
    assert not (await ops.page(ops.select())).instances


async def test_starts_forks_counts_and_exports(work, world):
    app = await work(Trip(world))
    ops = Operations(app.sagas)
    handle = await ops.start("trip", b'{"id": "1", "amount": 2}', key="1")
    again = await ops.start("trip", b'{"amount": 2, "id": "1"}', key="1")
    assert (handle.created, again.created, again.id) == (True, False, handle.id)
    in_code = await app.start(Trip, Order("d"), key="d")
    assert (await ops.start("trip", b'{"id": "d"}', key="d")).id == in_code.id
    await in_code.result(timeout=10)
    with pytest.raises(SagaConflict, match="another input"):
        await ops.start("trip", b'{"id": "2"}', key="1")
    for wrong in (b"", b"7", b'{"amount": 1}', b'{"id": "1", "amuont": 2}'):
        with pytest.raises(ConfigurationError, match="the input of saga 'trip'"):
            await ops.start("trip", wrong)
    assert (await handle.result(timeout=10))["charge"].amount == 2

    forked = await ops.fork(handle.id, key="2", replace={"amount": 5})
    assert (await forked.result(timeout=10))["charge"].amount == 5
    origin = await app.sagas.instance(forked.id)
    assert origin.correlation_id == f"fork of {handle.id}"
    assert (await ops.fork(handle.id)).id not in (handle.id, forked.id)
    with pytest.raises(ConfigurationError, match="no field 'price'"):
        await ops.fork(handle.id, replace={"price": 1})
    with pytest.raises(SagaNotFound):
        await ops.fork(new_id())
    await until(lambda: _all_completed(ops, 4))

    exported = [one async for one in ops.export(ops.select(key="1"))]
    (one,) = exported
    assert one["instance"]["id"] == str(handle.id)
    assert [fact["kind"] for fact in one["facts"]] == ["started", *["step_completed"] * 3]
    assert (one["mails"], one["unreadable"]) == ([], 0)
    assert await ops.count_finished(finished_for=0) == 4
    assert await ops.count_finished(finished_for="1h") == 0


async def test_a_signal_is_checked_against_the_waits(work, world):
    app = await work(Approved(world))
    ops = Operations(app.sagas)
    handle = await app.start(Approved, Order("1"))
    instances = [await app.sagas.instance(handle.id)]
    for name, payload, why in (
        ("aproved", b"1", "choose from approved, resume"),
        ("approved", b'{"by": 7, "level": 1}', "Expected `str`"),
        ("approved", b"{", "isn't JSON"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            ops.signal(name, payload, instances)
    act = ops.signal("approved", b'{"by": "ann", "level": 1}', instances)
    for id in ("first", "first", "second"):
        assert [n async for n in ops.tell(act, [handle.id], mail_id=id)] == [1]
    assert (await handle.result(timeout=10))["note"] == "ann ann"


async def _all_completed(ops, number):
    return await ops.counts() == {("trip", "completed"): number}


async def _completed(handle):
    return await handle.status() == "completed"


async def _at_rest(app, handle):
    return (await app.sagas.instance(handle.id)).owner is None
