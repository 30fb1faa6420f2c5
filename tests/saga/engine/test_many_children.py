"""A child saga for each item: their results, their limit, and what one refusal does to the rest."""

import asyncio
from dataclasses import dataclass

import pytest

from standfast import Context, Refused, Saga, SagaCompensated, SagaParked, Standfast, child, step
from standfast.errors import DefinitionError
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, World, until


@dataclass(frozen=True)
class Parcel:
    name: str


class Ship(Saga[Parcel]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def send(self, parcel: Parcel, ctx: Context) -> str:
        return f"{await self.world.act(f'send {parcel.name}', ctx)}"

    @send.compensation(retry=SOON)
    async def call_back(self, parcel: Parcel, ctx: Context) -> None:
        await self.world.act(f"call back {parcel.name}")


class Bulk(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    ships = child(
        Ship, lambda self, order, ctx, item: Parcel(item), each=lambda self, order, ctx: order.items
    )

    @step(retry=SOON, no_compensation="a note")
    async def note(self, order: Order, ctx: Context) -> list[str]:
        await self.world.act("note")
        return [one["send"] for one in ctx.result(self.ships)]


class TwoAtOnce(Bulk):
    ships = child(
        Ship,
        lambda self, order, ctx, item: Parcel(item),
        each=lambda self, order, ctx: order.items,
        limit=2,
    )


ITEMS = ("a", "b", "c", "d", "e")


async def children_of(app, handle):
    begun = [f for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    return [await app.sagas.instance(fact.child) for fact in begun]


async def test_results_come_in_the_order_of_the_items(work, world):
    gate = asyncio.Event()
    world.will("send a", gate.wait)
    app = await work(Bulk(world), Ship(world))
    handle = await app.start(Bulk, Order("1", items=ITEMS))
    await until(lambda: len(world.log) == 4)
    assert await handle.status() == "waiting"
    gate.set()
    result = await handle.result(timeout=10)
    assert result["note"] == ["True", "send b", "send c", "send d", "send e"]
    assert result["ships"] == [{"send": text} for text in result["note"]]
    rows = await children_of(app, handle)
    assert [row.key for row in rows] == [f"{handle.id}:ships[{n}]" for n in range(5)]
    assert {row.correlation_id for row in rows} == {str(handle.id)}


async def test_over_nothing_it_is_done_at_once(work, world):
    app = await work(Bulk(world), Ship(world))
    result = await (await app.start(Bulk, Order("1"))).result(timeout=5)
    assert (result["ships"], result["note"]) == ([], [])


async def test_at_most_so_many_go_on_at_once(work, world):
    gates = {name: asyncio.Event() for name in ITEMS}
    for name in ITEMS:
        world.will(f"send {name}", gates[name].wait)
    app = await work(TwoAtOnce(world), Ship(world))
    handle = await app.start(TwoAtOnce, Order("1", items=ITEMS))
    for number, name in enumerate(ITEMS):
        await until(lambda: len(world.calls) >= min(number + 2, 5))
        await asyncio.sleep(0.05)
        assert world.calls == [f"send {n}" for n in ITEMS[: number + 2]]
        assert await handle.status() == "waiting"
        gates[name].set()
    await handle.result(timeout=10)


async def test_one_that_is_refused_has_all_others_undone(work, world):
    gate = asyncio.Event()
    world.will("send b", Refused("too heavy"))
    world.will("send d", gate.wait)
    app = await work(Bulk(world), Ship(world))
    handle = await app.start(Bulk, Order("1", items=ITEMS))
    await until(lambda: "send d" in world.calls)
    gate.set()
    with pytest.raises(SagaCompensated, match=r"ships\[1\] refused: .*too heavy"):
        await handle.result(timeout=10)
    assert {row.status for row in await children_of(app, handle)} == {"compensated"}
    sent = {name for name in ITEMS if f"send {name}" in world.log}
    assert {f"call back {name}" for name in sent} == {w for w in world.log if "back" in w}
    assert "b" not in sent


async def test_what_had_no_room_yet_is_never_begun_once_one_is_refused(work, world):
    world.will("send a", Refused("no"))
    app = await work(TwoAtOnce(world), Ship(world))
    handle = await app.start(TwoAtOnce, Order("1", items=ITEMS))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=10)
    assert {"send c", "send d", "send e"}.isdisjoint(world.calls)


async def test_cancelled_while_they_run(work, world):
    gate = asyncio.Event()
    for name in ITEMS:
        world.will(f"send {name}", gate.wait)
    app = await work(Bulk(world), Ship(world))
    handle = await app.start(Bulk, Order("1", items=ITEMS))
    await until(lambda: len(world.calls) == 5)
    await handle.cancel("stop")
    await until(lambda: _is(handle, "compensating"))
    gate.set()
    with pytest.raises(SagaCompensated, match="stop"):
        await handle.result(timeout=10)
    assert {row.status for row in await children_of(app, handle)} == {"compensated"}
    assert sorted(w for w in world.log if "back" in w) == [f"call back {n}" for n in ITEMS]


async def test_all_that_had_completed_are_undone_when_a_later_step_is_refused(work, world):
    world.will("note", Refused("no ink"))
    app = await work(Bulk(world), Ship(world))
    handle = await app.start(Bulk, Order("1", items=ITEMS))
    with pytest.raises(SagaCompensated, match="no ink"):
        await handle.result(timeout=10)
    assert {row.status for row in await children_of(app, handle)} == {"compensated"}
    assert sorted(w for w in world.log if "back" in w) == [f"call back {n}" for n in ITEMS]


class Stubborn(Saga[Parcel]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON, on_exhausted="park", no_compensation="none")
    async def send(self, parcel: Parcel, ctx: Context) -> str:
        return f"{await self.world.act(f'send {parcel.name}')}"


class Wholesale(Saga[Order]):
    ships = child(
        Stubborn,
        lambda self, order, ctx, item: Parcel(item),
        each=lambda self, order, ctx: order.items,
    )


async def test_the_deadline_counts_on_while_a_child_is_parked(work, world):
    """It stands still for the parent's own steps only."""

    class Hasty(Wholesale):
        name, deadline = "hasty", "1s"

    world.will("send b", *[OSError("jam")] * 3)
    app = await work(Hasty(), Stubborn(world))
    handle = await app.start(Hasty, Order("1", items=ITEMS))
    with pytest.raises(SagaCompensated, match="the deadline of 1s passed"):
        await handle.result(timeout=10)
    rows = await children_of(app, handle)
    await until(lambda: _all_compensated(app, handle))
    assert len(rows) == len(ITEMS)


async def _all_compensated(app, handle):
    return {row.status for row in await children_of(app, handle)} == {"compensated"}


async def test_a_parked_child_holds_the_parent_up_until_an_operator_acts(work, world):
    world.will("send b", *[OSError("jam")] * 3)
    app = await work(Wholesale(), Stubborn(world))
    handle = await app.start(Wholesale, Order("1", items=ITEMS))

    async def parked():
        rows = await children_of(app, handle)
        return [row for row in rows if row.status == "parked"]

    await until(parked)
    assert await handle.status() == "waiting"
    (row,) = await parked()
    await app.sagas.send(row.id, ev.RetryAsked())
    result = await handle.result(timeout=10)
    assert result["ships"][1] == {"send": "send b"}


@pytest.mark.parametrize("limit", [1, 2])
async def test_past_the_pivot_one_refused_child_is_begun_afresh_by_a_retry(work, world, limit):
    """And until then it leaves its place to others."""

    class Sold(Saga[Order]):
        @step(pivot=True)
        async def pay(self, order: Order, ctx: Context) -> None: ...

        ships = child(
            Ship,
            lambda self, order, ctx, item: Parcel(item),
            each=lambda self, order, ctx: order.items,
            limit=limit,
            no_compensation="after the pivot",
        )

    world.will("send b", Refused("no room"))
    app = await work(Sold(), Ship(world))
    handle = await app.start(Sold, Order("1", items=ITEMS))
    with pytest.raises(SagaParked, match="no room"):
        await handle.result(timeout=10)
    await until(lambda: len([w for w in world.log if w.startswith("send")]) == 4)
    await app.sagas.send(handle.id, ev.RetryAsked())
    await until(lambda: _is(handle, "completed"))
    keys = [row.key.partition(":")[2] for row in await children_of(app, handle)]
    assert sorted(keys) == [
        *("ships[0]", "ships[1]", "ships[1]#1", "ships[2]", "ships[3]", "ships[4]"),
    ]


async def test_the_items_come_as_the_type_that_is_asked_for(work, world):
    def of(self: Saga[Order], order: Order, ctx: Context, item: Parcel) -> Parcel:
        assert isinstance(item, Parcel)
        return item

    class Typed(Saga[Order]):
        ships = child(Ship, of, each=lambda self, order, ctx: [Parcel(n) for n in order.items])

    app = await work(Typed(), Ship(world))
    await (await app.start(Typed, Order("1", items=("x",)))).result(timeout=5)
    assert world.log == ["send x"]


async def test_an_input_that_cant_be_made_undoes_the_others(work, world):
    def of(self: Saga[Order], order: Order, ctx: Context, item: str) -> Parcel:
        if item == "c":
            raise ValueError("no such parcel")
        return Parcel(item)

    class Broken(Saga[Order]):
        ships = child(Ship, of, each=lambda self, order, ctx: order.items)

    app = await work(Broken(), Ship(world))
    handle = await app.start(Broken, Order("1", items=ITEMS))
    with pytest.raises(SagaCompensated, match=r"ships\[2\].*no such parcel"):
        await handle.result(timeout=10)
    assert {row.status for row in await children_of(app, handle)} <= {"compensated"}


async def test_they_go_on_in_another_process(durable_url, world):
    gate = asyncio.Event()
    world.will("send c", gate.wait)
    first = Standfast(durable_url, migrate=True).add(TwoAtOnce(world), Ship(world))
    async with first.running(drain=0.2):
        handle = await first.start(TwoAtOnce, Order("1", items=ITEMS), key="k")
        await until(lambda: "send c" in world.calls)
    gate.set()
    second = Standfast(durable_url).add(TwoAtOnce(world), Ship(world))
    async with second.running(drain=2):
        result = await second.handle(handle.id).result(timeout=10)
    assert len(result["ships"]) == 5
    assert {len(set(keys)) for keys in world.keys.values()} == {1}, "each has one key for ever"


def test_what_makes_no_sense_is_refused():
    with pytest.raises(DefinitionError, match=r"limit=0: must be a whole number"):
        child(Ship, lambda self, order, ctx, item: item, each=lambda s, o, c: [], limit=0)

    class NoEach(Saga[Order]):
        ships = child(Ship, lambda self, order, ctx: Parcel("x"), limit=2)

    with pytest.raises(DefinitionError, match="has limit=2, but runs once"):
        Standfast("memory://").add(NoEach())

    class NoItem(Saga[Order]):
        ships = child(Ship, lambda self, order, ctx: Parcel("x"), each=lambda s, o, c: o.items)

    with pytest.raises(DefinitionError, match=r"must take \(self, input, ctx, item\)"):
        Standfast("memory://").add(NoItem())


async def _is(handle, wanted):
    return await handle.status() == wanted
