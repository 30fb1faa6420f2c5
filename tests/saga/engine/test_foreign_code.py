"""The user's code is foreign code: whatever it raises is a failed attempt, and nothing worse."""

import asyncio
import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from standfast import (
    Constant,
    Context,
    Refused,
    Retry,
    Saga,
    SagaCompensated,
    SagaParked,
    Standfast,
    Transaction,
    child,
    step,
    wait,
)
from standfast.errors import ConfigurationError
from standfast.resilience import Timeout, do_not_retry
from standfast.resilience.deadline import remaining
from standfast.saga import Migration
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.move import fold
from standfast.testing import run_saga
from tests.saga.engine.world import SOON, until

WITHIN = 10
"""Seconds: what hangs has failed."""


class Panic(BaseException):
    """As native extensions raise it."""


def raising(error: Callable[[], BaseException]) -> Callable[[], Any]:
    async def fail() -> None:
        raise error()

    return fail


async def cancel_oneself_and_wait() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(60)


async def cancel_oneself_by_a_helper() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    await asyncio.sleep(60)


WAYS = {
    "panic": (raising(lambda: Panic("rust")), "Panic: rust"),
    "group": (raising(lambda: BaseExceptionGroup("g", [Panic("p")])), "Panic: p"),
    "cancelled": (raising(asyncio.CancelledError), "CancelledError (it was cancelled from within"),
    "generator exit": (raising(GeneratorExit), "GeneratorExit"),
    "system exit": (raising(lambda: SystemExit("bad args")), "SystemExit: bad args"),
    "interrupt": (raising(KeyboardInterrupt), "KeyboardInterrupt"),
    "cancels itself": (cancel_oneself_and_wait, "CancelledError (it was cancelled from within"),
    "is cancelled by its helper": (
        cancel_oneself_by_a_helper,
        "CancelledError (it was cancelled from within",
    ),
}


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> tuple[Callable[[], Any], str]:
    found: tuple[Callable[[], Any], str] = WAYS[request.param]
    return found


async def facts_of(handle: Any, kind: type) -> list[Any]:
    return [fact for fact in (await handle.story()).facts if isinstance(fact, kind)]


class Once:
    """Fails in its way at the first call of each name."""

    def __init__(self, fail: Callable[[], Any]) -> None:
        self.fail = fail
        self.seen: list[str] = []

    async def call(self, name: str) -> None:
        self.seen.append(name)
        if self.seen.count(name) == 1:
            await self.fail()


class All(Saga[str]):
    """A step, one beside it, a transactional one, and undos of both kinds."""

    def __init__(self, once: Once) -> None:
        self.once = once

    @step(retry=SOON)
    async def alone(self, key: str, ctx: Context) -> None:
        await self.once.call("alone")

    @alone.compensation(retry=SOON)
    async def undo_alone(self, key: str, ctx: Context) -> None:
        await self.once.call("undo alone")

    @step(retry=SOON, after=alone, no_compensation="a test")
    async def left(self, key: str, ctx: Context) -> None:
        await self.once.call("left")

    @step(retry=SOON, after=alone, no_compensation="a test")
    async def right(self, key: str, ctx: Context) -> str:
        return key

    @step(retry=SOON, after=(left, right), transactional=True)
    async def bound(self, key: str, ctx: Context, tx: Transaction) -> None:
        await tx.start(Other, key, key=f"bound {ctx.attempt}")
        await self.once.call("bound")

    @bound.compensation(retry=SOON, transactional=True)
    async def undo_bound(self, key: str, ctx: Context, tx: Transaction) -> None:
        await self.once.call("undo bound")

    @step(retry=SOON, no_compensation="a test")
    async def end(self, key: str, ctx: Context) -> None:
        raise Refused("that will do")


class Other(Saga[str]):
    @step(no_compensation="a test")
    async def only(self, key: str, ctx: Context) -> None: ...


async def test_whatever_is_raised_is_a_failed_attempt_that_is_tried_again(work, way):
    fail, told = way
    once = Once(fail)
    app = await work(All(once), Other())
    handle = await app.start(All, "1")
    with pytest.raises(SagaCompensated, match="that will do"):
        await handle.result(timeout=WITHIN)
    assert sorted(once.seen) == sorted(2 * ["alone", "left", "bound", "undo alone", "undo bound"])
    failed = await facts_of(handle, fx.AttemptFailed)
    assert [fact.branch for fact in failed] == ["alone", "left", "bound"]
    undos = await facts_of(handle, fx.CompensationAttemptFailed)
    assert [fact.branch for fact in undos] == ["bound", "alone"]
    for fact in [*failed, *undos]:
        assert fact.error.startswith(told), fact.error
    with contextlib.suppress(Exception):
        await app.saga(Other, "bound 1")
        pytest.fail("what a failed transactional attempt wrote was kept")
    assert await app.saga(Other, "bound 2")


async def test_the_worker_goes_on_after_them(work, way):
    app = await work(All(Once(way[0])), Other())
    with pytest.raises(SagaCompensated):
        await (await app.start(All, "1")).result(timeout=WITHIN)
    await (await app.start(Other, "2")).result(timeout=WITHIN)
    await until(lambda: not app.sagas.executor.active)  # whoever waits is told a little earlier


class Asks(Saga[str]):
    """Each of the definition's own functions raises, as the input says."""

    def fail(self, key: str, here: str) -> bool:
        if key.startswith(here):
            raise {"p": Panic, "c": asyncio.CancelledError, "s": SystemExit}[key[-1]]("asked")
        return True

    @step(when=lambda self, key, ctx: self.fail(key, "when"), no_compensation="a test")
    async def under_condition(self, key: str, ctx: Context) -> None: ...

    @step(each=lambda self, key, ctx: [self.fail(key, "each")], no_compensation="a test")
    async def of_many(self, key: str, ctx: Context, item: bool) -> None: ...

    other = child(Other, lambda self, key, ctx: str(self.fail(key, "input")))


@pytest.mark.parametrize("kind", ["p", "c", "s"])
@pytest.mark.parametrize("where", ["when", "each", "input"])
async def test_so_are_conditions_items_and_inputs_of_children(work, where, kind):
    app = await work(Asks(), Other())
    handle = await app.start(Asks, f"{where} {kind}")
    with pytest.raises(SagaCompensated, match="asked"):
        await handle.result(timeout=WITHIN)
    assert len(await facts_of(handle, fx.StepFailed)) == 1


class Sneaky(Saga[str]):
    """Asks for its own cancellation, and returns as if nothing were."""

    @step(no_compensation="a test")
    async def first(self, key: str, ctx: Context) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "done"

    @step(no_compensation="a test", transactional=True)
    async def second(self, key: str, ctx: Context, tx: Transaction) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.cancel()
        return "done too"


async def test_a_step_that_cancels_itself_and_returns_has_returned(work):
    app = await work(Sneaky())
    result = await (await app.start(Sneaky, "1")).result(timeout=WITHIN)
    assert result.as_dict() == {"first": "done", "second": "done too"}


class Stubborn(Saga[str]):
    """Swallows its cancellation, and answers as it likes."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.calls: list[str] = []

    @step(no_compensation="a test", retry=SOON)
    async def hold(self, key: str, ctx: Context) -> str:
        self.calls.append(key)
        if len(self.calls) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                answer = self.answers[key]
                if isinstance(answer, BaseException):
                    raise answer from None
        return key

    @step(no_compensation="a test")
    async def after(self, key: str, ctx: Context) -> None:
        self.calls.append("after")


@pytest.mark.parametrize(
    "answer", ["late", ValueError("no"), Panic(), Refused("no"), SystemExit(1)]
)
async def test_what_a_cancelled_attempt_answers_counts_for_nothing(durable_url, answer):
    saga = Stubborn({"1": answer})
    async with asyncio.timeout(WITHIN):
        app = Standfast(durable_url, migrate=True).add(saga)
        async with app.running(drain=0.1):
            handle = await app.start(Stubborn, "1", key="1")
            while not saga.calls:
                await asyncio.sleep(0.01)
        assert saga.calls == ["1"]
        async with app.running(drain=1):
            result = await (await app.saga(Stubborn, "1")).result(timeout=5)
            assert result["hold"] == "1"
    assert saga.calls == ["1", "1", "after"]
    assert handle.id


def test_the_end_of_the_loop_ends_the_worker_and_is_no_failure(tmp_path):
    """As at the end of `asyncio.run`, which cancels all tasks that there are, and awaits them."""
    saga = Stubborn({"1": "late"})

    def app() -> Standfast:
        return Standfast(f"sqlite:///{tmp_path}/app.db", migrate=True).add(saga)

    left: list[Any] = []

    async def begin() -> None:
        began = app()
        left.append(began.running())
        await left[0].__aenter__()
        await began.start(Stubborn, "1", key="1")
        while not saga.calls:
            await asyncio.sleep(0.01)

    async def story() -> Any:
        async with app() as again:
            return await (await again.saga(Stubborn, "1")).story()

    thread = threading.Thread(target=lambda: asyncio.run(begin()), daemon=True)
    thread.start()
    thread.join(WITHIN)
    assert not thread.is_alive(), "the loop never ended"
    facts = asyncio.run(story()).facts
    assert not [fact for fact in facts if isinstance(fact, (fx.AttemptFailed, fx.StepFailed))]


def test_a_real_interrupt_without_a_handler_of_asyncios_ends_the_loop(tmp_path):
    """Where the user runs the loop with Python's own handler of Ctrl-C."""

    class Interrupted(Saga[str]):
        @step(no_compensation="a test", retry=Retry(attempts=1))
        async def press(self, key: str, ctx: Context) -> None:
            signal.raise_signal(signal.SIGINT)

    async def main() -> None:
        app = Standfast(f"sqlite:///{tmp_path}/app.db", migrate=True).add(Interrupted())
        async with app.running(drain=0.1):
            await (await app.start(Interrupted, "1")).result(timeout=WITHIN)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
    finally:
        signal.signal(signal.SIGINT, before)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.2))
        loop.close()
        gc.collect()  # what is told of tasks that nobody awaited is told here, and in no other test


class Tried(Saga[str]):
    def __init__(self, fail: Callable[[], Any]) -> None:
        self.fail = fail

    @step(retry=SOON)
    async def first(self, key: str, ctx: Context) -> str:
        if ctx.attempt == 1:
            await self.fail()
        return key

    @first.compensation(retry=SOON)
    async def undo_first(self, key: str, ctx: Context) -> None:
        if ctx.attempt == 1:
            await self.fail()

    @step(no_compensation="a test", transactional=True, retry=SOON)
    async def second(self, key: str, ctx: Context, tx: Transaction) -> None:
        if ctx.attempt == 1:
            await self.fail()
        raise Refused("that will do")


@pytest.mark.parametrize("name", [name for name in WAYS if name != "interrupt"])
def test_the_test_kit_takes_them_as_the_engine_does(name):
    """But for Ctrl-C: in a loop that leaves it to Python it is taken for a real one."""
    run = run_saga(Tried(WAYS[name][0]), "1")
    assert (run.status, run.cause) == ("compensated", "second refused: that will do")
    calls = [(call.operation, call.branch) for call in run.calls]
    assert calls == [
        *(2 * [("action", "first")]),
        *(2 * [("action", "second")]),
        *(2 * [("compensation", "first")]),
    ]


def test_the_test_kit_can_be_told_to_raise_them():
    run = run_saga(Tried(raising(lambda: OSError())), "1", raises={"first": SystemExit(3)})
    assert run.trace[:2] == ["first failed", "first"]


@pytest.mark.parametrize("error", [Refused, lambda text: do_not_retry(OSError(text))])
def test_a_very_long_error_is_stored_in_part(error):
    run = run_saga(Tried(raising(lambda: error("x" * 100_000))), "1")
    assert "x" * 1000 in run.cause
    assert len(run.cause) < 5000


# -- a context of their own ------------------------------------------------------------------------

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody's")


def seen(ctx: Context) -> str:
    before = TENANT.get()
    TENANT.set(f"of {ctx.step} {ctx.operation}")
    left = remaining()
    return f"{before}{'' if left is None else ', in a hurry'}"


class Curious(Saga[str]):
    """Each attempt looks at its context, and leaves something there."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def look(self, ctx: Context) -> bool:
        self.found.append(seen(ctx))
        return True

    @step(retry=SOON)
    async def first(self, key: str, ctx: Context) -> None:
        self.look(ctx)
        await asyncio.sleep(0)
        if ctx.attempt == 1:
            raise OSError("again")

    @first.compensation(transactional=True)
    async def undo_first(self, key: str, ctx: Context, tx: Transaction) -> None:
        self.look(ctx)

    @step(after=first, when=lambda self, key, ctx: self.look(ctx), no_compensation="a test")
    async def second(self, key: str, ctx: Context) -> None:
        self.look(ctx)

    @step(after=first, each=lambda self, key, ctx: [self.look(ctx)], no_compensation="a test")
    async def many(self, key: str, ctx: Context, item: bool) -> None:
        self.look(ctx)

    @step(after=(second, many), transactional=True, no_compensation="a test")
    async def bound(self, key: str, ctx: Context, tx: Transaction) -> None:
        self.look(ctx)

    inner = child(Other, lambda self, key, ctx: str(self.look(ctx)))

    @step(no_compensation="a test")
    async def end(self, key: str, ctx: Context) -> None:
        self.look(ctx)
        raise Refused("that will do")


@pytest.mark.parametrize("within", ["app", "transaction"])
async def test_each_attempt_has_a_context_of_its_own(work, within):
    saga = Curious()
    app = await work(saga, Other())

    async def request() -> Any:
        TENANT.set("the caller's")
        if within == "app":
            return await app.start(Curious, "1")
        async with app.transaction() as tx:
            return await tx.start(Curious, "1")

    handle = await Timeout("500ms").call(request)
    with pytest.raises(SagaCompensated, match="that will do"):
        await handle.result(timeout=WITHIN)
    assert len(saga.found) == 10
    assert set(saga.found) == {"nobody's"}


async def test_what_was_set_where_the_app_runs_is_seen(app_url):
    saga = Curious()
    TENANT.set("the process's")
    app = Standfast(app_url, migrate=True).add(saga, Other())

    async def work() -> None:
        async with app.running(drain=1):
            handle = await app.start(Curious, "1")
            with pytest.raises(SagaCompensated):
                await handle.result(timeout=WITHIN)

    await Timeout("30s").call(work)
    assert set(saga.found) == {"the process's"}, "and no deadline"


async def test_a_transactional_step_still_knows_that_it_is_inside(work):
    class Inside(Saga[str]):
        @step(no_compensation="a test", transactional=True, retry=Retry(attempts=1))
        async def start(self, key: str, ctx: Context, tx: Transaction) -> None:
            await app.start(Other, key)

    app = await work(Inside(), Other())
    with pytest.raises(SagaCompensated, match=r"use tx\.start"):
        await (await app.start(Inside, "1")).result(timeout=WITHIN)


# -- groups, and what foreign errors are asked -----------------------------------------------------


class Grouped(Saga[str]):
    def __init__(self, *inside: BaseException) -> None:
        self.inside = inside
        self.log: list[str] = []

    @step(retry=Retry(attempts=3, backoff=Constant(0.01)))
    async def pay(self, key: str, ctx: Context) -> None:
        self.log.append("pay")

        async def fail(error: BaseException) -> None:
            raise error

        async with asyncio.TaskGroup() as group:
            async with asyncio.TaskGroup() as inner:
                for error in self.inside:
                    inner.create_task(fail(error))
            group.create_task(asyncio.sleep(0))

    @pay.compensation
    async def refund(self, key: str, ctx: Context) -> None:
        self.log.append("refund")


class Dawdles(Saga[str]):
    @step(no_compensation="a test", timeout=0.05, retry=Retry(attempts=1))
    async def look(self, key: str, ctx: Context) -> None:
        async def fail() -> None:
            await asyncio.sleep(0)
            raise OSError

        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
        await asyncio.sleep(WITHIN)


async def test_a_step_in_which_a_group_failed_before_times_out_as_any_other(work: Any) -> None:
    app = await work(Dawdles())
    with pytest.raises(SagaCompensated, match="timed out: the outcome is unknown"):
        await (await app.start(Dawdles, "1")).result(timeout=WITHIN)


class Busy(ConnectionError):
    def __init__(self, wait: float) -> None:
        super().__init__("busy")
        self.retry_after = wait


@pytest.mark.parametrize(
    ("inside", "log", "cause"),
    [
        ([Refused("no funds")], ["pay"], "pay refused: no funds"),
        ([Refused("no funds"), Refused("closed")], ["pay"], "pay refused: no funds; closed"),
        (
            [Refused("no funds"), OSError("down")],
            ["pay", "refund"],
            "pay failed: ExceptionGroup: Refused: no funds; OSError: down",
        ),
        (
            [do_not_retry(ValueError("bad card"))],
            ["pay", "refund"],
            "pay failed: ValueError: bad card",
        ),
        ([OSError("down")], [*3 * ["pay"], "refund"], "pay failed: OSError: down"),
        (
            [OSError("down"), Busy(99)],
            ["pay", "refund"],
            (
                "pay failed: ExceptionGroup: OSError: down; Busy: busy "
                "(asked to wait 1m39s, max_retry_after=1m)"
            ),
        ),
    ],
)
async def test_a_group_is_judged_and_told_by_what_is_in_it(work, inside, log, cause):
    saga = Grouped(*inside)
    app = await work(saga)
    with pytest.raises(SagaCompensated) as caught:
        await (await app.start(Grouped, "1")).result(timeout=WITHIN)
    assert (saga.log, caught.value.cause) == (log, cause)


async def test_the_wait_that_one_in_a_group_asks_for_is_kept(work):
    app = await work(Grouped(OSError("down"), Busy(30)))
    handle = await app.start(Grouped, "1")
    async with asyncio.timeout(WITHIN):
        while not (failed := await facts_of(handle, fx.AttemptFailed)):
            await asyncio.sleep(0.01)
    assert failed[0].delay == 30


class Odd(Exception):
    """Whatever it is asked, it raises."""

    @property
    def response(self) -> Any:
        raise ValueError("stream closed")

    @property
    def retry_after(self) -> Any:
        raise Panic("retry_after")

    def __str__(self) -> str:
        raise Panic("str")

    def __repr__(self) -> str:
        raise Panic("repr")

    def __eq__(self, other: object) -> bool:
        raise Panic("eq")

    __hash__ = None  # type: ignore[assignment]


class Nameless(type):
    __name__ = property(lambda _: 1 / 0)  # type: ignore[assignment]


class Unnamed(Exception, metaclass=Nameless):
    pass


def nested(error: Exception) -> Exception:
    for _ in range(3000):
        error = ExceptionGroup("nested", [error])
    return error


@pytest.mark.parametrize(
    ("error", "calls", "cause"),
    [
        (nested(Refused("no funds")), 1, "pay refused: no funds"),
        (nested(OSError("down")), 2, "pay failed: OSError: down"),
        (Unnamed("gone"), 2, "pay failed: Unnamed: gone"),
    ],
    ids=["refused", "nested", "unnamed"],
)
async def test_an_error_that_is_hard_to_look_at_is_judged_and_told_as_any(
    work, error, calls, cause
):
    made: list[int] = []

    class Hard(Saga[str]):
        @step(retry=Retry(attempts=2, backoff=Constant(0.01)), no_compensation="a test")
        async def pay(self, key: str, ctx: Context) -> None:
            made.append(ctx.attempt)
            raise error

    app = await work(Hard())
    with pytest.raises(SagaCompensated) as caught:
        await (await app.start(Hard, "1")).result(timeout=WITHIN)
    assert caught.value.cause == cause
    assert len(made) == calls


class OddBackoff:
    def delay(self, attempt: int, previous: float, random: float) -> float:
        if attempt == 1:
            raise ValueError("which attempt?")
        return float("nan")


class Strange(Saga[str]):
    @step(retry=Retry(attempts=3, backoff=OddBackoff()))
    async def first(self, key: str, ctx: Context) -> None:
        raise Odd

    @first.compensation(retry=Retry(attempts=2, backoff=OddBackoff()))
    async def undo_first(self, key: str, ctx: Context) -> None:
        raise Odd

    @step(after=(), no_compensation="a test")
    async def beside(self, key: str, ctx: Context) -> str:
        return key


async def test_errors_and_backoffs_that_raise_when_asked_fail_the_attempt_in_no_other_way(work):
    app = await work(Strange())
    handle = await app.start(Strange, "1")
    with pytest.raises(SagaParked, match="undo of first: Odd"):
        await handle.result(timeout=WITHIN)
    assert [fact.attempt for fact in await facts_of(handle, fx.AttemptFailed)] == [1, 2]
    assert [fact.attempt for fact in await facts_of(handle, fx.CompensationFailed)] == [2]


# -- migrations, and spans -------------------------------------------------------------------------


class Older(Saga[str]):
    name = "moving"

    pause = wait("go")


class Newer(Saga[str]):
    name = "moving"
    version = 2
    migrations: ClassVar[dict[int, Migration]] = {
        1: Migration(input=lambda old: sys.exit(f"no way for {old}"))
    }

    pause = wait("go")


def test_an_input_function_that_exits_refuses_the_move():
    story = [fx.Started(at=0.0, input=msgspec.Raw(b'"x"'), version=1, key="k", correlation_id="k")]
    with pytest.raises(ConfigurationError, match="raised SystemExit: no way for x"):
        fold(Definition(Newer()), UUID(int=1), story, 1)


async def test_an_attempts_span_tells_what_it_raised_and_each_attempt_has_its_own(
    work, monkeypatch
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    seen: list[tuple[str, int, int]] = []

    class Traced(Saga[str]):
        @step(retry=SOON, no_compensation="a test")
        async def first(self, key: str, ctx: Context) -> None:
            span = trace.get_current_span()
            await asyncio.sleep(0)
            told = ctx.headers()["traceparent"].split("-")
            seen.append((told[2], int(told[1], 16), span.get_span_context().span_id))
            if ctx.attempt == 1:
                raise Panic("rust")
            if ctx.attempt == 2:
                raise Odd

    app = await work(Traced())
    with trace.get_tracer("a request").start_as_current_span("request") as request:
        handle = await app.start(Traced, "1")
        assert trace.get_current_span() is request
    await handle.result(timeout=WITHIN)
    attempts = [span for span in exporter.get_finished_spans() if span.name == "action first"]
    assert [
        (format(s.context.span_id, "016x"), s.context.trace_id, s.context.span_id) for s in attempts
    ] == seen
    assert {span.context.trace_id for span in attempts} == {request.get_span_context().trace_id}
    assert [span.status.description for span in attempts] == [
        "Panic: rust",
        "Odd: (its message can't be read: Panic)",
        None,
    ]
