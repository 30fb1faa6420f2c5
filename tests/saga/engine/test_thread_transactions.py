"""The transaction of a `def` step: who may still use it, and what becomes of the others."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

from standfast import Context, Refused, Retry, Saga, SagaCompensated, step
from standfast.doors.blocking import BlockingTransaction
from standfast.errors import StoreError, TimedOut
from standfast.resilience import Timeout
from standfast.resilience.deadline import DEADLINE, NEVER, ThreadDeadline, current
from standfast.saga import thread_call
from tests.saga.engine.world import until
from tests.saga.test_threads import PATIENCE, Attempt, made


async def statement() -> str:
    return "done"


def transactional(function: Callable[[Any], Any]) -> Any:
    """`function`, of what carries out statements, as a step that is awaited."""
    awaited = (
        made()
        .share("trip", None)
        .awaited(lambda saga, word, ctx, complete: function(complete), transactional=True)
    )
    return awaited(None, None, Attempt(), None)


async def test_a_call_in_it_that_was_given_up_writes_nothing_beside_its_successor():
    gate, over = threading.Event(), threading.Event()
    refused: list[StoreError] = []

    def act(complete: Any) -> str:
        def late() -> None:
            assert gate.wait(PATIENCE)
            try:
                complete(statement())
            except StoreError as error:
                refused.append(error)
            over.set()

        with pytest.raises(TimedOut):
            Timeout(0.01).call(late)
        gate.set()
        assert over.wait(PATIENCE)
        return complete(statement())

    assert await transactional(act) == "done"
    assert [str(error) for error in refused] == [thread_call.ABANDONED]


@pytest.mark.parametrize("asks_again", [True, False])
async def test_an_attempt_fails_if_a_call_that_wrote_was_given_up(asks_again):
    def act(complete: Any) -> str:
        deadline = ThreadDeadline(NEVER, current())
        context = copy_context()
        context.run(DEADLINE.set, deadline)
        assert context.run(complete, statement()) == "done"
        deadline.expire()
        return complete(statement()) if asks_again else "never mind"

    with pytest.raises(StoreError, match="can tell what it still wrote: the attempt fails"):
        await transactional(act)


async def test_one_that_ended_in_time_leaves_no_trace():
    def act(complete: Any) -> str:
        Timeout(PATIENCE).call(lambda: complete(statement()))
        return complete(statement())

    assert await transactional(act) == "done"


class Booking(Saga[str]):
    """Its transactional step tells what is to follow."""

    def __init__(self) -> None:
        self.called: list[str] = []

    @step(transactional=True, no_compensation="paper", retry=Retry(attempts=1))
    def book(self, word: str, ctx: Context, tx: BlockingTransaction) -> str:
        with pytest.raises(OSError), tx.savepoint():
            tx.on_commit(lambda: self.called.append("undone"))
            raise OSError
        tx.on_commit(lambda: self.called.append(threading.current_thread().name))
        tx.on_commit(lambda: tx.on_commit(lambda: self.called.append("last")))
        if word == "fails":
            raise Refused("no")
        return threading.current_thread().name


async def test_what_follows_the_commit_of_a_step_is_called_in_a_thread(work):
    booking = Booking()
    app = await work(booking)
    await (await app.start(Booking, "a")).result(PATIENCE)
    await until(lambda: "last" in booking.called)
    thread, *others = booking.called
    assert thread.startswith("standfast-step-")
    assert others == ["last"]


async def test_nothing_follows_a_step_that_is_rolled_back(work):
    booking = Booking()
    app = await work(booking)
    with pytest.raises(SagaCompensated):
        await (await app.start(Booking, "fails")).result(PATIENCE)
    assert not booking.called


def test_no_statement_waits_for_a_loop_that_is_closed(monkeypatch):
    """Neither one that it was told of, nor one that comes later, nor the next."""
    monkeypatch.setattr(thread_call, "LOOKS_EVERY", 0.01)
    entered, stopped, closed, over = (threading.Event() for _ in range(4))
    refused: list[StoreError] = []

    def act(complete: Any) -> None:
        entered.set()
        assert stopped.wait(PATIENCE)
        for wait in (lambda: True, lambda: closed.wait(PATIENCE), lambda: True):
            assert wait()
            try:
                complete(statement())
            except StoreError as error:
                refused.append(error)
        over.set()

    async def begin() -> None:
        tasks.append(asyncio.ensure_future(transactional(act)))
        await until(entered.is_set)

    tasks: list[asyncio.Future[Any]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    stopped.set()
    loop.close()  # by somebody who doesn't end what is in it
    closed.set()
    assert over.wait(PATIENCE)
    assert [str(error) for error in refused] == [thread_call.GIVEN_UP] * 3
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]
