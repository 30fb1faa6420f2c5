"""What a `def` step still does after its attempt was given up: it begins nothing new."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from standfast import Constant, Context, Retry, Saga, SagaCompensated, step, wait
from standfast.errors import BulkheadFull, SagaNotFound, TimedOut
from standfast.resilience import Bulkhead, Timeout, remaining
from standfast.saga.threads import Threads
from tests.saga.engine.world import until
from tests.saga.test_threads import PATIENCE, Attempt, made

LONG = 3600.0
"""Seconds that no test waits."""


class Given:
    """A function in a thread, that is given up when the test says."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.threads: Threads = made()
        self.entered = threading.Event()
        self.raised: list[BaseException] = []
        self._function = function

    def _run(self, saga: None, input: None, ctx: Context) -> None:
        self.entered.set()
        try:
            self._function()
        except Exception as error:
            self.raised.append(error)
            raise

    async def given_up_when(self, reached: Callable[[], bool]) -> None:
        awaited = self.threads.share("trip", None).awaited(self._run, transactional=False)
        task = asyncio.ensure_future(awaited(None, None, Attempt()))
        await until(reached)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: self.threads.hung == 0)


async def test_a_retry_neither_calls_again_nor_waits_for_that():
    calls: list[int] = []
    retry = Retry(attempts=9, backoff=Constant(LONG))

    @retry
    def act() -> None:
        calls.append(1)
        raise OSError("away")

    given = Given(act)
    await given.given_up_when(lambda: bool(calls))
    assert len(calls) == 1
    assert [type(error) for error in given.raised] in ([TimedOut], [OSError])
    assert retry.counts.retries == 0


async def test_a_bulkhead_lets_it_in_no_more():
    bulkhead = Bulkhead(1, max_wait=LONG)
    calls: list[int] = []
    given = Given(bulkhead(lambda: calls.append(1)))
    with bulkhead:
        await given.given_up_when(lambda: bulkhead.queued == 1)
    assert not calls
    assert [type(error) for error in given.raised] == [BulkheadFull]
    assert bulkhead.active == bulkhead.queued == 0


@pytest.mark.parametrize("inner", [Timeout(LONG), Retry(attempts=2, backoff=Constant(LONG))])
async def test_a_timeout_in_it_calls_nothing_more(inner):
    gate, entered, calls = threading.Event(), threading.Event(), []

    def act() -> None:
        entered.set()
        assert gate.wait(PATIENCE)
        left.append(remaining())
        Timeout(LONG).call(lambda: calls.append(1))

    left: list[float | None] = []
    given = Given(inner(act))
    task = asyncio.ensure_future(given.given_up_when(entered.is_set))
    await until(lambda: given.threads.hung == 1)
    gate.set()
    await task
    # The thread that a `Timeout` made ends by itself.
    await until(lambda: bool(left))
    assert left == [0.0]
    assert not calls


class Bounded(Saga[str]):
    """Its step looks how long it has."""

    @step(timeout=LONG, no_compensation="paper")
    def bounded(self, word: str, ctx: Context) -> bool:
        return 0 < (remaining() or 0) <= LONG

    @step(no_compensation="paper")
    def unbounded(self, word: str, ctx: Context) -> bool:
        return remaining() is None


async def test_its_timeout_is_the_deadline_of_all_in_it(work):
    app = await work(Bounded())
    result = await (await app.start(Bounded, "a")).result(PATIENCE)
    assert result.as_dict() == {"bounded": True, "unbounded": True}


class Waiting(Saga[str]):
    word = wait("word", type=str)


class Asking(Saga[str]):
    """Its step waits for another saga's end, and begins others."""

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self.over = threading.Event()

    @step(timeout=0.2, retry=Retry(attempts=1))
    def ask(self, word: str, ctx: Context) -> None:
        client = self.client
        handle = client.start(Waiting, "x", key="before")
        for act in (handle.result, lambda: client.start(Waiting, "x", key="after")):
            try:
                act()
            except TimedOut as error:
                self.raised.append(error)
        self.over.set()

    @ask.compensation
    def undo(self, word: str, ctx: Context) -> None: ...


async def test_sync_calls_of_the_app_end_with_it(work):
    asking = Asking()
    app = await work(asking, Waiting())
    asking.client = app.blocking
    with pytest.raises(SagaCompensated):
        await (await app.start(Asking, "a")).result(PATIENCE)
    await until(asking.over.is_set)
    assert len(asking.raised) == 2
    assert await (await app.saga(Waiting, "before")).status() == "waiting"
    with pytest.raises(SagaNotFound):
        await app.saga(Waiting, "after")
