"""What callers do wrong, and text that no database holds: clear errors, no harm to others."""

import asyncio
import math
import time

import pytest

from standfast import (
    ConfigurationError,
    Context,
    Refused,
    Saga,
    SagaCompensated,
    SagaNotFound,
    SagaParked,
    Standfast,
    Transaction,
    child,
    step,
    wait,
)
from standfast.clock import SystemClock
from standfast.errors import CodecError, DefinitionError
from standfast.ids import new_id
from standfast.ports.journal import JournalStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, Trip, World, until

UNFIT = ["nul \0 here", "lone \ud800 surrogate"]


class Asked(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    answer = wait("answer", type=int)

    @step(retry=SOON, no_compensation="a note")
    async def note(self, order: Order, ctx: Context) -> str:
        await self.world.act("note", ctx)
        return f"answer {ctx.result(self.answer)}"


async def test_a_handle_says_that_its_own_transaction_has_not_committed(work, world):
    app = await work(Asked(world))
    async with asyncio.timeout(5), app.transaction() as tx:
        handle = await tx.start(Asked, Order("1"), key="inside")
        asks = {
            "status": handle.status,
            "result": handle.result,
            "timeline": handle.timeline,
            "story": handle.story,
            "saga": lambda: app.saga(Asked, "inside"),
        }
        for name, ask in asks.items():
            with pytest.raises(SagaNotFound, match="its transaction hasn't committed yet"):
                await ask()
                pytest.fail(name)
    assert await handle.status() in ("running", "waiting")
    with pytest.raises(SagaNotFound) as outside:
        await app.handle(new_id()).status()
    assert "committed" not in str(outside.value)


# -- the app inside its own transaction ----------------------------------------------------------


async def test_the_app_refuses_to_write_inside_its_own_transaction(work, world):
    app = await work(Asked(world))
    handle = await app.start(Asked, Order("0"), key="before")
    acts = {
        "tx.start": lambda: app.start(Asked, Order("1"), key="inside"),
        "tx.signal": lambda: handle.signal("answer", 1),
        "tx.cancel": lambda: handle.cancel("no"),
    }
    async with asyncio.timeout(5), app.transaction() as tx:
        await tx.start(Asked, Order("2"), key="proper")
        for remedy, act in acts.items():
            with pytest.raises(ConfigurationError, match=remedy):
                await act()
            with pytest.raises(ConfigurationError, match=remedy):
                await asyncio.wait_for(act(), 5)  # a task of its own, before Python 3.12
            with pytest.raises(ConfigurationError, match=remedy):
                await asyncio.create_task(act())
        assert await handle.status() in ("running", "waiting"), "reading is fine"
    # After the block all of it works, also in a task that was begun inside one.
    go = asyncio.Event()

    async def later():
        await go.wait()
        return await app.start(Asked, Order("3"), key="later")

    async with app.transaction() as tx:
        task = asyncio.create_task(later())
    go.set()
    assert (await task).created
    await handle.signal("answer", 1)
    assert (await handle.result(timeout=5))["note"] == "answer 1"
    assert (await (await app.saga(Asked, "proper")).status()) in ("running", "waiting")
    with pytest.raises(SagaNotFound):
        await app.saga(Asked, "inside")


async def test_so_it_does_in_another_task_that_uses_the_transaction(work, world):
    """A fixture of pytest's, and a dependency of a framework's, is entered in a task of its own."""
    app = await work(Asked(world))
    block = app.transaction()
    tx = await asyncio.create_task(block.__aenter__())
    uses = {
        "start": lambda: tx.start(Asked, Order("1"), key="1"),
        "port": lambda: asyncio.sleep(0, tx.within(JournalStore)),
        "savepoint": lambda: tx.savepoint().__aenter__(),
    }

    async def inside(use):
        await use()
        with pytest.raises(ConfigurationError, match=r"tx\.start"):
            await app.start(Asked, Order("1"), key="1")

    async with asyncio.timeout(5):
        for use in uses.values():
            await asyncio.create_task(inside(use))
        await asyncio.create_task(block.__aexit__(ValueError, ValueError("no"), None))
        await uses["port"]()  # of no harm, once it is over
        assert (await app.start(Asked, Order("1"), key="1")).created


async def test_a_transaction_finds_by_its_key_what_is_to_be_signalled(work, world):
    app = await work(Asked(world))
    before = await app.start(Asked, Order("0"), key="before")
    async with app.transaction() as tx:
        inside = await tx.start(Asked, Order("1"), key="inside")
        for handle, key in ((before, "before"), (inside, "inside")):
            found = await tx.saga(Asked, key)
            assert found.id == handle.id
            await tx.signal(found, "answer", 1)
        with pytest.raises(SagaNotFound, match=r"has the key 'other'$"):
            await tx.saga(Asked, "other")
        with pytest.raises(SagaNotFound, match=r"tx\.saga"):
            await app.saga(Asked, "inside")
    for handle in (before, inside):
        assert (await handle.result(timeout=5))["note"] == "answer 1"


async def test_another_apps_transaction_is_no_matter(work, world, tmp_path):
    app = await work(Asked(world))
    async with Standfast(f"sqlite:///{tmp_path}/other.db") as other, other.transaction() as tx:
        await tx.execute("CREATE TABLE t (n int)")
        assert (await app.start(Asked, Order("1"), key="1")).created


async def test_signals_and_cancels_commit_with_the_transaction(work, world):
    app = await work(Asked(world), Trip(world))
    told, untold = [await app.start(Asked, Order(key), key=key) for key in ("told", "untold")]
    for handle in (told, untold):
        await until(lambda handle=handle: _is(handle, "waiting"))
    with pytest.raises(ZeroDivisionError):
        async with app.transaction() as tx:
            await tx.signal(untold, "answer", 1)
            await tx.cancel(untold, "never mind")
            raise ZeroDivisionError
    async with app.transaction() as tx:
        await tx.signal(told, "answer", 7, id="once")
        await tx.signal(str(told.id), "answer", 8, id="once")
        new = await tx.start(Asked, Order("new"), key="new")
        await tx.signal(new.id, "answer", 9)
        with pytest.raises(CodecError, match="answer"):
            await tx.signal(new, "answer", "not a number")
        with pytest.raises(SagaNotFound):
            await tx.signal(new_id(), "answer", 1)
        with pytest.raises(SagaNotFound):
            await tx.cancel(new_id())
    assert (await told.result(timeout=5))["note"] == "answer 7"
    assert (await new.result(timeout=5))["note"] == "answer 9"
    assert await untold.status() == "waiting"
    assert len((await untold.story()).facts) == 1
    async with app.transaction() as tx:
        await tx.cancel(untold, "enough", by="ann")
    with pytest.raises(SagaCompensated, match="enough"):
        await untold.result(timeout=5)


async def test_a_transactional_step_starts_and_signals_through_its_tx(work, world):
    class Opens(Saga[Order]):
        @step(transactional=True, retry=SOON, no_compensation="the other one goes on by itself")
        async def open(self, order: Order, ctx: Context, tx: Transaction) -> str:
            with pytest.raises(ConfigurationError, match=r"tx\.start"):
                await app.start(Asked, order, key="wrong")
            handle = await tx.start(Asked, order, key=order.id)
            await tx.signal(handle, "answer", order.amount)
            await world.act("open", ctx)
            return str(handle.id)

    world.will("open", OSError("once"))
    app = await work(Opens(), Asked(world))
    handle = await app.start(Opens, Order("1", amount=3))
    other = app.handle((await handle.result(timeout=5))[Opens.open])
    assert (await other.result(timeout=5))["note"] == "answer 3"
    assert world.keys["open"] == [world.keys["open"][0]] * 2


async def _is(handle, status):
    return await handle.status() == status


# -- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", UNFIT)
async def test_unfit_names_are_refused_where_they_are_given(work, world, text):
    app = await work(Asked(world))
    good = await app.start(Asked, Order("1"), key="good")
    fits = {
        "key": lambda: app.start(Asked, Order("1"), key=text),
        "correlation_id": lambda: app.start(Asked, Order("1"), correlation_id=text),
        "signal": lambda: good.signal(text),
        "id": lambda: good.signal("answer", 1, id=text),
        "reason": lambda: good.cancel(text),
        "by": lambda: app.sagas.send(good.id, ev.RetryAsked(by=text)),
    }
    answers = await asyncio.gather(
        *(act() for act in fits.values()),
        *(app.start(Asked, Order("1"), key=f"beside {n}") for n in range(5)),
        app.saga(Asked, text),
        return_exceptions=True,
    )
    for name, answer in zip(fits, answers, strict=False):
        assert isinstance(answer, ConfigurationError), name
        assert str(answer).startswith(f"{name}="), answer
    assert isinstance(answers[-1], ConfigurationError)
    assert all(handle.created for handle in answers[len(fits) : -1]), "others are started"
    async with app.transaction() as tx:
        with pytest.raises(ConfigurationError, match="key="):
            await tx.start(Asked, Order("1"), key=text)
        with pytest.raises(ConfigurationError, match="signal="):
            await tx.signal(good, text)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"key": ""}, "give 1 to 500"),
        ({"key": "x" * 501}, "501 characters"),
        ({"key": 7}, "must be text, not int"),
        ({"correlation_id": "x" * 501}, "501 characters"),
        ({"correlation_id": b"c"}, "must be text, not bytes"),
    ],
)
async def test_wrong_options_of_a_start(work, world, options, match):
    app = await work(Asked(world))
    with pytest.raises(ConfigurationError, match=match):
        await app.start(Asked, Order("1"), **options)


async def test_what_isnt_a_saga_or_an_id(work, world):
    app = await work(Asked(world))
    for wrong in (Asked(world), 7, None):
        with pytest.raises(ConfigurationError, match="give its class or its name"):
            await app.start(wrong, Order("1"))
        with pytest.raises(ConfigurationError, match="give its class or its name"):
            await app.saga(wrong, "key")
    with pytest.raises(ConfigurationError, match=r"no saga is named 'askd': this app has asked"):
        await app.start("askd", Order("1"))
    with pytest.raises(ConfigurationError, match=r"app\.add"):
        await app.start(Trip, Order("1"))
    with pytest.raises(ConfigurationError, match="takes an Order, not a str"):
        await app.start(Asked, "1")
    with pytest.raises(ConfigurationError, match="without an input: give an Order"):
        await app.start(Asked, None)
    for wrong in ("order-7", "", None, 7):
        with pytest.raises(ConfigurationError, match=r"app\.saga\("):
            app.handle(wrong)
    handle = app.handle(new_id())
    for act in (handle.status, handle.result, handle.story, handle.cancel):
        with pytest.raises(SagaNotFound, match=str(handle.id)):
            await act()


@pytest.mark.parametrize("text", UNFIT)
def test_unfit_names_in_a_definition(text):
    with pytest.raises(DefinitionError, match=r"signal=.*no database stores"):
        wait(text)
    named = type("Named", (Trip,), {"name": text})
    with pytest.raises(DefinitionError, match="can't be stored"):
        Standfast("memory://").add(named(World()))


class Busy(Exception):
    def __init__(self, retry_after: float) -> None:
        super().__init__("come back")
        self.retry_after = retry_after


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("even this")


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        (OSError(UNFIT[0]), r"OSError: nul \x00 here"),
        (OSError(UNFIT[1]), r"OSError: lone \ud800 surrogate"),
        (Refused(UNFIT[0]), r"nul \x00 here"),
        (Refused(UNFIT[1]), r"lone \ud800 surrogate"),
        (Unspeakable(), "Unspeakable: (its message can't be read: ValueError)"),
        (OSError("x" * 10_000), "OSError: " + "x" * 1000),
        (Busy(math.inf), "Busy: come back"),
    ],
    ids=["nul", "surrogate", "refused nul", "refused surrogate", "unspeakable", "long", "for ever"],
)
async def test_an_error_with_unfit_text_is_told_and_harms_nobody(work, world, error, stored):
    class Mixed(Saga[Order]):
        @step(retry=SOON, no_compensation="it has no effect")
        async def charge(self, order: Order, ctx: Context) -> str:
            if order.id == "bad":
                raise error
            return order.id

    app = await work(Mixed())
    ids = [*map(str, range(10)), "bad", *map(str, range(10, 20))]
    begun = await asyncio.gather(*(app.start(Mixed, Order(id)) for id in ids))
    bad = begun[10]
    with pytest.raises(SagaCompensated) as caught:
        await bad.result(timeout=10)
    assert stored in caught.value.cause
    assert stored in (await app.sagas.instance(bad.id)).cause
    for id, handle in zip(ids, begun, strict=True):
        if handle is not bad:
            assert (await handle.result(timeout=10))[Mixed.charge] == id


async def test_a_signal_that_nothing_waits_for_is_refused(work, world):
    app = await work(Asked(world))
    handle = await app.start(Asked, Order("1"))
    with pytest.raises(ConfigurationError, match=r"no signal 'anwser': choose from answer \('resu"):
        await handle.signal("anwser", 1)
    with pytest.raises(
        CodecError, match=r"takes int as its payload, and not \"x\" \(Expected `int`"
    ):
        await handle.signal("answer", "x")
    with pytest.raises(ConfigurationError, match="no signal 'anwser'"):
        async with app.transaction() as tx:
            await tx.signal(handle, "anwser", 1)
    await handle.signal("answer", 1)
    assert (await handle.result(timeout=5))["note"] == "answer 1"


async def test_a_child_that_isnt_added_is_told_when_the_work_begins(world):
    class Parent(Saga[Order]):
        asked = child(Asked, lambda self, order, ctx: order)

    app = Standfast("memory://").add(Parent())
    with pytest.raises(DefinitionError, match=r"step 'asked' starts a Asked.*app.add\(Asked"):
        async with app.running():
            pass
    async with app.add(Asked(world)).running():
        pass


async def test_a_payload_that_cant_be_encoded_is_refused_at_once(work, world):
    app = await work(Asked(world))
    handle = await app.start(Asked, Order("1"))
    for payload in (object(), UNFIT[1], {"a": math}):
        with pytest.raises(CodecError, match="can't be encoded"):
            await handle.signal("answer", payload)
    with pytest.raises(CodecError, match="can't be encoded"):
        await app.start(Asked, Order(UNFIT[1]))


# -- after an operator's act ---------------------------------------------------------------------


class Late(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(pivot=True, retry=SOON)
    async def pay(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("pay"))


async def test_a_result_asked_for_right_after_a_retry_waits_for_it(work, world):
    """Whatever the clocks say: here the operator's is an hour behind the database's."""
    app = await work(Late(world), poll=0.05)
    app.sagas.poll = 0.01
    for number in range(10):
        world.will("pay", *[OSError("away")] * 3)
        handle = await app.start(Late, Order(str(number)))
        with pytest.raises(SagaParked, match="OSError: away"):
            await handle.result(timeout=5)
        operator = Standfast(app.database).add(Late(world))
        operator.check_open = lambda: None  # for the database is, by the other app
        operator.sagas.clock = Behind()
        operator.sagas.poll = 0.01
        await operator.sagas.send(handle.id, ev.RetryAsked(by="ann"))
        # Neither here, where the worker is, nor as another process sees it.
        here, there = await asyncio.gather(
            handle.result(timeout=5), operator.handle(handle.id).result(timeout=5)
        )
        assert here[Late.pay] == there[Late.pay] == "pay"


class Behind(SystemClock):
    def now(self) -> float:  # type: ignore[override]
        return time.time() - 3600


class Paid(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(pivot=True, retry=SOON)
    async def pay(self, order: Order, ctx: Context) -> None:
        await self.world.act("pay")

    trip = child(Trip, lambda self, order, ctx: order)


async def test_a_child_that_was_compensated_is_started_anew_by_a_retry(work, world):
    world.will("charge", Refused("no funds"), Refused("still none"))
    app = await work(Paid(world), Trip(world))
    handle = await app.start(Paid, Order("1"))
    for cause in ("no funds", "still none"):
        with pytest.raises(SagaParked, match=cause):
            await handle.result(timeout=5)
        await app.sagas.send(handle.id, ev.RetryAsked(by="ann"))
        await until(lambda: _is(handle, "completed" if cause == "still none" else "parked"))
    assert (await handle.result(timeout=5))["trip"]["note"] == "note of charge"
    begun = [f.child for f in (await handle.story()).facts if isinstance(f, fx.ChildStarted)]
    assert len(set(begun)) == 3
    assert [await app.handle(id).status() for id in begun] == ["compensated"] * 2 + ["completed"]


@pytest.mark.parametrize("text", UNFIT)
async def test_what_cant_be_stored_cant_be_looked_for(work, world, text):
    """The same words on every backend, and none of its driver's."""
    app = await work(Trip(world))
    ops = app.operations
    for look in (
        lambda: app.saga(Trip, text),
        lambda: app.saga(text, "key"),
        lambda: ops.locate(f"trip/{text}"),
        lambda: ops.locate(text),
        lambda: ops.timeline(f"{text}/key"),
        lambda: ops.page(ops.select(key=text)),
        lambda: ops.page(ops.select(name=text)),
        lambda: ops.page(ops.select(step=text)),
    ):
        with pytest.raises(ConfigurationError, match="NUL character or a lone surrogate"):
            await look()
