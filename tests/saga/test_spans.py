"""The tree of a saga's spans, as OpenTelemetry's SDK exports it."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode

from standfast import (
    Constant,
    Context,
    Migration,
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
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.operations import Operations
from standfast.saga.prepared import prepare
from standfast.saga.spans import begin_trace
from tests.saga.engine.world import SOON, Order, World, until

LATER = Retry(attempts=3, backoff=Constant(0.4))


def tree(spans) -> list[str]:
    """Each span with what it says, below its parent, in order of their beginnings."""
    assert len({span.context.trace_id for span in spans}) == 1, "one trace"
    assert len({span.context.span_id for span in spans}) == len(spans), "no id twice"
    lines = []

    def add(parent, depth):
        children = [s for s in spans if (s.parent.span_id if s.parent else None) == parent]
        for span in sorted(children, key=lambda s: s.start_time):
            told = [span.attributes.get(f"standfast.{name}") for name in ("attempts", "outcome")]
            if told[1] and span.name.startswith(("step", "item", "undo")):
                name = " ".join([span.name, *(str(one) for one in told if one is not None)])
            else:
                name = span.name
            lines.append("  " * depth + name)
            add(span.context.span_id, depth + 1)

    add(None, 0)
    assert len(lines) == len(spans), "each has its parent among them"
    return lines


def named(spans, name):
    return [span for span in spans if span.name == name]


class Voyage(Saga[Order]):
    """Two branches side by side, one with items; an end that refuses."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=LATER)
    async def begin(self, order: Order, ctx: Context) -> None:
        await self.world.act("begin")

    @begin.compensation(retry=LATER)
    async def undo_begin(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo begin")

    @step(after="begin", retry=SOON)
    async def left(self, order: Order, ctx: Context) -> None:
        await self.world.act("left")

    @left.compensation(retry=SOON)
    async def undo_left(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo left")

    @step(after="begin", each=lambda self, order, ctx: order.items, no_compensation="packed")
    async def pack(self, order: Order, ctx: Context, item: str) -> None:
        await self.world.act(f"pack {item}")

    @step(after=["left", "pack"], no_compensation="it refuses")
    async def end(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
async def test_the_tree_of_a_saga_over_restarts(backend, request, tmp_path, world, spans):
    url = f"sqlite:///{tmp_path}/app.db"
    if backend == "postgres":
        url = request.getfixturevalue("postgres_dsn")
    world.will("begin", OSError("away"))
    world.will("undo begin", OSError("away"))
    first = Standfast(url, migrate=True).add(Voyage(world))
    async with first.running(drain=2):
        handle = await first.start(Voyage, Order("1", items=("a", "b")))
        await until(lambda: len(world.calls) == 1)
    # The first process ends while the first step waits for its second attempt …
    second = Standfast(url).add(Voyage(world))
    async with second.running(drain=2):
        await until(lambda: "undo begin" in world.calls)
    # … and the second one while the first compensation does.
    third = Standfast(url).add(Voyage(world))
    async with third.running(drain=2):
        with pytest.raises(SagaCompensated):
            await third.handle(handle.id).result(timeout=10)
    found = spans()
    assert tree(found) == [
        "saga voyage start",
        "  saga voyage compensated",
        "    step begin 2 completed",
        "      action begin",
        "      action begin",
        "    step left 1 completed",
        "      action left",
        "    step pack completed",
        "      item pack 1 completed",
        "        action pack",
        "      item pack 1 completed",
        "        action pack",
        "    step end 1 refused",
        "      action end",
        "    undo left 1 completed",
        "      compensation left",
        "    undo begin 2 completed",
        "      compensation begin",
        "      compensation begin",
    ]
    by_id = {span.context.span_id: span for span in found}
    for span in found:
        if span.name.startswith(("action", "compensation", "item", "step", "undo")):
            parent = by_id[span.parent.span_id]
            assert parent.start_time - 2000 <= span.start_time, (span.name, "begins within")
            assert span.end_time <= parent.end_time + 2000, (span.name, "ends within")
    (begin,) = named(found, "step begin")
    assert begin.end_time - begin.start_time > 0.35e9, "its pause is in it"
    (undo,) = named(found, "undo begin")
    (other,) = named(found, "undo left")
    assert undo.start_time >= other.end_time, "it begins when the one before it is done"
    assert begin.attributes == {
        "standfast.saga": "voyage",
        "standfast.saga.id": str(handle.id),
        "standfast.saga.version": 1,
        "standfast.branch": "begin",
        "standfast.outcome": "completed",
        "standfast.attempts": 2,
    }
    (end,) = named(found, "step end")
    assert end.status.status_code is StatusCode.ERROR
    assert end.status.description == "no"
    assert {s.attributes["standfast.branch"] for s in named(found, "item pack")} == {
        "pack[0]",
        "pack[1]",
    }


async def test_a_child_saga_is_below_its_step_and_so_is_its_undo(world, spans):
    class Leg(Saga[Order]):
        @step
        async def ride(self, order: Order, ctx: Context) -> None:
            await world.act("ride")

        @ride.compensation
        async def walk_back(self, order: Order, ctx: Context) -> None:
            await world.act("walk back")

    class Journey(Saga[Order]):
        leg = child(Leg, lambda self, order, ctx: order)

        @step(no_compensation="it refuses")
        async def end(self, order: Order, ctx: Context) -> None:
            raise Refused("no")

    app = Standfast("memory://").add(Journey(), Leg())
    async with app.running(drain=2):
        with pytest.raises(SagaCompensated):
            await (await app.start(Journey, Order("1"))).result(timeout=10)
    assert tree(spans()) == [
        "saga journey start",
        "  saga journey compensated",
        "    step leg completed",
        "      saga leg completed",
        "        step ride 1 completed",
        "          action ride",
        "      saga leg compensated",
        "        undo ride 1 completed",
        "          compensation ride",
        "    step end 1 refused",
        "      action end",
        "    undo leg completed",
    ]


class Open(Saga[Order]):
    """A step that fails while its neighbours wait and pause; a condition that doesn't hold."""

    def __init__(self, world: World) -> None:
        self.world = world

    word = wait("word")

    @step(after=(), retry=Retry(attempts=2, backoff=Constant(600)))
    async def paused(self, order: Order, ctx: Context) -> None:
        raise OSError("away")

    @paused.compensation
    async def undo_paused(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo paused")

    @step(after=(), when=lambda self, order, ctx: False, no_compensation="never runs")
    async def never(self, order: Order, ctx: Context) -> None: ...

    @step(after=(), each=lambda self, order, ctx: [], no_compensation="never runs")
    async def none(self, order: Order, ctx: Context, item: str) -> None: ...

    never_reached = wait("last", after=["word", "paused"])


async def test_what_is_left_open_ends_when_compensation_begins(world, spans):
    app = Standfast("memory://").add(Open(world))
    async with app.running(drain=2):
        handle = await app.start(Open, Order("1"))
        await until(lambda: _has_failed_once(handle))
        await handle.cancel("enough")
        with pytest.raises(SagaCompensated):
            await handle.result(timeout=10)
    found = spans()
    assert sorted(tree(found)) == sorted(
        [
            "saga open start",
            "  saga open compensated",
            "    step word abandoned",
            "    step paused abandoned",
            "      action paused",
            "    step never 0 skipped",
            "    step none completed",
            "    undo paused 1 completed",
            "      compensation paused",
        ]
    )
    (undo,) = named(found, "undo paused")
    for name in ("step word", "step paused"):
        (left,) = named(found, name)
        assert left.end_time == undo.start_time, "when compensation began"


async def _has_failed_once(handle):
    return any(isinstance(fact, fx.AttemptFailed) for fact in (await handle.story()).facts)


class Stuck(Saga[Order]):
    """Its step and its undo are parked once each."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=Retry(attempts=1), on_exhausted="park")
    async def go(self, order: Order, ctx: Context) -> None:
        await self.world.act("go")

    @go.compensation(retry=Retry(attempts=1))
    async def undo_go(self, order: Order, ctx: Context) -> None:
        await self.world.act("undo go")

    @step(no_compensation="it refuses")
    async def end(self, order: Order, ctx: Context) -> None:
        raise Refused("no")


async def test_parking_is_not_the_end_of_a_step(world, spans):
    world.will("go", OSError("1"))
    world.will("undo go", OSError("1"))
    app = Standfast("memory://").add(Stuck(world))
    async with app.running(drain=2):
        handle = await app.start(Stuck, Order("1"))
        for _ in range(2):
            with pytest.raises(SagaParked):
                await handle.result(timeout=10)
            await asyncio.sleep(0.05)
            await app.sagas.send(handle.id, ev.RetryAsked())
        with pytest.raises(SagaCompensated):
            await handle.result(timeout=10)
    found = spans()
    assert tree(found) == [
        "saga stuck start",
        "  saga stuck compensated",
        "    step go 2 completed",
        "      action go",
        "      action go",
        "    step end 1 refused",
        "      action end",
        "    undo go 2 completed",
        "      compensation go",
        "      compensation go",
    ]
    for name in ("step go", "undo go"):
        (whole,) = named(found, name)
        assert whole.end_time - whole.start_time > 0.05e9, "the time in which it was parked too"


async def test_what_an_operator_ends_by_hand(world, spans):
    world.will("go", OSError("1"))
    app = Standfast("memory://").add(Stuck(world))
    async with app.running(drain=2):
        handle = await app.start(Stuck, Order("1"))
        with pytest.raises(SagaParked):
            await handle.result(timeout=10)
        await app.sagas.send(handle.id, ev.ResolveAsked("completed", "seen to"))
        await handle.result(timeout=10)
    assert tree(spans()) == [
        "saga stuck start",
        "  saga stuck completed",
        "    step go abandoned",
        "      action go",
    ]


async def test_a_renamed_step_keeps_its_span(tmp_path, world, spans):
    class One(Saga[Order]):
        name = "moved"

        @step(retry=LATER, no_compensation="nothing")
        async def old(self, order: Order, ctx: Context) -> None:
            await world.act("old")

    class Two(Saga[Order]):
        name = "moved"
        version = 2
        migrations: ClassVar = {1: Migration(renamed={"old": "new"})}

        @step(retry=LATER, no_compensation="nothing")
        async def new(self, order: Order, ctx: Context) -> None:
            await world.act("new")

    url = f"sqlite:///{tmp_path}/app.db"
    world.will("old", OSError("away"))
    first = Standfast(url).add(One())
    async with first.running(drain=2):
        handle = await first.start(One, Order("1"))
        await until(lambda: world.calls)
    second = Standfast(url).add(Two())
    async with second.running(drain=2):
        operations = Operations(second.sagas)
        instance = await second.sagas.instance(handle.id)
        async for _ in operations.tell(operations.moved(2, [instance]), [handle.id]):
            pass
        await second.handle(handle.id).result(timeout=10)
    assert tree(spans()) == [
        "saga moved start",
        "  saga moved completed",
        "    step new 2 completed",
        "      action old",
        "      action new",
    ]
    (step_span,) = named(spans(), "step new")
    assert step_span.attributes["standfast.saga.version"] == 2


async def test_not_sampled_at_the_start_is_not_sampled_at_all(monkeypatch, world):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    app = Standfast("memory://").add(Stuck(world))
    async with app.running(drain=2):
        with pytest.raises(SagaCompensated):
            await (await app.start(Stuck, Order("1"))).result(timeout=10)
    assert exporter.get_finished_spans() == ()


async def test_started_without_a_trace_there_are_attempts_alone(world, spans, tmp_path):
    url = f"sqlite:///{tmp_path}/app.db"
    app = Standfast(url).add(Stuck(world))
    async with app.running(drain=2):
        definition = app.sagas.definitions.of(Stuck)
        start = prepare(definition, Order("1"), clock=app.clock).start
        await app.sagas.store.start([start], owner=None)
        with pytest.raises(SagaCompensated):
            await app.handle(start.instance.id).result(timeout=10)
    assert [span.name for span in spans()] == [
        "action go",
        "action end",
        "compensation go",
        "saga stuck compensated",
    ]


async def test_another_implementation_of_the_api_gets_what_it_can_do(monkeypatch, world):
    """Its tracer has no generator of ids: attempts hang under the start, and no id is made up."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    class Tracer(trace.Tracer):
        def __init__(self, inner):
            self.start_span = inner.start_span
            self.start_as_current_span = inner.start_as_current_span

        def start_span(self): ...

        def start_as_current_span(self): ...

    class Provider(trace.TracerProvider):
        def get_tracer(self, *args, **options):
            return Tracer(provider.get_tracer(*args, **options))

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Provider())
    app = Standfast("memory://").add(Stuck(world))
    async with app.running(drain=2):
        with pytest.raises(SagaCompensated):
            await (await app.start(Stuck, Order("1"))).result(timeout=10)
    found = exporter.get_finished_spans()
    assert [line.strip() for line in tree(found)] == [
        "saga stuck start",
        "saga stuck compensated",
        "action go",
        "action end",
        "compensation go",
    ]
    (start,) = named(found, "saga stuck start")
    assert all(s.parent.span_id == start.context.span_id for s in found if s is not start)


async def test_ids_that_are_chosen_here_are_nobody_elses(world, spans):
    """The SDK has one tracer for our scope: starts on other threads go on with ids by chance."""
    ended = threading.Event()

    def starts():
        while not ended.is_set():
            begin_trace("elsewhere", "k")

    app = Standfast("memory://").add(Stuck(world))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(starts)
        try:
            async with app.running(drain=2):
                for number in range(50):
                    with pytest.raises(SagaCompensated):
                        await (await app.start(Stuck, Order(str(number)))).result(timeout=10)
        finally:
            ended.set()
        future.result()
    found = spans()
    assert len(named(found, "saga elsewhere start")) > 50
    assert len({span.context.span_id for span in found}) == len(found)
