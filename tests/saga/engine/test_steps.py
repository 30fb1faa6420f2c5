"""Steps in a row, and beside each other: what they return, how they fail, how they are undone."""

import asyncio
import time

import pytest

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    SagaParked,
    Transaction,
    step,
)
from standfast.errors import CodecError, ResultUnavailable
from standfast.resilience import do_not_retry
from standfast.saga import events as ev
from standfast.saga import facts as fx
from tests.saga.engine.world import SOON, Order, Receipt, Trip, World, until


async def test_completes_with_typed_results(work, world):
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1", amount=7), key="1")
    result = await handle.result(timeout=5)
    assert result[Trip.reserve] == "reserve"
    assert result[Trip.charge] == Receipt("charge", 7)
    assert result["note"] == "note of charge"
    assert world.log == ["reserve", "charge", "note"]
    assert await handle.status() == "completed"


async def test_refused_undoes_what_was_done_but_not_what_was_refused(work, world):
    world.will("charge", Refused("no funds"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"), key="1")
    with pytest.raises(SagaCompensated, match="charge refused: no funds") as caught:
        await handle.result(timeout=5)
    assert caught.value.cause == "charge refused: no funds"
    assert world.log == ["reserve", "release"]
    assert world.calls.count("charge") == 1, "what was refused isn't tried again"
    assert await handle.status() == "compensated"


async def test_a_refusal_beside_what_is_no_exception_isnt_tried_again(work, world):
    async def both():
        raise BaseExceptionGroup("both", [Refused("no funds"), SystemExit(1)])

    world.will("charge", both)
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"), key="1")
    with pytest.raises(SagaCompensated, match="no funds"):
        await handle.result(timeout=5)
    assert world.calls == ["reserve", "charge", "refund", "release"]


async def test_an_unknown_outcome_is_undone_too_and_in_reverse_order(work, world):
    world.will("charge", *[ConnectionError("reset")] * 3)
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated, match="ConnectionError: reset"):
        await handle.result(timeout=5)
    assert world.calls == ["reserve", *["charge"] * 3, "refund", "release"]


async def test_a_retry_has_the_same_key_and_an_undo_one_of_its_own(work, world):
    world.will("reserve", OSError("1"), OSError("2"))
    world.will("note", Refused("no paper"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=5)
    assert len(world.keys["reserve"]) == 3
    assert len(set(world.keys["reserve"])) == 1
    assert set(world.keys["release"]).isdisjoint(world.keys["reserve"])
    story = await handle.story()
    failed = [f for f in story.facts if isinstance(f, fx.AttemptFailed)]
    assert [(f.branch, f.attempt, f.error) for f in failed] == [
        ("reserve", 1, "OSError: 1"),
        ("reserve", 2, "OSError: 2"),
    ]


async def test_a_timeout_interrupts_the_attempt(work, world):
    interrupted = []

    async def hang() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            interrupted.append(time.monotonic())
            raise

    world.will("charge", hang)
    app = await work(Trip(world))
    begun = time.monotonic()
    result = await (await app.start(Trip, Order("1"))).result(timeout=5)
    assert result["charge"].number == "charge"
    assert 0.1 <= interrupted[0] - begun < 1.5
    assert world.calls == ["reserve", "charge", "charge", "note"]


async def test_what_a_retry_inside_gave_up_on_is_one_attempt(work, world):
    """Layers within an attempt don't multiply; the step's own retries are far apart, and go on."""
    quick = Retry(attempts=3, backoff=Constant(0.001))
    act = quick(quick(quick(world.act)))

    class Call(Saga[Order]):
        @step(retry=Retry(attempts=2, backoff=Constant(0.2)))
        async def ask(self, order: Order, ctx: Context) -> None:
            await act("ask")

        @ask.compensation(retry=Retry(attempts=2, backoff=Constant(0.2)))
        async def undo_ask(self, order: Order, ctx: Context) -> None:
            await act("undo ask")

    world.will("ask", *[OSError("down") for _ in range(6)])
    world.will("undo ask", *[OSError("down") for _ in range(5)])
    begun = time.monotonic()
    app = await work(Call())
    handle = await app.start(Call, Order("1"))
    with pytest.raises(SagaCompensated, match="OSError: down"):
        await handle.result(timeout=5)
    assert world.calls == ["ask"] * 6 + ["undo ask"] * 6
    assert time.monotonic() - begun > 0.4, "at the step's own pace"


@pytest.mark.parametrize("wrapped", [False, True])
async def test_do_not_retry_ends_the_attempts_of_a_step(work, world, wrapped):
    async def hopeless():
        if not wrapped:
            raise do_not_retry(OSError("gone for good"))
        try:
            raise do_not_retry(OSError("gone for good"))
        except OSError as error:
            raise RuntimeError("gone for good") from error

    world.will("charge", hopeless)
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated, match="gone for good"):
        await handle.result(timeout=5)
    # Its outcome is unknown, other than of one that was refused: so it is undone.
    assert world.calls == ["reserve", "charge", "refund", "release"]


async def test_do_not_retry_parks_a_step_that_parks_and_an_undo(work, world):
    class Parks(Saga[Order]):
        @step(retry=SOON, on_exhausted="park")
        async def go(self, order: Order, ctx: Context) -> None:
            await world.act("go")

        @go.compensation(retry=SOON)
        async def back(self, order: Order, ctx: Context) -> None:
            await world.act("back")

    world.will("go", do_not_retry(OSError("hopeless")))
    world.will("back", do_not_retry(OSError("hopeless")))
    app = await work(Parks())
    handle = await app.start(Parks, Order("1"))
    with pytest.raises(SagaParked, match="parked"):
        await handle.result(timeout=5)
    await handle.cancel()
    with pytest.raises(SagaParked, match="compensation_failed"):
        await handle.result(timeout=5)
    assert world.calls == ["go", "back"]


class Marking(Saga[Order]):
    """Its step raises an exception object that others raise too, and marks it."""

    def __init__(self, shared, via=None):
        self.shared, self.via, self.begun = shared, via, 0

    @step(retry=SOON, no_compensation="test")
    async def go(self, order: Order, ctx: Context) -> None:
        self.begun += 1

        def marked():
            try:
                raise self.shared
            except OSError as error:
                raise do_not_retry(error)  # noqa: B904

        if self.via == "thread":
            await asyncio.to_thread(marked)
        elif self.via == "pool":
            await asyncio.get_running_loop().run_in_executor(None, marked)
        else:
            marked()


@pytest.mark.parametrize(
    ("overlapping", "transactional"), [(False, False), (False, True), (True, False)]
)
async def test_a_mark_ends_no_step_of_another_saga(work, overlapping, transactional):
    shared = OSError("pool is empty")
    begun, go = asyncio.Event(), asyncio.Event()
    calls = []

    class Patient(Saga[Order]):
        async def ask(self) -> str:
            calls.append(1)
            begun.set()
            await go.wait()
            if len(calls) < 3:
                raise shared
            return "done"

        if transactional:

            @step(retry=SOON, no_compensation="test", transactional=True)
            async def act(self, order: Order, ctx: Context, tx: Transaction) -> str:
                return await self.ask()
        else:

            @step(retry=SOON, no_compensation="test")
            async def act(self, order: Order, ctx: Context) -> str:
                return await self.ask()

    strict = Marking(shared)
    app = await work(strict, Patient())
    if overlapping:
        patient = await app.start(Patient, Order("1"))
        await asyncio.wait_for(begun.wait(), 5)
    with pytest.raises(SagaCompensated):
        await (await app.start(Marking, Order("1"))).result(timeout=5)
    if not overlapping:
        patient = await app.start(Patient, Order("1"))
    go.set()
    assert (await patient.result(timeout=5))["act"] == "done"
    assert (strict.begun, len(calls)) == (1, 3)


@pytest.mark.parametrize("via", ["thread", "pool"])
async def test_do_not_retry_comes_out_of_the_threads_of_a_step(work, via):
    saga = Marking(OSError("pool is empty"), via)
    app = await work(saga)
    for times in (1, 2):
        with pytest.raises(SagaCompensated):
            await (await app.start(Marking, Order("1"))).result(timeout=5)
        assert saga.begun == times


async def test_the_mark_of_a_step_doesnt_end_its_undo(work):
    shared, undone = OSError("pool is empty"), []

    class Back(Saga[Order]):
        @step(retry=SOON)
        async def go(self, order: Order, ctx: Context) -> None:
            try:
                raise shared
            except OSError as error:
                raise do_not_retry(error)  # noqa: B904

        @go.compensation(retry=SOON)
        async def back(self, order: Order, ctx: Context) -> None:
            undone.append(1)
            if len(undone) < 3:
                raise shared

    app = await work(Back())
    with pytest.raises(SagaCompensated):
        await (await app.start(Back, Order("1"))).result(timeout=5)
    assert len(undone) == 3


async def test_an_undo_is_tried_again_after_what_cant_be_read_or_written(work, world):
    """A step isn't: it would run again, for an answer that can't be stored either."""
    world.will("note", Refused("no"))
    world.will("release", CodecError("what the participant says can't be read"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated, match="note refused: no"):
        await handle.result(timeout=5)
    assert world.calls.count("release") == 2


async def test_an_undo_that_is_exhausted_is_parked_and_can_be_retried(work, world):
    world.will("charge", Refused("no"))
    world.will("release", *[OSError("down")] * 3)
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaParked, match=r"undo of reserve: OSError: down .*`retry`, `skip` or"):
        await handle.result(timeout=5)
    row = await app.sagas.instance(handle.id)
    assert (row.status, row.step) == ("compensation_failed", "reserve"), "it names what is stuck"
    assert row.cause == "undo of reserve: OSError: down (compensating, for charge refused: no)"
    assert world.calls.count("release") == 3
    await asyncio.sleep(0.3)
    assert world.calls.count("release") == 3, "it stays parked"
    await app.sagas.send(handle.id, ev.RetryAsked(by="ann"))
    with pytest.raises(SagaCompensated) as caught:
        await handle.result(timeout=5)
    assert caught.value.cause == "charge refused: no"
    row = await app.sagas.instance(handle.id)
    assert (row.step, row.cause) == ("charge", "charge refused: no")
    assert world.log == ["reserve", "release"]


async def test_of_two_that_are_parked_the_one_left_is_told(work, world):
    class Two(Saga[Order]):
        @step(after=(), retry=SOON, on_exhausted="park", no_compensation="nothing to undo")
        async def left(self, order: Order, ctx: Context) -> None:
            await world.act("left")

        @step(after=(), retry=SOON, on_exhausted="park", no_compensation="nothing to undo")
        async def right(self, order: Order, ctx: Context) -> None:
            await world.act("right")

    world.will("left", *[OSError("left is away")] * 3)
    world.will("right", *[OSError("right is away")] * 6)
    app = await work(Two())
    handle = await app.start(Two, Order("1"))
    await until(lambda: len(world.calls) == 6)
    with pytest.raises(SagaParked):
        await handle.result(timeout=5)
    await app.sagas.send(handle.id, ev.RetryAsked("left"))
    await until(lambda: world.log == ["left"])

    async def told():
        row = await app.sagas.instance(handle.id)
        return (row.status, row.step, row.cause)

    await until(lambda: _equals(told(), ("parked", "right", "right: OSError: right is away")))
    await app.sagas.send(handle.id, ev.SkipAsked("right", "not needed"))
    await until(lambda: _equals(told(), ("completed", "", "")))


async def _equals(answer, expected):
    return await answer == expected


class Diamond(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world
        self.meeting = asyncio.Barrier(2)

    @step(no_compensation="read only")
    async def begin(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("begin"))

    @step(after="begin", retry=SOON)
    async def left(self, order: Order, ctx: Context) -> str:
        await self.meeting.wait()
        return str(await self.world.act("left"))

    @left.compensation
    async def undo_left(self, order: Order, ctx: Context) -> None:
        await self.meeting.wait()
        await self.world.act("undo_left")

    @step(after="begin", retry=SOON)
    async def right(self, order: Order, ctx: Context) -> str:
        await self.meeting.wait()
        return str(await self.world.act("right"))

    @right.compensation
    async def undo_right(self, order: Order, ctx: Context) -> None:
        await self.meeting.wait()
        await self.world.act("undo_right")

    @step(after=["left", "right"], no_compensation="a note")
    async def end(self, order: Order, ctx: Context) -> str:
        await self.world.act("end")
        return ctx.result(self.left) + ctx.result(self.right)


async def test_free_branches_run_at_the_same_time(work, world):
    app = await work(Diamond(world))
    # Each waits for the other inside its step, so one after the other would never end.
    result = await (await app.start(Diamond, Order("1"))).result(timeout=5)
    assert result["end"] == "leftright"
    assert world.log[0] == "begin"
    assert set(world.log[1:3]) == {"left", "right"}


async def test_free_branches_are_undone_at_the_same_time(work, world):
    world.will("end", Refused("no"))
    app = await work(Diamond(world))
    with pytest.raises(SagaCompensated):
        await (await app.start(Diamond, Order("1"))).result(timeout=5)
    assert set(world.log[3:]) == {"undo_left", "undo_right"}


async def test_a_branch_in_flight_when_another_fails_is_undone_when_it_ends(work, world):
    let_go = asyncio.Event()

    class Race(Saga[Order]):
        @step(after=(), retry=SOON)
        async def slow(self, order: Order, ctx: Context) -> str:
            await let_go.wait()
            return str(await world.act("slow"))

        @slow.compensation
        async def undo_slow(self, order: Order, ctx: Context) -> None:
            await world.act(f"undo {ctx.result(self.slow)}")

        @step(after=(), no_compensation="it refuses")
        async def refuse(self, order: Order, ctx: Context) -> None:
            raise Refused("no")

    app = await work(Race())
    handle = await app.start(Race, Order("1"))
    await asyncio.sleep(0.1)
    assert world.log == []
    let_go.set()
    with pytest.raises(SagaCompensated, match="refuse refused: no"):
        await handle.result(timeout=5)
    assert world.log == ["slow", "undo slow"]


class Packing(Saga[Order]):
    def __init__(self, world: World) -> None:
        self.world = world
        self.now = self.most = 0

    @step(each=lambda self, order, ctx: order.items, limit=2, retry=SOON)
    async def pack(self, order: Order, ctx: Context, item: str) -> str:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.02)
        self.now -= 1
        return f"{await self.world.act('pack ' + item)}#{ctx.item}"

    @pack.compensation
    async def unpack(self, order: Order, ctx: Context, item: str) -> None:
        await self.world.act(f"unpack {item} {ctx.item_result if ctx.item != 1 else ''}".strip())

    @step(when=lambda self, order, ctx: order.amount > 1, no_compensation="paper")
    async def wrap(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("wrap"))

    @step(no_compensation="paper")
    async def close(self, order: Order, ctx: Context) -> str:
        return " ".join(ctx.result(self.pack)) + (" wrapped" if ctx.has_result(self.wrap) else "")


async def test_fans_out_in_order_and_within_its_limit(work, world):
    saga = Packing(world)
    app = await work(saga)
    handle = await app.start(Packing, Order("1", items=("a", "b", "c", "d", "e")))
    result = await handle.result(timeout=5)
    assert result["pack"] == [f"pack {i}#{n}" for n, i in enumerate("abcde")]
    assert saga.most == 2
    assert result["close"] == "pack a#0 pack b#1 pack c#2 pack d#3 pack e#4"


async def test_fans_out_over_nothing(work, world):
    app = await work(Packing(world))
    result = await (await app.start(Packing, Order("1"))).result(timeout=5)
    assert result["pack"] == []
    assert world.log == []


async def test_the_items_done_are_undone_when_one_is_refused(work, world):
    world.will("pack b", Refused("b is broken"))
    saga = Packing(world)
    app = await work(saga)
    handle = await app.start(Packing, Order("1", items=("a", "b", "c", "d")))
    with pytest.raises(SagaCompensated, match=r"pack\[1\] refused: b is broken"):
        await handle.result(timeout=5)
    done = [word.split()[1] for word in world.log if word.startswith("pack")]
    undone = [word.split()[1] for word in world.log if word.startswith("unpack")]
    assert "b" not in undone
    assert sorted(done) == sorted(undone)


@pytest.mark.parametrize(("amount", "wrapped"), [(1, False), (2, True)])
async def test_a_condition_decides_whether_a_step_runs(work, world, amount, wrapped):
    app = await work(Packing(world))
    result = await (await app.start(Packing, Order("1", amount=amount))).result(timeout=5)
    assert ("wrap" in world.log) == wrapped
    assert ("wrap" in result.as_dict()) == wrapped
    assert (Packing.wrap in result, "wrap" in result) == (wrapped, wrapped)
    assert result["close"] == (" wrapped" if wrapped else "")


async def test_a_result_that_isnt_there_is_told_for_who_has_no_context(work, world):
    app = await work(Packing(world))
    result = await (await app.start(Packing, Order("1", amount=1))).result(timeout=5)
    with pytest.raises(ResultUnavailable, match="it is skipped; ask `step in result` first"):
        result[Packing.wrap]
    with pytest.raises(ResultUnavailable, match=r"isn't one of its steps \(did you mean wrap\?\)"):
        result["warp"]
    with pytest.raises(TypeError, match=r"write result\.as_dict\(\)"):
        dict(result)


async def test_a_condition_that_raises_fails_the_step_with_its_error(work, world):
    class Odd(Saga[Order]):
        @step(when=lambda self, order, ctx: 1 / 0, no_compensation="never")
        async def never(self, order: Order, ctx: Context) -> None:
            await world.act("never")

    app = await work(Odd())
    with pytest.raises(SagaCompensated, match="ZeroDivisionError"):
        await (await app.start(Odd, Order("1"))).result(timeout=5)
    assert world.log == []


async def test_attempts_without_a_pause_leave_the_event_loop_to_others(work):
    """The only saga here writes without waiting for others; what fails for ever must not."""
    attempts = 0

    class Hopeless(Saga[Order]):
        @step(no_compensation="it has no effect", retry=Retry(attempts=None, backoff=Constant(0)))
        async def fail(self, order: Order, ctx: Context) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 20_000:
                raise Refused("nobody else came to run")
            raise OSError("again")

    app = await work(Hopeless())
    handle = await app.start(Hopeless, Order("1"))
    await asyncio.sleep(0.05)
    await handle.cancel("enough")
    with pytest.raises(SagaCompensated, match="cancelled: enough"):
        await handle.result(timeout=10)


class Busy(Exception):
    """As an HTTP client raises it."""

    def __init__(self, wait: str) -> None:
        super().__init__("503")
        self.headers = {"Retry-After": wait}


async def test_a_step_and_an_undo_wait_as_long_as_the_participant_asks(work, world):
    world.will("charge", Busy("0.3"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    await handle.result(timeout=5)
    facts = (await handle.story()).facts
    (failed,) = (f for f in facts if isinstance(f, fx.AttemptFailed))
    assert failed.delay == 0.3
    (done,) = (f for f in facts if isinstance(f, fx.StepCompleted) and f.branch == "charge")
    assert done.at >= failed.at + 0.3

    world.will("note", Refused("no paper"))
    world.will("refund", Busy("0.3"))
    handle = await app.start(Trip, Order("2"))
    with pytest.raises(SagaCompensated):
        await handle.result(timeout=5)
    facts = (await handle.story()).facts
    (failed,) = (f for f in facts if isinstance(f, fx.CompensationAttemptFailed))
    assert failed.delay == 0.3


async def test_a_step_doesnt_wait_longer_than_its_policy_allows(work, world):
    world.will("charge", Busy("120"))
    app = await work(Trip(world))
    handle = await app.start(Trip, Order("1"))
    with pytest.raises(SagaCompensated, match=r"503 \(asked to wait 2m, max_retry_after=1m\)"):
        await handle.result(timeout=5)
    assert world.calls == ["reserve", "charge", "refund", "release"]
