"""When an app is open for sync code, in which thread, and until when."""

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from standfast import ConfigurationError, SagaConflict, Standfast, StoreError
from standfast.blocking import BlockingTransaction
from standfast.pattern import Pattern
from standfast.resilience import remaining, within
from tests.blocking.sagas import Ask, Visit, app_on


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/blocking.db"


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "standfast" in thread.name}


def test_it_opens_at_the_first_use_and_closes_with_its_block(app: Standfast) -> None:
    before = threads()
    assert app.affinity is None
    app.blocking.handle("01890a5d-ac96-774b-bcce-b302099a8057")
    assert app.affinity is None
    with app.blocking:
        with app.blocking as client:
            client.start(Visit, "lamp")
        assert app.affinity is not None
    assert app.affinity is None
    assert threads() == before


def test_what_is_closed_opens_anew(app: Standfast) -> None:
    app.blocking.start(Visit, "lamp", key="1")
    app.blocking.close()
    app.blocking.close()
    assert not app.blocking.start(Visit, "lamp", key="1").created


def test_what_cannot_be_opened_says_why_and_leaves_no_thread(tmp_path: Path) -> None:
    before = threads()
    app = app_on(f"sqlite:///{tmp_path}/missing/blocking.db")
    for _ in range(2):
        with pytest.raises(StoreError, match="doesn't exist"):
            app.blocking.start(Visit, "lamp")
    assert threads() == before
    (tmp_path / "missing").mkdir()
    with app.blocking:
        assert app.blocking.start(Visit, "lamp").created


def test_closing_ends_calls_and_rolls_back(app: Standfast) -> None:
    handle, told = app.blocking.start(Ask, "tea?"), []
    inside, closed = threading.Event(), threading.Event()

    def wait() -> None:
        with pytest.raises(ConfigurationError, match="closed") as error:
            handle.result()
        told.append(error.value)

    def write() -> None:
        with pytest.raises(ConfigurationError), app.blocking.transaction() as tx:
            tx.start(Visit, "gone", key="gone")
            inside.set()
            closed.wait(20)
        told.append("rolled back")

    callers = [threading.Thread(target=wait), threading.Thread(target=write)]
    for caller in callers:
        caller.start()
    assert inside.wait(20)
    app.blocking.close()
    closed.set()
    for caller in callers:
        caller.join(20)
    assert len(told) == 2
    assert app.blocking.start(Visit, "gone", key="gone").created


def test_sixteen_threads_at_once(app: Standfast) -> None:
    """The first of which opens it, for all."""
    begin, ids = threading.Barrier(16), []

    def start(number: int) -> None:
        begin.wait(20)
        for one in range(10):
            with app.blocking.transaction() as tx:
                ids.append(tx.start(Visit, "lamp", key=f"tx {number} {one}").id)
            ids.append(app.blocking.start(Visit, "lamp", key=f"{number} {one}").id)

    callers = [threading.Thread(target=start, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    operations = app.blocking.operations
    assert {one.id for one in operations.each(operations.select())} == set(ids)
    assert len(set(ids)) == 320


class Carrying:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def look(self, variable: contextvars.ContextVar[str]) -> None:
        self.seen.append((variable.get(), remaining()))


def test_context_variables_go_along(app: Standfast) -> None:
    variable = contextvars.ContextVar("word", default="")
    carrying = Carrying()
    variable.set("lamp")
    with within(60):
        app.blocking.complete(carrying.look(variable))
    ((word, left),) = carrying.seen
    assert word == "lamp"
    assert left is not None
    assert 0 < left <= 60


def test_what_opens_it_gives_it_no_deadline(app: Standfast) -> None:
    with within(0.5):
        app.blocking.start(Visit, "lamp")
    with app.blocking.running():
        assert app.blocking.start(Visit, "late").result(20)["note"] == "late"


class Opened(Pattern):
    """Tells how long it had to open and to close."""

    left: list[float | None]

    async def open(self) -> None:
        self.left = [remaining()]

    async def close(self) -> None:
        self.left.append(remaining())


def test_nor_is_it_opened_or_closed_under_one(app: Standfast) -> None:
    opened = Opened()
    app.add(opened)
    with within(60):
        app.blocking.start(Visit, "lamp")
    app.blocking.close()
    assert opened.left == [None, None]


async def test_in_a_thread_whose_loop_runs_it_blocks_that_loop(app: Standfast) -> None:
    assert app.blocking.start(Visit, "from a notebook").created
    with app.blocking.running():
        assert app.blocking.start(Visit, "lamp").result(20)["note"] == "lamp"


async def test_in_the_apps_own_loop_it_is_refused(app: Standfast) -> None:
    async with app:
        with pytest.raises(ConfigurationError, match="wait for itself"):
            app.blocking.start(Visit, "lamp")
        with (
            pytest.raises(ConfigurationError, match="wait for itself"),
            app.blocking.transaction(),
        ):
            raise AssertionError


async def test_an_app_that_is_open_is_used_where_it_is(app: Standfast) -> None:
    async with app.running():
        place = app.affinity

        def use() -> str:
            with app.blocking.transaction() as tx:
                handle = tx.start(Visit, "lamp")
            result: str = handle.result(20)["note"]
            assert app.affinity is place
            return result

        assert await asyncio.to_thread(use) == "lamp"
        await asyncio.to_thread(app.blocking.close)
        assert app.affinity is place


async def test_a_block_in_which_it_was_closed_says_that_it_isnt_committed(app: Standfast) -> None:
    async with app:

        def use() -> None:
            with pytest.raises(ConfigurationError, match="isn't committed"):  # noqa: SIM117
                with app.blocking.transaction() as tx:
                    tx.start(Visit, "gone", key="gone")
                    app.blocking.close()

        await asyncio.to_thread(use)
        assert (await app.start(Visit, "gone", key="gone")).created


def test_a_loop_that_does_not_run_is_not_waited_for(app: Standfast) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.__aenter__())
    with pytest.raises(ConfigurationError, match="doesn't run"):
        app.blocking.start(Visit, "lamp")
    loop.run_until_complete(app.__aexit__())
    loop.close()
    assert app.blocking.start(Visit, "lamp").created


def test_a_loop_that_ends_during_a_call_is_told(app: Standfast) -> None:
    loop, told = asyncio.new_event_loop(), []

    def use() -> None:
        handle = app.blocking.start(Ask, "tea?")
        waits.set()
        with pytest.raises(ConfigurationError, match="its event loop ended"):
            handle.result()
        told.append(True)

    waits, caller = threading.Event(), threading.Thread(target=use)

    async def serve() -> None:
        await app.__aenter__()
        caller.start()
        while not waits.is_set():
            await asyncio.sleep(0.01)

    loop.run_until_complete(serve())  # and never again: the call waits for a loop that stands
    caller.join(20)
    assert told == [True]
    loop.run_until_complete(app.__aexit__())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("opens", ["transaction", "running"])
def test_a_block_that_was_never_left_ends_though_the_loops_own_thread_lets_it_go(
    app: Standfast, opens: str
) -> None:
    """As the garbage collector may, which runs in whatever thread it likes."""

    def blocks() -> Iterator[None]:
        if opens == "running":
            with app.blocking.running():
                yield
        with app.blocking.transaction() as tx:
            tx.start(Visit, "gone", key="gone")
            yield

    left_open = [blocks()]
    caller = threading.Thread(target=next, args=(left_open[0],))
    caller.start()
    caller.join(20)
    del caller
    unraised: list[object] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraised.append

    async def let_go() -> None:
        left_open.clear()
        async with asyncio.timeout(20):
            while app.supervisor is not None:
                await asyncio.sleep(0.01)

    try:
        app.blocking.complete(let_go())
    finally:
        sys.unraisablehook = hook
    assert unraised == []
    with app.blocking.running():
        assert app.blocking.start(Visit, "lamp", key="gone").result(20)["note"] == "lamp"


async def test_a_block_that_is_left_in_the_apps_own_loop_is_rolled_back(app: Standfast) -> None:
    async with app:
        opened = app.blocking.transaction()
        tx = await asyncio.to_thread(opened.__enter__)
        await asyncio.to_thread(tx.start, Visit, "gone", key="gone")
        with pytest.raises(ConfigurationError, match="wait for itself"):
            opened.__exit__(None, None, None)
        assert (await app.start(Visit, "lamp", key="gone")).created


class Stop(BaseException):
    pass


def test_whatever_is_raised_in_the_loop_does_not_end_it(app: Standfast) -> None:
    async def fail(error: BaseException) -> None:
        raise error

    for error in (KeyboardInterrupt(), SystemExit(3), Stop(), StopAsyncIteration()):
        with pytest.raises(type(error)):
            app.blocking.complete(fail(error))
        with pytest.raises(type(error)), app.blocking.transaction():
            raise error
    assert app.blocking.start(Visit, "lamp").created


class Local:
    """Something in the frame of whoever caught an error."""


@pytest.mark.parametrize("where", ["call", "body", "entering", "leaving"])
def test_an_error_holds_nothing_once_it_is_caught(
    app: Standfast, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the caller's variables would stay until the garbage collector comes by."""
    app.blocking.start(Visit, "lamp", key="lamp")

    class Block:
        async def __aenter__(self) -> None:
            if where == "entering":
                raise ZeroDivisionError

        async def __aexit__(self, *raised: object) -> None:
            if where == "leaving":
                raise ZeroDivisionError

    def fails() -> weakref.ref[Local]:
        local = Local()
        try:
            if where == "call":
                app.blocking.start(Visit, "rug", key="lamp")
            elif where in ("entering", "leaving"):
                with app.blocking.running():
                    pass
            else:
                with app.blocking.transaction():
                    raise ZeroDivisionError
        except (SagaConflict, ZeroDivisionError):
            return weakref.ref(local)
        raise AssertionError

    if where in ("entering", "leaving"):
        monkeypatch.setattr(type(app), "running", lambda app: Block())
    gc.collect()
    gc.disable()
    try:
        assert fails()() is None
    finally:
        gc.enable()


def test_patterns_act_on_a_transaction(app: Standfast) -> None:
    from standfast import Transaction

    async def started(tx: Transaction) -> str:
        return str((await tx.start(Visit, "lamp", key="by a pattern")).id)

    def act(tx: Transaction) -> Coroutine[Any, Any, str]:
        return started(tx)

    with app.blocking.transaction() as tx:
        assert isinstance(tx, BlockingTransaction)
        id = tx.complete(act)
    assert str(app.blocking.saga(Visit, "by a pattern").id) == id
