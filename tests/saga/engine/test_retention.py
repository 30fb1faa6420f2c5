"""Finished sagas and old marks are deleted in the background, on every backend."""

import re
from dataclasses import replace

import pytest

from standfast import Barrier, Context, Retention, Saga, child, step
from standfast.errors import ConfigurationError
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore
from tests.saga.engine.test_waits import Approved
from tests.saga.engine.world import Order, Trip, World, until

DAY = 86_400.0


class Kept(Saga[Order]):
    @step(no_compensation="nothing to undo")
    async def go(self, order: Order, ctx: Context) -> None: ...


async def history(app):
    """Three trips and two kept ones that have ended, and one that waits."""
    for number in range(3):
        await (await app.start(Trip, Order(str(number)))).result(timeout=10)
    for number in range(2):
        await (await app.start(Kept, Order(str(number)))).result(timeout=10)
    await app.start(Approved, Order("1"))


def sagas(world: World):
    return Trip(world), Kept(), Approved(world)


async def names(app):
    ops = app.operations
    return sorted([one.name async for one in ops.each(ops.select())])


async def test_what_finished_is_deleted_and_the_rest_kept(work, world, caplog):
    caplog.set_level("INFO", logger="standfast.retention")
    retention = Retention("0s", every="100ms", batch=2)
    app = await work(*sagas(world), retention)
    await history(app)

    async def only_the_unfinished():
        return await names(app) == ["approved"]

    await until(only_the_unfinished)

    def deleted():
        said = [re.match(r"retention: (\d+) finished sagas", one) for one in caplog.messages]
        return sum(int(one[1]) for one in said if one)

    await until(lambda: deleted() == 5)


async def test_each_saga_has_a_time_of_its_own(work, world):
    retention = Retention("30d", by_saga={Trip: "0s", "kept": None}, every="100ms", batch=2)
    app = await work(*sagas(world), retention)
    await history(app)

    async def without_trips():
        return await names(app) == ["approved", "kept", "kept"]

    await until(without_trips)


async def test_it_is_kept_from_its_end_on_however_long_it_took(work, world):
    retention = Retention("30d", by_saga={Trip: "1d"}, every="1h")
    app = await work(*sagas(world), retention)
    handle = await app.start(Trip, Order("1"))
    await handle.result(timeout=10)
    row = await app.sagas.instance(handle.id)
    took_long = replace(row, created_at=row.created_at - 9 * DAY)
    assert not retention._has_expired(took_long, row.finished_at + 0.9 * DAY)
    assert retention._has_expired(took_long, row.finished_at + 1.1 * DAY)


async def test_for_ever_is_for_ever_whatever_the_default(work, world):
    retention = Retention("0s", by_saga={"kept": None}, every="100ms")
    app = await work(*sagas(world), retention)
    await history(app)

    async def without_trips():
        return "trip" not in await names(app)

    await until(without_trips)
    assert await names(app) == ["approved", "kept", "kept"]


async def test_the_default_may_be_for_ever(work, world):
    retention = Retention(None, by_saga={"kept": "0s"}, every="100ms")
    app = await work(*sagas(world), retention)
    await history(app)

    async def without_the_kept():
        return await names(app) == ["approved", "trip", "trip", "trip"]

    await until(without_the_kept)
    assert {gone async for gone in retention._expired()} == {0}, "it read and left them"


async def test_old_marks_are_deleted(work, world):
    barrier = Barrier(kept_for="1d")
    assert LeaseStore in barrier.ports
    assert LeaseStore not in Barrier().ports
    app = await work(Trip(world))
    later = type(app)(app.database, migrate=True).add(barrier)
    async with later:
        async with later.transaction() as tx:
            await tx.within(MarkStore).set("old", "do", "x", at=later.clock.now() - 2 * 86400)
            await tx.within(MarkStore).set("new", "do", "x", at=later.clock.now())
        async with later.running(name="purger"):

            async def one_left():
                return await barrier.marks.count(before=later.clock.now() + 60) == 1

            await until(one_left)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Retention("soon"), "finished_for='soon'"),
        (lambda: Retention(None), "never delete anything"),
        (lambda: Retention(None, by_saga={"trip": None}), "never delete anything"),
        (lambda: Retention("1d", by_saga={"trip": "x"}), r"by_saga\['trip'\]='x'"),
        (lambda: Retention("1d", by_saga={7: "1d"}), "7 is no saga"),
        (lambda: Retention("1d", every=0), "every=0"),
        (lambda: Retention("1d", batch=True), "batch=True"),
        (lambda: Barrier(kept_for="x"), "kept_for='x'"),
    ],
)
def test_what_makes_no_sense_is_refused(made, said):
    with pytest.raises(ConfigurationError, match=said):
        made()


class Leaf(Saga[str]):
    @step(no_compensation="a test")
    async def grow(self, key: str, ctx: Context) -> None: ...


class Twig(Saga[str]):
    leaf = child(Leaf, lambda self, key, ctx: key)


class Bough(Saga[str]):
    twig = child(Twig, lambda self, key, ctx: key)


async def test_one_run_deletes_children_after_their_parents_level_by_level(work):
    retention = Retention("0s", by_saga={"kept": "1d"}, every="1h")
    app = await work(Leaf(), Twig(), Bough(), Kept(), retention)
    await (await app.start(Bough, "1")).result(timeout=10)
    await app.clock.sleep(0.01)
    assert [gone async for gone in retention._expired()]
    assert await names(app) == []
