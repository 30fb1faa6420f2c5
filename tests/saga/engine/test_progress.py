"""Following a saga: change by change, in its own process and in another, until it is at rest."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from standfast import (
    ConfigurationError,
    Context,
    Refused,
    Saga,
    SagaNotFound,
    SagaParked,
    Standfast,
    step,
    wait,
)
from standfast.errors import CorruptRecord
from standfast.resilience import do_not_retry
from standfast.saga import Change
from tests.saga.engine.world import SOON, Order, until


class Trip(Saga[Order]):
    """Waits in its second step until it is let go; an amount of 0 is refused there."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.go_on = asyncio.Event()

    @step(no_compensation="nothing to undo")
    async def flight(self, order: Order, ctx: Context) -> str:
        return "LH 400"

    @step(timeout=None, retry=SOON, no_compensation="nothing to undo")
    async def hotel(self, order: Order, ctx: Context) -> str:
        self.held.add(order.id)
        await self.go_on.wait()
        if not order.amount:
            raise Refused("no room")
        return "room 7"


class Asks(Saga[Order]):
    """Waits for a signal."""

    answer = wait("answer")


class Stays(Saga[Order]):
    """Can't be undone."""

    @step
    async def flight(self, order: Order, ctx: Context) -> None:
        pass

    @flight.compensation
    async def cancel(self, order: Order, ctx: Context) -> None:
        raise do_not_retry(RuntimeError("no way back"))

    @step(no_compensation="nothing to undo")
    async def hotel(self, order: Order, ctx: Context) -> None:
        raise Refused("no room")


async def followed(app: Standfast, handle: Any, **options: Any) -> list[Change]:
    return [change async for change in app.progress(handle, **options)]


def texts(changes: list[Change]) -> list[str]:
    return [entry.text for change in changes for entry in change.entries]


async def begun(saga: Trip, app: Standfast, order: Order) -> Any:
    """A saga that is held, and its row says so."""
    handle = await app.start(Trip, order)
    await until(lambda: order.id in saga.held)
    return handle


@pytest.mark.parametrize(("amount", "ends"), [(1, "completed"), (0, "compensated")])
async def test_in_its_own_process(work, monkeypatch, amount, ends):
    saga = Trip()
    app = await work(saga)

    async def look(id: Any) -> Any:
        pytest.fail("what runs here needs no looks at the store")

    monkeypatch.setattr(app.sagas.poller, "row", look)
    handle = await begun(saga, app, Order("7", amount=amount))
    async with aclosing(app.progress(handle)) as changes:
        first = await anext(changes)
        assert (first.number, first.status, first.at_rest) == (2, "running", False)
        assert [entry.branch for entry in first.entries] == ["", "flight"]
        saga.go_on.set()
        rest = [change async for change in changes]
    timeline = await handle.timeline()
    assert texts([first, *rest]) == [entry.text for entry in timeline.entries]
    assert (rest[-1].number, rest[-1].status, rest[-1].at_rest) == (
        len(timeline.entries),
        ends,
        True,
    )
    assert not any(change.at_rest for change in [first, *rest][:-1])
    assert not app.sagas.executor.watchers._followers


async def test_whoever_comes_back_misses_nothing_and_is_told_nothing_twice(work):
    saga = Trip()
    app = await work(saga)
    handle = await begun(saga, app, Order("7"))
    first = (await followed(app, handle, timeout=0))[0]
    saga.go_on.set()
    await handle.result("10s")
    whole = await followed(app, handle)
    assert len(whole) == 1
    rest = await followed(app, handle, after=first.number)
    assert texts([first, *rest]) == texts(whole)
    (nothing,) = await followed(app, handle, after=whole[0].number)
    assert (nothing.entries, nothing.status, nothing.at_rest) == ([], "completed", True)


async def test_from_another_process(durable_url, monkeypatch):
    saga = Trip()
    client = Standfast(durable_url, migrate=True).add(Trip())
    async with Standfast(durable_url, migrate=True).add(saga).running(drain=2), client:
        poller: Any = client.sagas.poller
        rows, wholes, looks, reads = poller.row, poller.whole, [], []

        async def row(id: Any) -> Any:
            looks.append(id)
            return await rows(id)

        async def whole(id: Any) -> Any:
            reads.append(id)
            return await wholes(id)

        monkeypatch.setattr(poller, "row", row)
        monkeypatch.setattr(poller, "whole", whole)
        handle = await begun(saga, client, Order("7"))
        async with aclosing(client.progress(handle)) as changes:
            seen = [await anext(changes)]
            following = asyncio.ensure_future(anext(changes))
            before = len(looks) + 5
            await until(lambda: len(looks) > before)
            assert len(reads) == 1  # a journal is read when its row has changed
            saga.go_on.set()
            seen += [await following, *[change async for change in changes]]
        timeline = await handle.timeline()
        assert texts(seen) == [entry.text for entry in timeline.entries]
        assert (seen[-1].status, seen[-1].at_rest) == ("completed", True)


async def test_from_there_it_is_told_long_before_the_time_is_up(durable_url):
    saga = Trip()
    client = Standfast(durable_url, migrate=True).add(Trip())
    async with Standfast(durable_url, migrate=True).add(saga).running(drain=2), client:
        handle = await begun(saga, client, Order("7"))
        async with asyncio.timeout(20), aclosing(client.progress(handle, timeout="5m")) as changes:
            await anext(changes)
            saga.go_on.set()
            *_, last = [change async for change in changes]
        assert (last.status, last.at_rest) == ("completed", True)


async def test_what_is_set_aside_without_a_fact_is_told(durable_url, monkeypatch):
    def unreadable(*given: Any) -> None:
        raise CorruptRecord("fact 0 can't be read")

    monkeypatch.setattr("standfast.saga.executor.open_instance", unreadable)
    client = Standfast(durable_url, migrate=True).add(Trip())
    async with client:
        handle = await client.start(Trip, Order("7"))
        async with aclosing(client.progress(handle)) as changes:
            first = await anext(changes)
            async with Standfast(durable_url).add(Trip()).running(drain=2):
                (last,) = [change async for change in changes]
    assert (first.status, first.number) == ("running", 1)
    assert (last.status, last.number, last.entries, last.at_rest) == ("parked", 1, [], True)
    assert last.cause == "fact 0 can't be read"


async def test_time_runs_out_without_an_end(work):
    saga = Trip()
    app = await work(saga)
    handle = await begun(saga, app, Order("7"))
    (only,) = await followed(app, handle, timeout="1ms")
    assert (only.status, only.at_rest) == ("running", False)


async def test_one_that_waits_for_a_signal_is_followed_past_its_leaving_memory(work):
    app = await work(Asks())
    handle = await app.start(Asks, Order("7"))
    async with aclosing(app.progress(handle)) as changes:
        await anext(changes)
        await until(lambda: not app.sagas.executor.active)
        await handle.signal("answer", "yes")
        rest = [change async for change in changes]
    assert rest[-1].status == "completed"
    assert any("signal 'answer' received" in text for text in texts(rest))


async def test_one_that_is_parked_and_was_told_to_resume_is_not_at_rest(durable_url):
    saga = Stays()
    worker = Standfast(durable_url, migrate=True).add(saga)
    async with worker.running(drain=2):
        handle = await worker.start(Stays, Order("7"))
        with pytest.raises(SagaParked):
            await handle.result("10s")
    client = Standfast(durable_url).add(saga)
    async with client:
        handle = client.handle(handle.id)
        assert [one.at_rest for one in await followed(client, handle)] == [True]
        await handle.signal("resume")
        (only,) = await followed(client, handle, timeout=0)
        assert (only.status, only.at_rest) == ("compensation_failed", False)


async def test_what_goes_wrong(app_url):
    app = Standfast(app_url, migrate=True).add(Trip())
    async with app:
        unknown = "0190b3a0-0000-7000-8000-000000000000"
        with pytest.raises(SagaNotFound, match="no saga has the id"):
            await anext(app.progress(unknown))
        for options in ({"after": -1}, {"after": "7"}, {"timeout": "soon"}):
            with pytest.raises(ConfigurationError):
                app.progress(unknown, **options)
        with pytest.raises(ConfigurationError, match="isn't the id of a saga"):
            app.progress("order-7")
    with pytest.raises(ConfigurationError, match="isn't open"):
        await anext(app.progress(unknown))


async def test_as_json(work):
    saga = Trip()
    app = await work(saga)
    saga.go_on.set()
    handle = await app.start(Trip, Order("7"))
    await handle.result("10s")
    (change,) = await followed(app, handle, after=2)
    told = change.as_json()
    assert {**told, "entries": [entry["value"] for entry in told["entries"]]} == {
        "id": str(handle.id),
        "number": 3,
        "status": "completed",
        "entries": ["room 7"],
        "cause": "",
        "at_rest": True,
    }
