"""Child sagas: run, refused, undone though they had completed."""

import asyncio
import logging

import pytest

from standfast import Context, Refused, Saga, SagaCompensated, SagaParked, child, step, wait
from standfast.ports.journal import Filter
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.operations import Operations
from tests.saga.engine.world import SOON, Order, Trip, World, until


class Journey(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def plan(self, order: Order, ctx: Context) -> None:
        await self.world.act("plan")

    @plan.compensation
    async def unplan(self, order: Order, ctx: Context) -> None:
        await self.world.act("unplan")

    trip = child(Trip, lambda self, order, ctx: Order(order.id, order.amount + 1))

    @step(retry=SOON, no_compensation="a stamp")
    async def stamp(self, order: Order, ctx: Context) -> str:
        await self.world.act("stamp")
        return f"{ctx.result(self.trip)['charge']['amount']}"


async def test_a_childs_results_come_to_its_parent(work, world):
    app = await work(Journey(world), Trip(world))
    handle = await app.start(Journey, Order("1", amount=4), key="j", correlation_id="c-1")
    result = await handle.result(timeout=5)
    assert result["stamp"] == "5"
    assert world.log == ["plan", "reserve", "charge", "note", "stamp"]
    (begun,) = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    inner = await app.handle(begun.child).story()
    assert inner.instance.correlation_id == "c-1"
    assert inner.instance.status == "completed"


async def test_a_refused_child_makes_its_parent_compensate(work, world):
    world.will("charge", Refused("no funds"))
    app = await work(Journey(world), Trip(world))
    with pytest.raises(SagaCompensated, match="child saga compensated: charge refused: no funds"):
        await (await app.start(Journey, Order("1"))).result(timeout=5)
    assert world.log == ["plan", "reserve", "release", "unplan"]


async def test_a_child_that_had_completed_is_undone_before_what_it_built_on(work, world):
    world.will("stamp", Refused("no ink"))
    app = await work(Journey(world), Trip(world))
    handle = await app.start(Journey, Order("1"))
    with pytest.raises(SagaCompensated, match="stamp refused: no ink"):
        await handle.result(timeout=5)
    assert world.log == [
        *("plan", "reserve", "charge", "note"),
        *("refund", "release", "unplan"),
    ]
    (begun,) = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    inner = await app.handle(begun.child).story()
    assert inner.instance.status == "compensated"
    assert inner.instance.finished_at is not None


async def test_a_child_that_is_asked_for_its_undo_after_it_answers_once_more(work, world):
    """Its first answer may have been lost on those who asked."""
    world.will("stamp", Refused("no ink"))
    app = await work(Journey(world), Trip(world))
    handle = await app.start(Journey, Order("1"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=5)
    (begun,) = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    await app.sagas.send(begun.child, ev.UndoAsked())

    async def heard() -> bool:
        facts = (await handle.story()).facts
        return any(isinstance(f, fx.Ignored) and "end of child" in f.act for f in facts)

    await until(heard)
    assert (await app.sagas.instance(begun.child)).status == "compensated"


async def test_cancelling_a_parent_cancels_a_child_that_still_runs(work, world):
    go = asyncio.Event()
    world.will("reserve", go.wait)
    app = await work(Journey(world), Trip(world))
    handle = await app.start(Journey, Order("1"))
    while "reserve" not in world.calls:
        await asyncio.sleep(0.01)
    await handle.cancel("stop")
    (begun,) = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    trip = app.sagas.executor.active[begun.child]
    await until(lambda: trip.last_mail)  # it is told, before its step is done
    go.set()
    with pytest.raises(SagaCompensated, match="stop"):
        await handle.result(timeout=5)
    assert world.log == ["plan", "reserve", "release", "unplan"]


async def test_a_child_past_its_pivot_cant_be_undone_and_its_parent_is_told(work, world):
    class Paid(Saga[Order]):
        @step(pivot=True, retry=SOON)
        async def pay(self, order: Order, ctx: Context) -> None:
            await world.act("pay")

    class Shop(Saga[Order]):
        paid = child(Paid, lambda self, order, ctx: order)

        @step(no_compensation="a stamp")
        async def stamp(self, order: Order, ctx: Context) -> None:
            raise Refused("no ink")

    app = await work(Shop(), Paid())
    handle = await app.start(Shop, Order("1"))
    with pytest.raises(SagaParked, match="compensation_failed"):
        await handle.result(timeout=5)
    failed = (await handle.story()).state.branches["paid"]
    assert failed.error == f"child saga {failed.child} can't be undone: it is past its pivot"
    row = await app.sagas.instance(handle.id)
    assert (row.step, "it is past its pivot" in row.cause) == ("paid", True)


async def test_a_child_is_listed_beside_its_parent(work, world):
    app = await work(Journey(world), Trip(world))
    for number in range(4):
        await (await app.start(Journey, Order(str(number)), key=str(number))).result(timeout=5)
        await asyncio.sleep(0.002)  # ids are in order of the millisecond
    found = await app.sagas.store.find(Filter(), limit=20)
    pairs = [found[at : at + 2] for at in range(0, len(found), 2)]
    for number, pair in enumerate(reversed(pairs)):
        parent, inner = sorted(pair, key=lambda one: one.name)
        assert (parent.name, parent.key, inner.name) == ("journey", str(number), "trip")
        assert inner.key == f"{parent.id}:trip"


async def test_a_child_that_was_undone_is_started_afresh_when_its_parent_is_retried(work, world):
    class Sold(Saga[Order]):
        @step(pivot=True, retry=SOON)
        async def pay(self, order: Order, ctx: Context) -> None:
            await world.act("pay")

        trip = child(Trip, lambda self, order, ctx: order, no_compensation="after the pivot")

    world.will("charge", Refused("no funds"))
    app = await work(Sold(), Trip(world))
    handle = await app.start(Sold, Order("1"))
    with pytest.raises(SagaParked, match="no funds"):
        await handle.result(timeout=5)
    await app.sagas.send(handle.id, ev.RetryAsked())
    await until(lambda: _status(handle, "completed"))
    first, second = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    assert await app.handle(first.child).status() == "compensated"
    assert await app.handle(second.child).status() == "completed"


async def _status(handle, wanted):
    return await handle.status() == wanted


class Waiting(Saga[Order]):
    """Has had a child, and waits for a word."""

    trip = child(Trip, lambda self, order, ctx: order)
    word = wait("go")


async def _waiting_with_a_finished_child(app):
    handle = await app.start(Waiting, Order("1"), key="w")
    await until(lambda: _status(handle, "waiting"))

    async def ended():
        row = await app.sagas.store.by_key("saga", "trip", f"{handle.id}:trip")
        return row is not None and row.status == "completed"

    await until(ended)
    await until(lambda: _reached(handle, "word"))
    return handle


async def test_purge_spares_the_finished_child_of_a_parent_that_still_runs(work, world):
    app = await work(Waiting(), Trip(world))
    ops = Operations(app.sagas)
    handle = await _waiting_with_a_finished_child(app)
    assert await ops.count_finished(finished_for="0s") == 0
    assert [n async for n in ops.purge(finished_for="0s")] == []
    await handle.cancel("stop")
    with pytest.raises(SagaCompensated, match="stop"):
        await handle.result(timeout=5)
    assert world.log == ["reserve", "charge", "note", "refund", "release"]
    await until(lambda: _gone(ops, 2))
    assert [n async for n in ops.purge(finished_for="0s")] == [1, 2]
    assert await app.sagas.store.find(Filter(), limit=9) == []


async def test_purge_spares_what_a_grandparent_may_have_to_undo(work, world):
    class Outer(Saga[Order]):
        inner = child(Journey, lambda self, order, ctx: order)
        word = wait("go")

    app = await work(Outer(), Journey(world), Trip(world))
    ops = Operations(app.sagas)
    handle = await app.start(Outer, Order("1"))
    await until(lambda: _reached(handle, "word"))
    assert await ops.count_finished(finished_for="0s") == 0
    assert [n async for n in ops.purge(finished_for="0s")] == []
    await handle.signal("go")
    await handle.result(timeout=5)
    await until(lambda: _gone(ops, 3))
    assert [n async for n in ops.purge(finished_for="0s", batch=1)] == [1, 2, 3]


@pytest.mark.parametrize("act", ["retry", "skip", "resolve"])
async def test_an_undo_sent_to_a_child_that_is_gone_waits_for_an_operator(work, world, act):
    app = await work(Waiting(), Trip(world))
    handle = await _waiting_with_a_finished_child(app)
    row = await app.sagas.store.by_key("saga", "trip", f"{handle.id}:trip")
    lost = app.sagas.store.find

    async def find(filter, **options):
        found = await lost(filter, **options)
        return [one for one in found if one.id != row.id]

    app.sagas.store.find = find  # as if somebody had deleted it
    await handle.cancel("stop")
    with pytest.raises(SagaParked, match=f"child saga {row.id} isn't in the store"):
        await handle.result(timeout=5)
    assert await handle.status() == "compensation_failed"
    if act == "skip":
        await app.sagas.send(handle.id, ev.SkipAsked(reason="undone by hand", by="me"))
    elif act == "resolve":
        await app.sagas.send(handle.id, ev.ResolveAsked("compensated", "undone by hand", "me"))
    else:
        await app.sagas.send(handle.id, ev.RetryAsked(by="me"))
        await until(lambda: _failed_undos(handle, 2))
        app.sagas.store.find = lost  # it is restored
        await app.sagas.send(handle.id, ev.RetryAsked(by="me"))
    await until(lambda: _status(handle, "compensated"))


async def test_a_child_is_asked_anew_when_its_undo_is_retried(work, world):
    """Each request is a mail of its own, or the second would be taken for the first."""

    class Paid(Saga[Order]):
        @step(pivot=True, retry=SOON)
        async def pay(self, order: Order, ctx: Context) -> None: ...

    class Bought(Saga[Order]):
        paid = child(Paid, lambda self, order, ctx: order)
        word = wait("go")

    app = await work(Bought(), Paid())
    handle = await app.start(Bought, Order("1"))
    await until(lambda: _reached(handle, "word"))
    await handle.cancel("stop")
    for asked in (1, 2, 3):
        await until(lambda: _failed_undos(handle, asked))
        await app.sagas.send(handle.id, ev.RetryAsked(by="me"))
    await until(lambda: _failed_undos(handle, 4))
    assert await handle.status() == "compensation_failed"


async def test_a_retry_asks_a_child_that_didnt_answer_once_more(work, world):
    """As one does that was asked before, and deleted before it heard of it."""
    go = asyncio.Event()
    app = await work(Waiting(), Trip(world))
    handle = await _waiting_with_a_finished_child(app)
    world.will("refund", go.wait)
    await handle.cancel("stop")
    await until(lambda: "refund" in world.calls)
    assert await handle.status() == "compensating"
    await app.sagas.send(handle.id, ev.RetryAsked(by="me"))
    await until(lambda: _asked(handle, 2))
    go.set()
    with pytest.raises(SagaCompensated, match="stop"):
        await handle.result(timeout=5)
    assert world.log.count("refund") == 1


async def _reached(handle, step):
    state = (await handle.story()).state
    return step in state.branches


async def _gone(ops, number):
    return await ops.count_finished(finished_for="0s") == number


async def _failed_undos(handle, number):
    facts = (await handle.story()).facts
    return len([f for f in facts if isinstance(f, fx.CompensationFailed)]) >= number


async def _asked(handle, number):
    facts = (await handle.story()).facts
    return len([f for f in facts if isinstance(f, fx.ChildUndoRequested)]) >= number


async def test_who_resolves_a_parent_by_hand_is_told_of_its_children_that_go_on(work, caplog):
    class Inner(Saga[Order]):
        word = wait("go")

    class Outer(Saga[Order]):
        inner = child(
            Inner, lambda self, order, ctx, item: order, each=lambda self, order, ctx: [1, 2]
        )

    caplog.set_level(logging.WARNING, "standfast.saga")
    app = await work(Outer(), Inner())
    handle = await app.start(Outer, Order("1"), key="k")
    ids = [f"{handle.id}:inner[{n}]" for n in range(2)]
    await until(lambda: _by_keys(app, "inner", ids))
    first, second = [await app.saga(Inner, key) for key in ids]
    await first.signal("go")
    await first.result(timeout=5)
    await until(lambda: _completed(handle, "inner[0]"))
    await app.operations.resolve(handle, "completed", reason="by phone")
    await until(lambda: _status(handle, "completed"))
    told = f"1 child saga goes on all the same: {second.id}; cancel or resolve it as well"
    last = (await handle.timeline()).entries[-1]
    assert last.text == f"resolved as completed: by phone ({told})"
    (record,) = [r for r in caplog.records if "was resolved by hand" in r.getMessage()]
    assert record.getMessage() == f"saga outer {handle.id} was resolved by hand: {told}"
    assert record.saga_id == str(handle.id)
    await app.operations.cancel(second, reason="as its parent")
    await until(lambda: _status(second, "compensated"))


async def _by_keys(app, name, keys):
    return all([await app.sagas.store.by_key("saga", name, key) for key in keys])


async def _completed(handle, branch):
    facts = (await handle.story()).facts
    return any(isinstance(f, fx.StepCompleted) and f.branch == branch for f in facts)
