"""Durable sleep between steps: how long it takes, and what ends it early."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from standfast import (
    Context,
    Refused,
    Saga,
    SagaCompensated,
    SagaParked,
    Standfast,
    sleep,
    step,
)
from standfast.errors import DefinitionError
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.compatibility import problems
from standfast.saga.registry import Definitions
from tests.saga.engine.world import SOON, Order, World, until


class Cooling(Saga[Order]):
    """Reserves, lets a short time pass, and charges."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def reserve(self, order: Order, ctx: Context) -> None:
        await self.world.act("reserve")

    @reserve.compensation(retry=SOON)
    async def release(self, order: Order, ctx: Context) -> None:
        await self.world.act("release")

    cool_off = sleep("300ms")

    @step(retry=SOON, no_compensation="the last")
    async def charge(self, order: Order, ctx: Context) -> None:
        await self.world.act("charge")


class Resting(Cooling):
    """As `Cooling`, for three days."""

    cool_off = sleep("3d")


async def sleeps(handle) -> bool:
    state = (await handle.story()).state
    return any(branch.until for branch in state.branches.values())


async def test_time_passes_between_two_steps_and_memory_is_left(work, world):
    app = await work(Cooling(world), linger=0.01)
    begun = time.monotonic()
    handle = await app.start(Cooling, Order("1"))
    await until(lambda: not app.sagas.executor.active)
    assert await handle.status() == "waiting"
    assert world.log == ["reserve"]
    row = await app.sagas.instance(handle.id)
    (slept,) = [f for f in (await handle.story()).facts if isinstance(f, fx.SleepStarted)]
    assert row.wake_at == slept.until
    result = await handle.result(timeout=10)
    assert time.monotonic() - begun >= 0.29
    assert world.log == ["reserve", "charge"]
    assert result["cool_off"] is None


async def test_a_sleep_goes_on_in_another_process(durable_url, world):
    first = Standfast(durable_url, migrate=True).add(Cooling(world))
    async with first.running(drain=2):
        handle = await first.start(Cooling, Order("1"), key="k")
        await until(lambda: sleeps(handle))
    assert world.log == ["reserve"]
    second = Standfast(durable_url).add(Cooling(world))
    async with second.running(drain=2):
        await (await second.saga(Cooling, "k")).result(timeout=10)
    assert world.log == ["reserve", "charge"]


async def test_a_sleeping_saga_is_cancelled_at_once(work, world):
    app = await work(Resting(world))
    handle = await app.start(Resting, Order("1"))
    await until(lambda: sleeps(handle))
    assert await handle.status() == "waiting"
    await handle.cancel("changed my mind")
    with pytest.raises(SagaCompensated, match="changed my mind"):
        await handle.result(timeout=5)
    assert world.log == ["reserve", "release"]


async def test_the_deadline_ends_a_sleep(work, world):
    class Hurried(Resting):
        deadline = "4d"
        too_long = sleep(until=lambda self, order, ctx: datetime.now(UTC) + timedelta(days=9))

    class Late(Cooling):
        deadline = 0.4
        cool_off = sleep(until=lambda self, order, ctx: datetime(2999, 1, 1, tzinfo=UTC))

    app = await work(Late(world), Hurried(world))
    handle = await app.start(Late, Order("1"))
    with pytest.raises(SagaCompensated, match=r"the deadline of 0.4s passed"):
        await handle.result(timeout=5)
    assert world.log == ["reserve", "release"]
    row = await app.sagas.instance((await app.start(Hurried, Order("2"))).id)
    assert row.deadline_at == pytest.approx(time.time() + 4 * 86_400, abs=60)


async def test_until_a_time_that_the_input_tells(work, world):
    class Dated(Cooling):
        cool_off = sleep(
            until=lambda self, order, ctx: datetime.fromtimestamp(order.amount / 1000, UTC)
        )

    app = await work(Dated(world))
    at = round((time.time() + 0.3) * 1000)
    handle = await app.start(Dated, Order("1", amount=at))
    await handle.result(timeout=10)
    facts = (await handle.story()).facts
    (slept,) = [f for f in facts if isinstance(f, fx.SleepStarted)]
    assert slept.until == at / 1000
    (woken,) = [f for f in facts if isinstance(f, fx.StepCompleted) and f.branch == "cool_off"]
    assert woken.at >= slept.until
    past = await app.start(Dated, Order("2", amount=1000))
    await past.result(timeout=5)


async def test_a_subclass_may_tell_another_time(work, world):
    class Dated(Cooling):
        def when(self, order: Order, ctx: Context) -> datetime:
            return datetime(2999, 1, 1, tzinfo=UTC)

        cool_off = sleep(until=when)

    class Sooner(Dated):
        def when(self, order: Order, ctx: Context) -> datetime:
            return datetime(2001, 1, 1, tzinfo=UTC)

    app = await work(Sooner(world))
    await (await app.start(Sooner, Order("1"))).result(timeout=5)


async def test_a_time_without_a_zone_is_a_failure_that_says_so(work, world):
    class Naive(Cooling):
        cool_off = sleep(until=lambda self, order, ctx: datetime(2030, 1, 1))

    class Wrong(Cooling):
        cool_off = sleep(until=lambda self, order, ctx: "tomorrow")

    app = await work(Naive(world), Wrong(world))
    with pytest.raises(SagaCompensated, match="has no time zone"):
        await (await app.start(Naive, Order("1"))).result(timeout=5)
    with pytest.raises(SagaCompensated, match="'tomorrow': give a datetime with a time zone"):
        await (await app.start(Wrong, Order("1"))).result(timeout=5)


async def test_past_the_pivot_a_wrong_time_parks_and_a_retry_asks_again(work, world):
    times = [ValueError("no calendar"), datetime(2001, 1, 1, tzinfo=UTC)]

    class Sold(Saga[Order]):
        def when_to_send(self, order: Order, ctx: Context) -> datetime:
            answer = times.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        @step(pivot=True)
        async def pay(self, order: Order, ctx: Context) -> None: ...

        send_at = sleep(until=when_to_send)

    app = await work(Sold())
    handle = await app.start(Sold, Order("1"))
    with pytest.raises(SagaParked, match="no calendar"):
        await handle.result(timeout=5)
    await app.sagas.send(handle.id, ev.RetryAsked())
    await until(lambda: _is(handle, "completed"))


async def test_a_condition_leaves_a_sleep_out(work, world):
    class Maybe(Cooling):
        cool_off = sleep("3d", when=lambda self, order, ctx: order.amount > 100)

    app = await work(Maybe(world))
    await (await app.start(Maybe, Order("1"))).result(timeout=5)
    slow = await app.start(Maybe, Order("2", amount=200))
    await until(lambda: sleeps(slow))
    assert await slow.status() == "waiting"


async def test_beside_a_sleep_other_steps_go_on(work, world):
    class Beside(Saga[Order]):
        nap = sleep("3d", after=())

        @step(after=(), retry=SOON)
        async def act(self, order: Order, ctx: Context) -> None:
            await world.act("act")
            if order.amount == 2:
                raise Refused("no")

        @act.compensation
        async def undo(self, order: Order, ctx: Context) -> None: ...

    app = await work(Beside())
    handle = await app.start(Beside, Order("1"))
    await until(lambda: _is(handle, "waiting"))
    assert world.log == ["act"]
    with pytest.raises(SagaCompensated, match="no"):
        await (await app.start(Beside, Order("2", amount=2))).result(timeout=5)


async def test_a_moment_that_was_asked_for_is_asked_once(durable_url, world):
    asked = []

    class Dated(Cooling):
        def when(self, order: Order, ctx: Context) -> datetime:
            asked.append(ctx.attempt)
            return datetime.now(UTC) + timedelta(days=len(asked) * 100)

        cool_off = sleep(until=when)

    first = Standfast(durable_url, migrate=True).add(Dated(world))
    async with first.running(drain=2):
        handle = await first.start(Dated, Order("1"))
        await until(lambda: sleeps(handle))
    before = (await _row(durable_url, Dated(world), handle)).wake_at
    second = Standfast(durable_url).add(Dated(world))
    async with second.running(drain=2):
        await second.handle(handle.id).signal("resume")
        await until(lambda: _has(second.handle(handle.id), fx.SignalReceived))
    after = await _row(durable_url, Dated(world), handle)
    assert (asked, after.status) == ([1], "waiting")
    (slept,) = [f for f in (await _facts(durable_url, Dated(world), handle)) if _slept(f)]
    assert before is not None
    assert slept.until == pytest.approx(time.time() + 100 * 86_400, abs=600)


async def test_a_sleep_that_is_a_step_now_is_told(work, world):
    class Changed(Saga[Order]):
        name = "resting"

        @step(no_compensation="none")
        async def reserve(self, order: Order, ctx: Context) -> None: ...

        @step(no_compensation="none")
        async def cool_off(self, order: Order, ctx: Context) -> None: ...

    app = await work(Resting(world))
    handle = await app.start(Resting, Order("1"))
    await until(lambda: sleeps(handle))
    (loaded,) = await app.sagas.store.load([handle.id])
    definitions = Definitions()
    definitions.add(Changed())
    assert [problem.text for problem in problems(definitions, loaded, 0.0)] == [
        "step 'cool_off' sleeps no more"
    ]


async def _row(url, saga, handle):
    async with Standfast(url).add(saga) as app:
        return await app.sagas.instance(handle.id)


async def _facts(url, saga, handle):
    async with Standfast(url).add(saga) as app:
        return (await app.handle(handle.id).story()).facts


async def _has(handle, kind):
    return any(isinstance(fact, kind) for fact in (await handle.story()).facts)


def _slept(fact):
    return isinstance(fact, fx.SleepStarted)


def test_sleeps_that_make_no_sense_are_refused():
    with pytest.raises(DefinitionError, match="not both"):
        sleep()
    with pytest.raises(DefinitionError, match="not both"):
        sleep("3d", until=lambda self, order, ctx: datetime.now(UTC))
    with pytest.raises(Exception, match=r"sleep='soon': not a duration"):
        sleep("soon")
    with pytest.raises(Exception, match="more than zero"):
        sleep(0)

    async def later(self, order, ctx):
        return datetime.now(UTC)

    with pytest.raises(DefinitionError, match=r"until= must be a plain function"):
        sleep(until=later)

    class Contradiction(Resting):
        deadline = "1d"

    with pytest.raises(DefinitionError, match=r"sleeps for 3d, but .* deadline of 1d"):
        Standfast("memory://").add(Contradiction(World()))

    class Takes(Saga[Order]):
        nap = sleep(until=lambda order: datetime.now(UTC))

    with pytest.raises(DefinitionError, match=r"until= must take \(self, input, ctx\)"):
        Standfast("memory://").add(Takes())


async def _is(handle, wanted):
    return await handle.status() == wanted
