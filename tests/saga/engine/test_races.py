"""Races that are made certain: what changes between two reads, and what is queued at a reload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from standfast import (
    Constant,
    Context,
    Migration,
    Retry,
    Saga,
    SagaCompensated,
    SagaHandle,
    Standfast,
    sleep,
    step,
    wait,
)
from standfast.errors import StaleWriter, StoreUnavailable
from standfast.ids import new_id
from standfast.ports.journal import Mail
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.move import Opened
from standfast.saga.operations import Operations
from standfast.testing import run_saga


class Asks(Saga[int]):
    name = "asks"
    go = wait("go")

    @step(no_compensation="none")
    async def act(self, number: int, ctx: Context) -> int:
        return number


async def test_a_status_that_changes_between_two_reads_isnt_taken_for_the_end(monkeypatch):
    """The row says that it is parked; when the whole is read, it goes on again."""
    app = Standfast("memory://").add(Asks())
    async with app.running(drain=5):
        handle = await app.start(Asks, 7)
        async with asyncio.timeout(10):
            while await handle.status() != "waiting" or app.sagas.executor.active:
                await asyncio.sleep(0.01)
        poller, looks = app.sagas.poller, []
        read = poller.row

        async def stale(id: Any) -> Any:
            row = await read(id)
            looks.append(row)
            return replace(row, status="parked", cause="act: down") if len(looks) == 1 else row

        monkeypatch.setattr(poller, "row", stale)
        # It isn't in memory here, so that the answer is looked for in the store.
        waiting = asyncio.create_task(handle.result("10s"))
        async with asyncio.timeout(10):
            while len(looks) < 2 and not waiting.done():
                await asyncio.sleep(0.01)
        await handle.signal("go")
        assert (await waiting)["act"] == 7


class Asks2(Asks):
    version = 2
    migrations = {1: Migration()}  # noqa: RUF012


class Asks3(Asks):
    version = 3
    migrations = {1: Migration(), 2: Migration()}  # noqa: RUF012


async def test_of_two_moves_in_the_mail_the_last_counts(tmp_path):
    app = Standfast(f"sqlite:///{tmp_path}/x.db").add(Asks(), Asks2(), Asks3())
    async with app:
        handle = await app.start(Asks, 7)
        operations = Operations(app.sagas)
        for version in (2, 3):
            async for _ in operations.tell(ev.MigrateAsked(version), [handle.id]):
                pass
    async with app.running(drain=5):
        await handle.signal("go")
        assert (await handle.result("10s"))["act"] == 7
        facts = (await handle.story()).facts
        assert (await app.sagas.instance(handle.id)).version == 3
    assert [fact.version for fact in facts if isinstance(fact, fx.Migrated)] == [3]
    assert not [fact for fact in facts if isinstance(fact, fx.Ignored)]


@pytest.mark.parametrize("before", [0, 1])
def test_a_signal_that_is_queued_at_a_reload_is_heard_once(before):
    definition = Definition(Asks())

    def opened() -> Opened:
        machine = Machine(new_id(), definition.plan)
        started = fx.Started(
            at=1.0, input=fx.EMPTY, version=1, key="1", correlation_id="1", deadline_at=None
        )
        machine.apply(started)
        return Opened(definition, machine, 7)

    subject, body = ev.to_mail(ev.Signalled("go"))
    first = opened()
    active = Active(definition, first.machine, 7)
    mail = Mail(active.id, "m1", subject, body, 1.0, number=1)
    for _ in range(before):  # it came before the reload, and waits to be heard
        active.deliver(mail)
    active.renew(opened(), [mail])
    active.deliver(mail)  # whoever collects may bring it once more
    assert [type(event) for event in active.inbox] == [ev.Signalled]
    assert active.consumed == [1]
    facts = active.machine.handle(active.inbox.popleft(), 2.0)
    assert [type(fact) for fact in facts] == [fx.SignalReceived, fx.StepCompleted]


def test_a_step_with_a_timeout_of_its_own_heeds_the_sagas_deadline():
    left: list[float] = []

    class Slow(Saga[int]):
        deadline = "300ms"

        @step(no_compensation="none")
        async def first(self, number: int, ctx: Context) -> None:
            await asyncio.sleep(0.2)

        @step(no_compensation="none", timeout="250ms")
        async def second(self, number: int, ctx: Context) -> None:
            assert ctx.deadline is not None
            left.append(ctx.deadline)
            await asyncio.sleep(60)

    run = run_saga(Slow(), 1)
    assert run.status == "compensated"
    assert "the deadline of 0.3s passed" in run.cause
    assert run.time == pytest.approx(0.3, abs=0.02)
    assert len(left) == 1


class Busy(Saga[int]):
    """Two steps keep it in memory, while it waits for a signal."""

    go = wait("go", after=())

    @step(no_compensation="none", after=())
    async def one(self, number: int, ctx: Context) -> None:
        await asyncio.sleep(0.1)

    @step(no_compensation="none", after=())
    async def two(self, number: int, ctx: Context) -> None:
        await asyncio.sleep(0.1)


@pytest.fixture
async def busy() -> AsyncIterator[tuple[SagaHandle[Busy], Active, Any]]:
    """An instance of `Busy` that runs both steps, as it is in memory, and its runner's journal."""
    app = Standfast("memory://").add(Busy())
    async with app.running(drain=5, poll="1m"):
        handle = await app.start(Busy, 7)
        executor = app.sagas.executor
        async with asyncio.timeout(10):
            while handle.id not in executor.active or not executor.active[handle.id].tasks:
                await asyncio.sleep(0.01)
        assert executor._runner is not None
        yield handle, executor.active[handle.id], executor._runner._journal


async def test_mail_that_comes_while_an_instance_is_read_anew_is_acted_on_at_once(
    busy, monkeypatch
):
    """It was delivered after the read, and before what was read replaced all that was in memory."""
    handle, active, journal = busy
    load, delivered = journal.load, []

    async def slow(ids: Any) -> Any:
        found = await load(ids)
        await handle.signal("go")
        async with asyncio.timeout(10):
            while not active.inbox:
                await asyncio.sleep(0.01)
        delivered.extend(active.inbox)
        return found

    monkeypatch.setattr(journal, "load", slow)
    active.task.cancel()
    await handle.result("10s")
    assert delivered


async def test_a_driver_that_is_cancelled_while_its_saga_is_read_anew_reads_it_again(
    busy, monkeypatch
):
    handle, active, journal = busy
    load, reads = journal.load, []

    async def cancelled(ids: Any) -> Any:
        reads.append(ids)
        if len(reads) < 3:
            active.task.cancel()
            await asyncio.sleep(1)
        return await load(ids)

    monkeypatch.setattr(journal, "load", cancelled)
    active.task.cancel()
    async with asyncio.timeout(10):
        while len(reads) < 3:
            await asyncio.sleep(0.01)
    await handle.signal("go")
    await handle.result("10s")


async def test_one_that_was_claimed_anew_while_it_was_read_is_read_again(busy, monkeypatch):
    """What was read is of before: that nobody has it isn't true any more."""
    handle, active, journal = busy
    load, reads = journal.load, []

    async def old(ids: Any) -> Any:
        (found,) = await load(ids)
        reads.append(found)
        if len(reads) > 1:
            return [found]
        active.claimed_anew = True
        return [replace(found, instance=replace(found.instance, owner=None))]

    monkeypatch.setattr(journal, "load", old)
    active.task.cancel()
    await handle.signal("go")
    await handle.result("5s")
    assert len(reads) == 2


class Trying(Saga[int]):
    """Its second step fails, and is to be tried again in an hour."""

    def __init__(self) -> None:
        self.undone: list[int] = []

    @step
    async def one(self, number: int, ctx: Context) -> None: ...

    @one.compensation
    async def undo(self, number: int, ctx: Context) -> None:
        self.undone.append(ctx.attempt)
        await asyncio.sleep(0.2)

    @step(retry=Retry(attempts=3, backoff=Constant(3600)), no_compensation="none")
    async def two(self, number: int, ctx: Context) -> None:
        raise OSError("away")


@pytest.mark.parametrize("answer", ["lost", "late"])
async def test_one_that_is_claimed_anew_before_its_release_is_heard_of_has_one_driver(
    app_url, answer
):
    """The store let it go and its answer is under way, when mail makes the same worker claim it."""
    saga = Trying()
    app = Standfast(app_url, migrate=True).add(saga)
    journal, claimed, released = app.sagas.store, asyncio.Event(), asyncio.Event()
    append, claim = journal.append, journal.claim

    async def slow(owner: int, appends: Any) -> Any:
        if released.is_set() and not claimed.is_set():
            await claimed.wait()  # the second try, where the answer to the first was lost
        done = await append(owner, appends)
        if appends[0].release and not released.is_set():
            released.set()
            if answer == "lost":
                raise StoreUnavailable("the answer was lost")
            await claimed.wait()
        return done

    async def noted(*args: Any, **options: Any) -> Any:
        found = await claim(*args, **options)
        if found:
            asyncio.get_running_loop().call_later(0.05, claimed.set)
        return found

    journal.append, journal.claim = slow, noted  # type: ignore[method-assign]
    async with app.running(drain=5, linger=0.01, poll=0.1):
        handle = await app.start(Trying, 1)
        await asyncio.wait_for(released.wait(), 10)
        await handle.cancel("not any more")
        with pytest.raises(SagaCompensated):
            await handle.result("10s")
        assert claimed.is_set()
        assert saga.undone == [1]
        assert app.sagas.executor.active == {}
        desk = app.sagas.executor.desk
        assert desk is not None
        assert desk.slots.taken == 0


class Naps(Saga[int]):
    nap = sleep(0.2)

    @step(no_compensation="none")
    async def wake(self, number: int, ctx: Context) -> int:
        return number


async def test_one_that_was_let_go_though_the_answer_said_no_goes_on_when_it_is_due():
    """Nobody hints at a time that has come, and the next poll is an hour away."""
    app = Standfast("memory://").add(Naps())
    journal, lies = app.sagas.store, ["nothing was written"]
    append = journal.append

    async def lying(owner: int, appends: Any) -> Any:
        done = await append(owner, appends)
        return [StaleWriter(lies.pop())] if lies and appends[0].release else done

    journal.append = lying  # type: ignore[method-assign]
    async with app.running(drain=5, linger=0.01, poll="1h"):
        assert (await (await app.start(Naps, 7)).result("10s"))["wake"] == 7
        assert not lies


@pytest.mark.parametrize(("linger", "leaves"), [("2s", False), ("10ms", True)])
async def test_what_sleeps_for_longer_than_it_lingers_leaves_memory(linger, leaves):
    app = Standfast("memory://").add(Naps())
    journal, released = app.sagas.store, []
    append = journal.append

    async def noted(owner: int, appends: Any) -> Any:
        released.extend(one for one in appends if one.release and one.change is not None)
        return await append(owner, appends)

    journal.append = noted  # type: ignore[method-assign]
    async with app.running(drain=5, linger=linger):
        await (await app.start(Naps, 7)).result("10s")
    statuses = [one.change.status for one in released]
    assert statuses == (["waiting", "completed"] if leaves else ["completed"])


class Quick(Saga[int]):
    @step(no_compensation="none")
    async def act(self, number: int, ctx: Context) -> int:
        return number


@pytest.mark.parametrize(
    ("error", "is_written"),
    [(StoreUnavailable("no answer"), True), (StaleWriter("the lease was ended"), False)],
)
async def test_a_start_that_fails_leaves_its_slot_free_and_what_was_written_runs(error, is_written):
    """There is one slot, and the next poll is an hour away."""
    app = Standfast("memory://").add(Quick())
    journal, errors = app.sagas.store, [error]
    start = journal.start

    async def failing(starts: Any, *, owner: int | None) -> Any:
        if owner is None or not errors:
            return await start(starts, owner=owner)
        if is_written:
            await start(starts, owner=owner)
        raise errors.pop()

    journal.start = failing  # type: ignore[method-assign]
    async with app.running(drain=5, poll="1h", max_in_flight=1):
        if is_written:
            with pytest.raises(StoreUnavailable):
                await app.start(Quick, 7, key="k")
        else:
            await app.start(Quick, 7, key="k")
        assert (await (await app.saga(Quick, "k")).result("5s"))["act"] == 7
        assert (await (await app.start(Quick, 8)).result("5s"))["act"] == 8
        desk = app.sagas.executor.desk
        assert desk is not None
        assert (desk.slots.taken, app.sagas.executor.beginning) == (0, set())


async def test_a_start_that_was_made_before_takes_no_slot():
    app = Standfast("memory://").add(Asks(), Quick())
    async with app.running(drain=5, poll="1h", linger="1h", max_in_flight=3):
        begun = await app.start(Asks, 7, key="k")
        for _ in range(5):
            again = await app.start(Asks, 7, key="k")
            assert (again.id, again.created) == (begun.id, False)
        await (await app.start(Quick, 8)).result("5s")
        await begun.signal("go")
        await begun.result("5s")
        assert app.sagas.telemetry.started == {"asks": 1, "quick": 1}
