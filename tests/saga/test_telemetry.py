"""Traces and metrics, as OpenTelemetry's SDK gets them: over restarts, and each instrument."""

import asyncio
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
from opentelemetry import metrics, propagate, trace
from opentelemetry.metrics import _internal as metrics_internal
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import StatusCode

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    SagaParked,
    Standfast,
    child,
    step,
    wait,
)
from standfast.errors import BulkheadFull, CorruptRecord
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.telemetry import FAILURES, UNDOS, SagaTelemetry
from tests.saga.engine.world import SOON, Order, Trip, World, until

ONCE = Retry(attempts=1)


@pytest.fixture
def told(monkeypatch):
    """All that has been measured: {(instrument, attributes' values): value}."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(metrics_internal, "_METER_PROVIDER", provider)
    assert metrics.get_meter_provider() is provider

    def read():
        found = {}
        data = reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    short = metric.name.removeprefix("standfast.saga.")
                    for point in metric.data.data_points:
                        value = getattr(point, "value", None)
                        if value is None:
                            value = (point.count, point.sum)
                        found[short, *dict(point.attributes).values()] = value
        return found

    yield read
    provider.shutdown()


class Blocks(Saga[str]):
    """A step and an undo that are `def`, and a step that isn't."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    @step(timeout=0.2, retry=ONCE)
    def act(self, word: str, ctx: Context) -> None:
        assert self.goes_on.wait(20)

    @act.compensation
    def undo(self, word: str, ctx: Context) -> None: ...

    @step(no_compensation="paper")
    async def other(self, word: str, ctx: Context) -> None: ...


async def test_threads_that_were_given_up_are_counted(told):
    saga = Blocks()
    app = Standfast("memory://").add(saga)
    async with app.running(threads=3):
        assert told()["threads.given_up", "blocks", "act"] == 0
        assert ("threads.given_up", "blocks", "other") not in told()
        with pytest.raises(SagaCompensated):
            await (await app.start(Blocks, "x")).result(20)
        found = told()
        assert found["threads.given_up", "blocks", "act"] == 1
        assert found["threads", "given_up"] == 1
        assert found["threads", "busy"] == found["threads", "waited_for"] == 0
        saga.goes_on.set()
        await until(lambda: told()["threads", "given_up"] == 0)


def test_threads_are_told_by_what_they_do(told):
    telemetry = SagaTelemetry()
    telemetry.connect()
    assert ("threads", "busy") not in told()
    telemetry.threads = SimpleNamespace(busy=1, hung=2, waiting=3, given_up=Counter())
    assert [told()["threads", state] for state in ("busy", "given_up", "waited_for")] == [1, 2, 3]


class Paused(Saga[Order]):
    """An attempt that fails, a pause in which the process changes, a refusal, an undo."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON)
    async def reserve(self, order: Order, ctx: Context) -> None:
        await self.world.act("reserve")
        self.world.keys["headers"] = [ctx.headers()]

    @reserve.compensation(retry=SOON)
    async def release(self, order: Order, ctx: Context) -> None:
        await self.world.act("release")

    word = wait("word")

    @step(no_compensation="it refuses")
    async def refuse(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_a_saga_is_one_trace_over_restarts(backend, request, tmp_path, world, spans):
    url = f"sqlite:///{tmp_path}/app.db"
    if backend == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    world.will("reserve", OSError("away"))
    world.will("release", OSError("away"))
    tracer = trace.get_tracer("test")
    first = Standfast(url, migrate=True).add(Paused(world))
    async with first.running(drain=2):
        with tracer.start_as_current_span("request") as request_span:
            handle = await first.start(Paused, Order("1"), key="k", correlation_id="c-7")
        await until(lambda: _is(handle, "waiting"))
    second = Standfast(url).add(Paused(world))
    async with second.running(drain=2):
        await second.handle(handle.id).signal("word")
        with pytest.raises(SagaCompensated):
            await second.handle(handle.id).result(timeout=10)
    found = spans()
    assert [span.name for span in found] == [
        "saga paused start",
        "request",
        "action reserve",
        "action reserve",
        "step reserve",
        "step word",
        "action refuse",
        "step refuse",
        "compensation reserve",
        "compensation reserve",
        "undo reserve",
        "saga paused compensated",
    ]
    assert {span.context.trace_id for span in found} == {request_span.get_span_context().trace_id}
    by_id = {span.context.span_id: span.name for span in found}
    parents = [by_id[span.parent.span_id] for span in found if span.name != "request"]
    assert parents == [
        "request",
        "step reserve",
        "step reserve",
        "saga paused compensated",
        "saga paused compensated",
        "step refuse",
        "saga paused compensated",
        "undo reserve",
        "undo reserve",
        "saga paused compensated",
        "saga paused start",
    ]
    attempts = [span for span in found if "standfast.attempt" in span.attributes]
    assert [s.attributes["standfast.attempt"] for s in attempts] == [1, 2, 1, 1, 2]
    assert [s.status.status_code for s in attempts] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert attempts[0].events[0].name == "exception"
    for span in attempts:
        assert span.attributes["standfast.saga"] == "paused"
        assert span.attributes["standfast.saga.id"] == str(handle.id)
        assert span.attributes["standfast.correlation_id"] == "c-7"
        assert span.attributes["standfast.operation"] in span.name
    last = found[-1]
    assert last.attributes["standfast.cause"] == "refuse refused: no"
    started = found[0].start_time
    assert abs(last.start_time - started) < 1e9, "it spans the whole saga"
    assert last.end_time >= attempts[-1].end_time
    # The participant gets the context of the very attempt.
    (headers,) = world.keys["headers"]
    remote = trace.get_current_span(propagate.extract(headers)).get_span_context()
    assert remote.span_id == attempts[1].context.span_id


async def _is(handle, status):
    return await handle.status() == status


async def test_a_childs_spans_are_in_its_parents_trace(world, spans):
    class Journey(Saga[Order]):
        trip = child(Trip, lambda self, order, ctx: order)

    app = Standfast("memory://").add(Journey(), Trip(world))
    async with app.running(drain=2):
        await (await app.start(Journey, Order("1"))).result(timeout=10)
    found = spans()
    names = {span.name for span in found}
    assert names >= {"action reserve", "saga trip completed", "saga journey completed"}
    assert len({span.context.trace_id for span in found}) == 1


async def test_without_an_sdk_nothing_is_kept(world):
    app = Standfast("memory://").add(Trip(world))
    async with app.running(drain=2):
        handle = await app.start(Trip, Order("1"))
        await handle.result(timeout=10)
        assert (await handle.story()).state.started.trace == {}


class Weak(Saga[Order]):
    """Fails in each way that is counted, as `order.id` says."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=Retry(attempts=2, backoff=Constant(0.01)), on_exhausted="park")
    async def may_park(self, order: Order, ctx: Context) -> None:
        if order.id == "park":
            await self.world.act("park")

    @may_park.compensation(retry=Retry(attempts=2, backoff=Constant(0.01)))
    async def undo(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo")

    @step(retry=ONCE, no_compensation="nothing to undo")
    async def end(self, order: Order, ctx: Context) -> None:
        if order.id == "refuse":
            raise Refused("no")
        if order.id == "exhaust":
            raise OSError("away")


async def test_every_instrument(told, world, tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    app = Standfast(url).add(Weak(world), Trip(world), Paused(world))
    async with app.running(drain=2):
        for id in ("good", "refuse", "exhaust"):
            handle = await app.start(Weak, Order(id))
            if id == "good":
                await handle.result(timeout=10)
            else:
                with pytest.raises(SagaCompensated):
                    await handle.result(timeout=10)
        world.will("undo", OSError("1"), OSError("2"))
        stuck = await app.start(Weak, Order("refuse"))
        with pytest.raises(SagaParked):
            await stuck.result(timeout=10)
        world.will("park", OSError("1"), OSError("2"))
        parked = await app.start(Weak, Order("park"))
        with pytest.raises(SagaParked):
            await parked.result(timeout=10)
        waiting = await app.start(Paused, Order("1"))
        await until(lambda: _is(waiting, "waiting"))
        # In memory only while it works: that one is stored, so something slow is started.
        go = asyncio.Event()
        world.will("reserve", go.wait)
        flying = await app.start(Trip, Order("1"))
        await until(lambda: "reserve" in world.calls[-1:])
        measured = told()
        go.set()
        await flying.result(timeout=10)
    assert measured["started", "weak"] == 5
    assert measured["started", "trip"] == 1
    assert measured["finished", "weak", "completed"] == 1
    assert measured["finished", "weak", "compensated"] == 2
    count, total = measured["duration", "weak", "completed"]
    assert count == 1
    assert 0 < total < 60
    assert measured["duration", "weak", "compensated"][0] == 2
    assert measured["step.failures", "weak", "may_park", "retried"] == 1
    assert measured["step.failures", "weak", "may_park", "parked"] == 1
    assert measured["step.failures", "weak", "end", "refused"] == 2
    assert measured["step.failures", "weak", "end", "exhausted"] == 1
    assert measured["compensations", "weak", "may_park", "completed"] == 2
    assert measured["compensations", "weak", "may_park", "retried"] == 1
    assert measured["compensations", "weak", "may_park", "failed"] == 1
    assert measured["parked", "weak", "may_park"] == 2
    assert measured["in_flight", "trip"] == 1
    assert measured["recovered",] == 0
    assert measured["set_aside",] == 0


async def test_an_undo_that_is_put_off_counts_as_rejected(told, world):
    app = Standfast("memory://").add(Weak(world))
    world.will("undo", BulkheadFull("busy", retry_after=0.01))
    async with app.running(drain=2):
        with pytest.raises(SagaCompensated):
            await (await app.start(Weak, Order("refuse"))).result(timeout=10)
        measured = told()
    assert measured["compensations", "weak", "may_park", "rejected"] == 1
    assert measured["compensations", "weak", "may_park", "retried"] == 0


async def test_recovery_and_what_is_set_aside(told, world, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/app.db"
    first = Standfast(url).add(Paused(world))
    async with first.running(drain=2, linger=0.01):
        handles = [await first.start(Paused, Order(str(n))) for n in range(3)]
        for handle in handles:
            await until(lambda handle=handle: _is(handle, "waiting"))
    second = Standfast(url).add(Paused(world))
    read = second.sagas.definitions.machine

    def unreadable(loaded):
        if loaded.instance.id == handles[0].id:
            raise CorruptRecord("journal row 1 can't be read")
        return read(loaded)

    monkeypatch.setattr(second.sagas.definitions, "machine", unreadable)
    async with second.running(drain=2):
        for handle in handles:
            await second.sagas.send(handle.id, ev.Signalled("word"))
        for handle in handles[1:]:
            with pytest.raises(SagaCompensated):
                await second.handle(handle.id).result(timeout=10)
        await until(lambda: _is(second.handle(handles[0].id), "parked"))
        assert second.sagas.telemetry.recovered == 2
        assert second.sagas.telemetry.set_aside == 1


async def test_starts_are_counted_where_they_are_made(world, tmp_path):
    """By a process without a worker, in a transaction, and as a child."""

    class Journey(Saga[Order]):
        trip = child(Trip, lambda self, order, ctx: order)

    url = f"sqlite:///{tmp_path}/app.db"
    async with Standfast(url).add(Journey(), Trip(world)) as client:
        handle = await client.start(Journey, Order("1"), key="k")
        await client.start(Journey, Order("1"), key="k")
        async with client.transaction() as tx:
            await tx.start(Trip, Order("2"))
        assert client.sagas.telemetry.started == Counter(journey=1, trip=1)
        worker = Standfast(url).add(Journey(), Trip(world))
        async with worker.running(drain=2):
            await handle.result(timeout=10)
            assert worker.sagas.telemetry.started == Counter(trip=1)


def test_each_fact_counts_as_what_followed():
    told = SagaTelemetry()
    failed = {"at": 1.0, "error": "away", "attempt": 2}
    again = failed | {"retry_at": 2.0, "since": 1.0}
    for branch in ("pay", "pack[3]"):
        told.stored("sell", fx.AttemptFailed(branch=branch, **again))
        told.stored("sell", fx.AttemptFailed(branch=branch, rejected=True, **again))
        told.stored("sell", fx.StepFailed(branch=branch, **failed))
        told.stored("sell", fx.StepFailed(branch=branch, refused=True, **failed))
        told.stored("sell", fx.StepParked(branch=branch, **failed))
        told.stored("sell", fx.CompensationAttemptFailed(branch=branch, **again))
        told.stored("sell", fx.CompensationAttemptFailed(branch=branch, rejected=True, **again))
        told.stored("sell", fx.CompensationFailed(branch=branch, **failed))
        told.stored("sell", fx.CompensationCompleted(at=1.0, branch=branch))
        told.stored("sell", fx.StepCompleted(at=1.0, branch=branch))
    steps = ("pay", "pack")
    assert told.failures == {("sell", step, how): 1 for step in steps for how in FAILURES}
    assert told.compensations == {("sell", step, how): 1 for step in steps for how in UNDOS}
    assert told.parked == {("sell", step): 2 for step in steps}
    assert (told.recovered, told.set_aside, told.started, told.finished) == (0, 0, {}, {})
