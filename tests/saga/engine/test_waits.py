"""Waits and signals, pivots, parks, operators' acts, cancelling and deadlines."""

import asyncio
from dataclasses import dataclass

import pytest

from standfast import Context, Refused, Saga, SagaCompensated, SagaParked, step, wait
from standfast.errors import CodecError, ConfigurationError, SagaNotFound
from standfast.ids import new_id
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, Trip, World, until


@dataclass(frozen=True)
class Approval:
    by: str
    level: int


class Approved(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def ask(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("ask"))

    @ask.compensation
    async def withdraw(self, order: Order, ctx: Context) -> None:
        await self.world.act("withdraw")

    first = wait("approved", type=Approval)
    second = wait("approved", type=Approval)

    @step(no_compensation="a note")
    async def note(self, order: Order, ctx: Context) -> str:
        return f"{ctx.result(self.first).by} {ctx.result(self.second).by}"


async def test_each_wait_takes_one_signal_in_order(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"))
    await until(lambda: world.log == ["ask"])
    await handle.signal("approved", Approval("ann", 1))
    await asyncio.sleep(0.1)
    assert await handle.status() == "waiting"
    await handle.signal("approved", Approval("bob", 2))
    result = await handle.result(timeout=5)
    assert result["note"] == "ann bob"
    assert result["first"] == Approval("ann", 1)


async def test_a_signal_that_comes_early_is_kept(work, world):
    asked = asyncio.Event()
    world.will("ask", asked.wait)
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"))
    await handle.signal("approved", Approval("ann", 1))
    await handle.signal("approved", Approval("bob", 1))
    asked.set()
    assert (await handle.result(timeout=5))["note"] == "ann bob"


async def test_a_signal_sent_twice_with_one_id_counts_once(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"))
    await handle.signal("approved", Approval("ann", 1), id="mail-1")
    await until(lambda: _waits(handle, "second"))
    await handle.signal("approved", Approval("ann", 1), id="mail-1")
    await asyncio.sleep(0.2)
    assert await handle.status() == "waiting"
    await handle.signal("approved", Approval("bob", 1), id="mail-2")
    assert (await handle.result(timeout=5))["note"] == "ann bob"


async def _waits(handle, step):
    state = (await handle.story()).state
    return step in state.branches and state.branches[step].is_open


async def test_a_payload_of_the_wrong_type_is_refused_when_it_is_sent(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"))
    with pytest.raises(CodecError, match="approved"):
        await handle.signal("approved", {"by": "ann", "level": "high"})
    assert not [f for f in (await handle.story()).facts if isinstance(f, fx.SignalReceived)]


async def test_a_signal_to_nobody_is_an_error(work, world):
    app = await work(Approved(world))
    with pytest.raises(SagaNotFound):
        await app.handle(new_id()).signal("approved", Approval("ann", 1))


async def test_a_wait_stands_for_the_name_of_its_signal(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"), key="1")
    await handle.signal(Approved.first, Approval("ann", 1))
    async with app.transaction() as tx:
        await tx.signal(handle, Approved.second, Approval("bob", 2))
    assert (await handle.result(20))[Approved.second] == Approval("bob", 2)


async def test_a_step_that_waits_for_no_signal_stands_for_none(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"), key="1")
    with pytest.raises(ConfigurationError, match="is an action step: give a wait, or the signal"):
        await handle.signal(Approved.note, None)


@pytest.mark.parametrize("on_timeout", ["compensate", "park", "continue"])
async def test_a_wait_that_times_out(work, world, on_timeout):
    class Brief(Saga[Order]):
        @step
        async def ask(self, order: Order, ctx: Context) -> None:
            await world.act("ask")

        @ask.compensation
        async def withdraw(self, order: Order, ctx: Context) -> None:
            await world.act("withdraw")

        word = wait("word", timeout=0.2, on_timeout=on_timeout)

        @step(no_compensation="a note")
        async def note(self, order: Order, ctx: Context) -> bool:
            return ctx.has_result(self.word)

    # Both sleeping in memory and leaving it for the store.
    app = await work(Brief(), linger=0.05 if on_timeout == "park" else 1)
    handle = await app.start(Brief, Order("1"))
    if on_timeout == "continue":
        assert (await handle.result(timeout=5))["note"] is False
        return
    error = SagaParked if on_timeout == "park" else SagaCompensated
    with pytest.raises(error, match="no signal 'word' within"):
        await handle.result(timeout=5)
    assert world.log == (["ask"] if on_timeout == "park" else ["ask", "withdraw"])
    if on_timeout == "park":
        await app.sagas.send(handle.id, ev.SkipAsked("", "never mind", "ann"))
        assert (await handle.result(timeout=5))["note"] is False


@pytest.mark.parametrize("linger", [0.01, 60], ids=["in the store", "in memory"])
async def test_a_wait_that_was_parked_takes_its_signal_all_the_same(work, world, linger):
    class Patient(Saga[Order]):
        word = wait("word", type=str, timeout=0.1, on_timeout="park")

        @step(no_compensation="a note")
        async def note(self, order: Order, ctx: Context) -> str:
            return ctx.result(self.word)

    app = await work(Patient(), linger=linger)
    handle = await app.start(Patient, Order("1"))
    with pytest.raises(SagaParked, match="no signal 'word' within"):
        await handle.result(timeout=5)
    await handle.signal("word", "late")
    await until(lambda: _is(handle, "completed"))
    assert (await handle.result(timeout=5))["note"] == "late"
    row = await app.sagas.instance(handle.id)
    assert (row.step, row.cause) == ("", "")


class Pivoted(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def before(self, order: Order, ctx: Context) -> None:
        await self.world.act("before")

    @before.compensation
    async def undo_before(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo")

    @step(pivot=True, retry=SOON)
    async def pay(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("pay"))

    @step(retry=SOON)
    async def ship(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("ship"))


async def _parked(app, step):
    handle = await app.start(Pivoted, Order("1"), key="1")
    with pytest.raises(SagaParked, match=step) as caught:
        await handle.result(timeout=5)
    assert "OSError: away" in caught.value.cause
    return handle


async def test_past_the_pivot_it_parks_and_a_retry_goes_on(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await _parked(app, "ship")
    await handle.cancel("too late")
    await app.sagas.send(handle.id, ev.RetryAsked(by="ann"))
    await until(lambda: _is(handle, "completed"))
    result = await handle.result(timeout=5)
    assert result["ship"] == "ship"
    facts = (await handle.story()).facts
    assert [f.by for f in facts if isinstance(f, fx.Resumed)] == ["ann"]
    assert any(isinstance(f, fx.Ignored) and f.act == "cancel" for f in facts)
    assert "undo" not in world.log


async def test_a_resume_signal_goes_on(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await _parked(app, "ship")
    await handle.signal("resume")
    await until(lambda: _is(handle, "completed"))
    assert (await handle.result())["ship"] == "ship"


async def _is(handle, status):
    return await handle.status() == status


async def test_an_operator_skips_a_parked_step_with_a_reason(work, world):
    world.will("ship", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await _parked(app, "ship")
    await app.sagas.send(handle.id, ev.SkipAsked("ship", "sent by hand", "ann"))
    result = await handle.result(timeout=5)
    assert "ship" not in result.as_dict()
    (skipped,) = [f for f in (await handle.story()).facts if isinstance(f, fx.StepSkipped)]
    assert (skipped.reason, skipped.by) == ("sent by hand", "ann")


async def test_an_operator_ends_it_by_hand(work, world):
    world.will("pay", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await _parked(app, "pay")
    await app.sagas.send(handle.id, ev.ResolveAsked("compensated", "paid back by phone", "ann"))
    with pytest.raises(SagaCompensated, match="paid back by phone"):
        await handle.result(timeout=5)
    assert world.log == ["before"], "nothing is undone behind the operator's back"


async def test_an_operator_ends_one_that_waits_under_a_condition(work, world):
    class Conditional(Saga[Order]):
        word = wait("word", when=lambda self, order, ctx: order.amount == 1)

    app = await work(Conditional(), linger=0.01)
    handle = await app.start(Conditional, Order("1"))
    await until(lambda: _rests(app, handle))
    await app.sagas.send(handle.id, ev.ResolveAsked("completed", "said by phone", "ann"))
    assert (await handle.result(timeout=5)).as_dict() == {}


async def _rests(app, handle):
    row = await app.sagas.instance(handle.id)
    return row.status == "waiting" and row.owner is None


async def test_cancelling_undoes(work, world):
    app = await work(Approved(world))
    handle = await app.start(Approved, Order("1"))
    await until(lambda: world.log == ["ask"])
    await handle.cancel("changed my mind", by="ann")
    with pytest.raises(SagaCompensated, match="changed my mind"):
        await handle.result(timeout=5)
    assert world.log == ["ask", "withdraw"]


async def test_cancelling_with_the_pivot_in_doubt_needs_force(work, world):
    world.will("pay", *[OSError("away")] * 3)
    app = await work(Pivoted(world))
    handle = await _parked(app, "pay")
    await handle.cancel("enough")
    with pytest.raises(SagaParked):
        await handle.result(timeout=5)
    assert "undo" not in world.log
    await handle.cancel("it wasn't paid: I looked", force=True)
    with pytest.raises(SagaCompensated, match="I looked"):
        await handle.result(timeout=5)
    assert world.log == ["before", "undo"]


class Hurried(Saga[Order]):
    deadline = 0.3

    def __init__(self, world: World) -> None:
        self.world = world

    @step
    async def hold(self, order: Order, ctx: Context) -> None:
        await self.world.act("hold")

    @hold.compensation
    async def free(self, order: Order, ctx: Context) -> None:
        await asyncio.sleep(0.4)
        await self.world.act("free")

    @step
    async def dawdle(self, order: Order, ctx: Context) -> None:
        await self.world.act("dawdle")

    @dawdle.compensation
    async def undo_dawdle(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo dawdle")

    word = wait("word")


async def test_the_deadline_ends_a_wait(work, world):
    app = await work(Hurried(world), linger=0.1)
    with pytest.raises(SagaCompensated, match="the deadline of"):
        await (await app.start(Hurried, Order("1"))).result(timeout=5)
    assert world.log == ["hold", "dawdle", "undo dawdle", "free"]


async def test_the_deadline_interrupts_an_attempt_and_undoes_it(work, world):
    world.will("dawdle", lambda: asyncio.sleep(30))
    app = await work(Hurried(world))
    with pytest.raises(SagaCompensated, match="the deadline of"):
        await (await app.start(Hurried, Order("1"))).result(timeout=5)
    assert world.log == ["hold", "undo dawdle", "free"]


async def test_a_refusal_past_the_pivot_parks(work, world):
    world.will("ship", Refused("no courier"))
    app = await work(Pivoted(world))
    handle = await app.start(Pivoted, Order("1"))
    with pytest.raises(SagaParked, match="no courier"):
        await handle.result(timeout=5)
    assert world.log == ["before", "pay"]


async def test_cancel_of_what_is_compensated_is_told_in_the_journal(work, world):
    world.will("charge", Refused("no funds"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=5)
    await handle.cancel("late")
    await until(lambda: _last_is_ignored(handle))
    assert await handle.status() == "compensated"
    assert world.log == ["reserve", "release"]


async def _last_is_ignored(handle):
    return isinstance((await handle.story()).facts[-1], fx.Ignored)
