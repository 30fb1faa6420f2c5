"""Instances move to another version of their saga, and keep what they did under the one before."""

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from standfast import (
    ConfigurationError,
    Context,
    Migration,
    Refused,
    Saga,
    SagaCompensated,
    SagaHandle,
    Standfast,
    child,
    sleep,
    step,
    wait,
)
from standfast.backends.memory import MemoryDatabase
from standfast.errors import DefinitionError
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.compatibility import check
from standfast.saga.definition import Definition
from standfast.saga.operations import Operations
from tests.saga.engine.world import SOON, Order, Trip, World, until


class BookOne(Saga[Order]):
    name, version = "book", 1

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def seat(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("seat", ctx))

    @seat.compensation(retry=SOON)
    async def unseat(self, order: Order, ctx: Context) -> None:
        await self.world.act("unseat", ctx)

    approved = wait("approved")

    @step(retry=SOON, no_compensation="a mere note")
    async def note(self, order: Order, ctx: Context) -> str:
        return f"one: {await self.world.act('note', ctx)}"


@dataclass(frozen=True)
class NewOrder:
    id: str
    cents: int


def _new_order(old: Any) -> dict[str, Any]:
    return {"id": old["id"], "cents": old["amount"] * 100}


class BookTwo(Saga[NewOrder]):
    """`seat` is called `reserve` now, and the input counts in cents."""

    name, version = "book", 2
    migrations: ClassVar = {1: Migration(_new_order, {"seat": "reserve"})}

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def reserve(self, order: NewOrder, ctx: Context) -> str:
        return str(await self.world.act("reserve", ctx))

    @reserve.compensation(retry=SOON)
    async def release(self, order: NewOrder, ctx: Context) -> None:
        self.world.keys.setdefault("branch", []).append(ctx.branch_key.key)
        await self.world.act("release", ctx)

    approved = wait("approved")

    @step(retry=SOON, no_compensation="a mere note")
    async def note(self, order: NewOrder, ctx: Context) -> str:
        return f"two: {order.cents} {await self.world.act('note', ctx)}"


class BookThree(BookTwo):
    """It forgot to say how to come here from 1."""

    version = 3
    migrations: ClassVar = {}


async def move(app: Standfast, handle: SagaHandle[Any], version: int) -> None:
    operations = Operations(app.sagas)
    act = ev.MigrateAsked(version, by="ann")
    assert [n.done async for n in operations.tell(act, [handle.id])] == [1]


async def facts_of(handle: SagaHandle[Any], kind: type[fx.Fact]) -> list[Any]:
    return [fact for fact in (await handle.story()).facts if isinstance(fact, kind)]


async def waits(handle: SagaHandle[Any]) -> bool:
    return await handle.status() == "waiting"


async def test_a_waiting_instance_moves_and_goes_on(work, world):
    app = await work(BookOne(world), BookTwo(world))
    handle = await app.start(BookOne, Order("1", amount=3), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await handle.signal("approved")
    assert (await handle.result("10s")).as_dict() == {
        "reserve": "seat",
        "approved": None,
        "note": "two: 300 note",
    }
    (migrated,) = await facts_of(handle, fx.Migrated)
    assert (migrated.version, migrated.by) == (2, "ann")
    assert (await handle.story()).instance.version == 2
    assert world.log == ["seat", "note"]


async def test_one_that_moved_is_sound_under_the_new_names_of_its_steps(work, world):
    app = await work(BookOne(world), BookTwo(world))
    handle = await app.start(BookOne, Order("1"), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await until(lambda: facts_of(handle, fx.Migrated))
    ops = app.operations
    assert [found async for _, found in check(ops, ops.select())] == [[]]


async def test_one_that_is_there_already_keeps_no_other_from_moving(work, world):
    app = await work(BookOne(world), BookTwo(world))
    moved, other = [await app.start(BookOne, Order("1"), key=key) for key in "ab"]
    await until(lambda: waits(moved))
    await until(lambda: waits(other))
    await move(app, moved, 2)
    await until(lambda: facts_of(moved, fx.Migrated))
    ops = app.operations
    assert await ops.migrate(ops.select(name="book"), 2, by="ann") == 2
    await until(lambda: facts_of(other, fx.Migrated))


async def test_the_fork_of_one_that_moved_has_the_new_input(work, world):
    app = await work(BookOne(world), BookTwo(world))
    handle = await app.start(BookOne, Order("1", amount=3), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await until(lambda: facts_of(handle, fx.Migrated))
    fork = await app.operations.fork(handle)
    await fork.signal("approved")
    assert (await fork.result("10s"))["note"] == "two: 300 note"


async def test_one_whose_version_no_worker_has_moves_too(durable_url, world):
    async with Standfast(durable_url, migrate=True).add(BookOne(world)).running() as _:
        pass
    before = Standfast(durable_url).add(BookOne(world))
    async with before.running(linger=0.01):
        handle = await before.start(BookOne, Order("1"), key="k")
        await until(lambda: waits(handle))
    after = Standfast(durable_url).add(BookTwo(world))
    async with after.running(poll=0.1):
        handle = await after.saga("book", "k")
        await move(after, handle, 2)
        await handle.signal("approved")
        assert (await handle.result("10s"))["note"] == "two: 100 note"


async def test_of_requests_that_nobody_has_read_the_last_counts(durable_url, world):
    before = Standfast(durable_url, migrate=True).add(BookOne(world))
    async with before.running(linger=0.01):
        handle = await before.start(BookOne, Order("1"), key="k")
        await until(lambda: waits(handle))
    after = Standfast(durable_url).add(BookTwo(world), BookThree(world))
    async with after:
        handle = await after.saga("book", "k")
        for version in (3, 2):
            await move(after, handle, version)
    async with after.running(poll=0.1):
        handle = await after.saga("book", "k")
        await handle.signal("approved")
        assert (await handle.result("10s"))["note"] == "two: 100 note"
        assert await facts_of(handle, fx.Ignored) == []


async def test_an_attempt_in_flight_ends_first(work, world):
    going, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        going.set()
        await may_end.wait()
        return "slowly"

    world.will("seat", slow)
    app = await work(BookOne(world), BookTwo(world))
    handle = await app.start(BookOne, Order("1"), key="k")
    await going.wait()
    await move(app, handle, 2)
    await asyncio.sleep(0.1)  # long enough for a wrong move to have been made
    assert not await facts_of(handle, fx.Migrated)
    may_end.set()
    await handle.signal("approved")
    assert (await handle.result("10s"))["reserve"] == "slowly"
    kinds = [type(fact).__name__ for fact in (await handle.story()).facts]
    assert kinds.index("StepCompleted") < kinds.index("Migrated")


async def test_the_undo_of_a_renamed_step_has_the_key_of_its_action(work, world):
    app = await work(BookOne(world), BookTwo(world))
    world.will("note", Refused("no ink"))
    handle = await app.start(BookOne, Order("1"), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await handle.signal("approved")
    with pytest.raises(SagaCompensated, match="no ink"):
        await handle.result("10s")
    assert world.log == ["seat", "release"]
    assert world.keys["branch"] == world.keys["seat"] == [f"{handle.id}:seat"]
    assert world.keys["release"] == [f"{handle.id}:seat:undo"]


async def test_one_that_cannot_move_stays_and_says_why(work, world):
    app = await work(BookOne(world), BookThree(world))
    handle = await app.start(BookOne, Order("1"), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 3)
    await until(lambda: facts_of(handle, fx.Ignored))
    (ignored,) = await facts_of(handle, fx.Ignored)
    assert "no migration from version 1" in ignored.why
    await handle.signal("approved")
    assert (await handle.result("10s"))["note"] == "one: note"
    assert (await handle.story()).instance.version == 1


async def test_one_that_has_moved_moves_on_from_there(work, world):
    app = await work(BookOne(world), BookTwo(world), BookThree(world))
    handle = await app.start(BookOne, Order("1"), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await until(lambda: facts_of(handle, fx.Migrated))
    await move(app, handle, 3)
    await until(lambda: facts_of(handle, fx.Ignored))
    (ignored,) = await facts_of(handle, fx.Ignored)
    assert "no migration from version 2" in ignored.why
    assert (await handle.story()).instance.version == 2


async def test_one_that_cannot_move_is_given_back_to_its_own_workers(shared_url, world):
    old = Standfast(shared_url, migrate=True).add(BookOne(world))
    new = Standfast(shared_url).add(BookThree(world))
    async with old.running(poll=0.1, linger=0.01), new.running(poll=0.1):
        handle = await old.start(BookOne, Order("1"), key="k")
        await until(lambda: waits(handle))
        await move(new, handle, 3)
        await until(lambda: facts_of(handle, fx.Ignored))
        await handle.signal("approved")
        assert (await handle.result("10s"))["note"] == "one: note"
    assert len(await _of(shared_url, handle)) == 1


class NapOne(Saga[Order]):
    name, version = "nap", 1
    rest = sleep("1s")


class NapTwo(Saga[Order]):
    """It forgot to say how to come here from 1."""

    name, version = "nap", 2
    rest = sleep("1s")


async def test_one_that_is_given_back_goes_on_by_itself(shared_url):
    """It waits for nobody who would wake it."""
    old = Standfast(shared_url, migrate=True).add(NapOne())
    new = Standfast(shared_url).add(NapTwo())
    async with old.running(poll=0.1, linger=0.01), new.running(poll=0.1):
        handle = await old.start(NapOne, Order("1"))
        await until(lambda: waits(handle))
        await move(new, handle, 2)
        await until(lambda: facts_of(handle, fx.Ignored))
        await handle.result("10s")


async def test_that_one_is_given_back_is_told_and_what_asked_for_it_is_settled(caplog):
    database = MemoryDatabase()
    old, new = Standfast(database).add(NapOne()), Standfast(database).add(NapTwo())
    async with old.running(poll=0.1, linger=0.01), new.running(poll=0.1, name="new"):
        handle = await old.start(NapOne, Order("1"))
        await until(lambda: waits(handle))
        await move(new, handle, 2)
        await until(lambda: facts_of(handle, fx.Ignored))
        (loaded,) = await old.sagas.store.load([handle.id])
        row = loaded.instance
        assert (row.version, loaded.mails) == (1, [])
        assert row.owner is not None or row.wake_at is not None, "it goes on by itself"
    (told,) = [one for one in caplog.records if one.levelname == "ERROR"]
    begin = f"saga nap {handle.id}: it can't move to version 2: "
    assert told.getMessage().startswith(f"{begin}it has no migration from version 1")
    assert (told.saga_id, told.worker) == (str(handle.id), "new")


async def _of(url: str, handle: SagaHandle[Any]) -> list[Any]:
    async with Standfast(url) as app:
        return await facts_of(app.handle(handle.id), fx.Ignored)


async def test_a_request_for_the_version_it_has_is_ignored(work, world):
    app = await work(BookOne(world), BookTwo(world))
    handle = await app.start(BookTwo, NewOrder("1", 5), key="k")
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await until(lambda: facts_of(handle, fx.Ignored))
    (ignored,) = await facts_of(handle, fx.Ignored)
    assert "at version 2 already" in ignored.why
    await handle.signal("approved")
    await handle.result("10s")


class OuterOne(Saga[Order]):
    name, version = "outer", 1
    trip = child(Trip, lambda self, order, ctx: order)


class OuterTwo(Saga[Order]):
    name, version = "outer", 2
    migrations: ClassVar = {1: Migration(renamed={"trip": "journey"})}
    journey = child(Trip, lambda self, order, ctx: order)


async def test_the_end_of_a_child_reaches_a_renamed_step(work, world):
    may_end = asyncio.Event()

    async def slow() -> str:
        await may_end.wait()
        return "at last"

    world.will("reserve", slow)
    app = await work(OuterOne(), OuterTwo(), Trip(world))
    handle = await app.start(OuterOne, Order("1"), key="k")
    await until(lambda: facts_of(handle, fx.ChildStarted))
    await until(lambda: waits(handle))
    await move(app, handle, 2)
    await until(lambda: facts_of(handle, fx.Migrated))
    may_end.set()
    result = await handle.result("10s")
    assert result["journey"]["reserve"] == "at last"


@pytest.mark.parametrize(
    ("migrations", "message"),
    [
        ({2: Migration()}, "another version"),
        ({0: Migration()}, "another version"),
        ({1: Migration(renamed={"seat": "nowhere"})}, "isn't a step"),
        ({1: Migration(renamed={"note": "reserve"})}, "taken for each other"),
    ],
)
def test_a_wrong_migration_is_refused_when_it_is_registered(world, migrations, message):
    wrong = type("Wrong", (BookTwo,), {"migrations": migrations})
    with pytest.raises(DefinitionError, match=message):
        Definition(wrong(world))


async def test_what_the_code_at_hand_knows_to_be_impossible_is_refused_at_once(work, world):
    app = await work(BookOne(world), BookThree(world))
    handle = await app.start(BookOne, Order("1"), key="k")
    operations = Operations(app.sagas)
    found = [await operations.locate("book/k")]
    with pytest.raises(ConfigurationError, match="version 7 of saga 'book' isn't registered"):
        operations.moved(7, found)
    with pytest.raises(ConfigurationError, match="no migration from version 1"):
        operations.moved(3, found)
    await handle.signal("approved")
    await handle.result("10s")
