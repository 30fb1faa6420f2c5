"""The threads of `def` steps by themselves: several loops, forks, and a system without threads."""

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from standfast import Standfast
from standfast.errors import ConfigurationError, StoreError
from standfast.saga import threads as module
from standfast.saga.context import Context
from standfast.saga.threads import Threads
from tests.saga.engine.world import until

PATIENCE = 20.0


class Attempt(Context):
    """A context of no saga."""

    saga_id = "1"
    step = "act"
    log = SimpleNamespace(extra={})
    deadline = None

    def __init__(self) -> None:
        self.attempt = 1


def made(limit: int = 2) -> Threads:
    return Threads(lambda tx, complete, run: complete, limit)


def runs(threads: Threads, function: Callable[[], Any], limit: int | None = None) -> Any:
    """`function` as a step that is awaited."""
    awaited = threads.share("trip", limit).awaited(
        lambda saga, word, ctx: function(), transactional=False
    )
    return awaited(None, None, Attempt())


def test_one_pool_serves_one_loop_after_the_other():
    threads, gate, entered = made(), threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        assert gate.wait(PATIENCE)

    async def first() -> None:
        hanging = asyncio.ensure_future(runs(threads, hang))
        await until(entered.is_set)
        hanging.cancel()
        await asyncio.wait([hanging])
        assert await runs(threads, lambda: 7) == 7

    async def second() -> None:
        assert threads.hung == 1
        assert await runs(threads, lambda: 8) == 8
        gate.set()
        await until(lambda: threads.hung == 0)
        assert await asyncio.gather(*(runs(threads, lambda n=n: n) for n in range(20))) == [
            *range(20)
        ]

    asyncio.run(first())
    asyncio.run(second())


async def test_a_share_that_waits_for_one_of_a_loop_that_is_closed_goes_on_when_that_ends():
    threads, gate, entered = made(), threading.Event(), threading.Event()
    awaited = threads.share("trip", 1).awaited(lambda saga, act, ctx: act(), transactional=False)

    def hang() -> None:
        entered.set()
        assert gate.wait(PATIENCE)

    async def elsewhere() -> None:
        hanging = asyncio.ensure_future(awaited(None, hang, Attempt()))
        await until(entered.is_set)
        hanging.cancel()
        await asyncio.wait([hanging])

    await asyncio.to_thread(asyncio.run, elsewhere())
    waiting = asyncio.ensure_future(awaited(None, lambda: "through", Attempt()))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    async with asyncio.timeout(PATIENCE):
        assert await waiting == "through"


def test_a_share_is_free_again_though_the_loop_of_its_call_is_closed():
    threads, gate, entered = made(), threading.Event(), threading.Event()
    awaited = threads.share("trip", 1).awaited(lambda saga, act, ctx: act(), transactional=False)

    def hang() -> None:
        entered.set()
        assert gate.wait(PATIENCE)

    async def first() -> None:
        hanging = asyncio.ensure_future(awaited(None, hang, Attempt()))
        await until(entered.is_set)
        hanging.cancel()
        await asyncio.wait([hanging])

    async def second() -> str:
        await until(lambda: threads.hung == 0)
        async with asyncio.timeout(PATIENCE):
            return await awaited(None, lambda: "through", Attempt())

    asyncio.run(first())
    gate.set()
    assert asyncio.run(second()) == "through"


def test_what_waits_for_a_share_isnt_begun_once_its_loop_is_closed():
    threads, gate, entered = made(), threading.Event(), threading.Event()
    awaited = threads.share("trip", 1).awaited(lambda saga, act, ctx: act(), transactional=False)
    begun: list[str] = []

    def hang() -> None:
        entered.set()
        assert gate.wait(PATIENCE)

    async def first() -> None:
        tasks.extend(
            asyncio.ensure_future(awaited(None, act, Attempt()))
            for act in (hang, lambda: begun.append("late"))
        )
        await until(entered.is_set)

    tasks: list[asyncio.Future[Any]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    loop.close()  # by somebody who doesn't end what is in it
    gate.set()

    async def second() -> str:
        async with asyncio.timeout(PATIENCE):
            return await awaited(None, lambda: "through", Attempt())

    assert asyncio.run(second()) == "through"
    assert not begun
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_threads_that_have_nothing_to_do_end_and_others_begin(monkeypatch):
    monkeypatch.setattr(module, "IDLE", 0.01)
    threads = made(limit=1)
    begun: list[threading.Thread] = []
    for _ in range(3):
        begun.append(await runs(threads, threading.current_thread))
        await until(lambda: not begun[-1].is_alive())
    assert len(set(begun)) == 3


async def test_without_a_single_thread_the_attempt_fails(monkeypatch):
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = made()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await runs(threads, lambda: 7)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await runs(threads, lambda: 7, limit=1)
    assert await runs(threads, lambda: 7) == 7


async def test_with_too_few_threads_those_that_there_are_must_do(monkeypatch):
    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    threads = made()
    assert await runs(threads, lambda: 6) == 6
    monkeypatch.setattr(threading.Thread, "start", no_more)
    assert await asyncio.gather(*(runs(threads, lambda: 7) for _ in range(5))) == [7] * 5


async def test_a_transaction_isnt_used_in_a_loop_nor_after_its_step():
    threads = made()
    kept: list[Any] = []

    async def statement() -> str:
        return "done"

    def act(saga: Any, input: Any, ctx: Context, complete: Any) -> list[str]:
        kept.append(complete)
        answers: list[str] = [complete(statement())]
        # Of another thread of the step's own, too.
        other = threading.Thread(target=lambda: answers.append(complete(statement())))
        other.start()
        other.join()
        with pytest.raises(ConfigurationError, match="used in an event loop"):
            asyncio.run(in_a_loop(complete))
        return answers

    async def in_a_loop(complete: Any) -> None:
        complete(statement())

    awaited = threads.share("trip", None).awaited(act, transactional=True)
    assert await awaited(None, None, Attempt(), None) == ["done", "done"]
    with pytest.raises(StoreError, match="is over, as the step's function has ended"):
        await asyncio.to_thread(lambda: kept[0](statement()))


async def test_whenever_calls_are_given_up_none_is_lost():
    """Before they begin, while they ask for something, at their end; each answer is the own one."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads, chance = made(limit=5), random.Random(1)

    async def statement(number: int) -> int:
        await asyncio.sleep(0)
        return number

    def plain(saga: Any, number: int, ctx: Context) -> int:
        return number

    def asking(saga: Any, number: int, ctx: Context, complete: Any) -> int:
        return sum(complete(statement(one)) for one in (number, 1, -1))

    shares = [threads.share("all", None), threads.share("few", 2)]
    functions = [
        (share.awaited(function, transactional=bool(tx)), tx)
        for share in shares
        for function, tx in ((plain, ()), (asking, (None,)))
    ]
    ended = 0

    async def lane() -> None:
        nonlocal ended
        for number in range(50):
            function, tx = chance.choice(functions)
            call = asyncio.ensure_future(function(None, number, Attempt(), *tx))
            for _ in range(chance.choice([0, 1, 2, 5, 10, 10_000])):
                if call.done():
                    break
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                assert call.result() == number
                ended += 1

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(lane() for _ in range(20)))
    finally:
        sys.setswitchinterval(interval)
    assert 0 < ended < 1000
    await until(lambda: threads.hung == threads.busy == threads.waiting == 0)
    for function, tx in functions:
        assert await function(None, 7, Attempt(), *tx) == 7


FORKS = """
import asyncio, os, sys
from standfast import Context, Saga, Standfast, step

class Visit(Saga[str]):
    @step(no_compensation="paper")
    def note(self, word: str, ctx: Context) -> str:
        return word

app = Standfast("memory://").add(Visit())

async def main(word):
    async with app.running(threads=1):
        return (await (await app.start(Visit, word)).result("20s"))["note"]

assert asyncio.run(main("parent")) == "parent"
child = os.fork()
if not child:
    os._exit(0 if asyncio.run(main("child")) == "child" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


FORKS_MEANWHILE = """
import os, sys, threading
from standfast import Context, Saga, Standfast, step

gate, entered = threading.Event(), threading.Event()

class Visit(Saga[str]):
    threads = 1

    @step(no_compensation="paper")
    def note(self, word: str, ctx: Context) -> str:
        if not entered.is_set():
            entered.set()
            assert gate.wait(20)
        return word

app = Standfast("sqlite:///trips.db", migrate=True).add(Visit())
client = app.blocking
with client.running(drain=0):
    client.start(Visit, "parent")
    assert entered.wait(20)
child = os.fork()  # while the thread that was given up still runs
if not child:
    with client, client.running():
        os._exit(0 if client.start(Visit, "child").result("20s")["note"] == "child" else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gate.set()
sys.exit(code)
"""


@pytest.mark.parametrize("script", [FORKS, FORKS_MEANWHILE], ids=["between", "meanwhile"])
def test_a_child_process_begins_threads_of_its_own(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_one_that_is_withdrawn_before_a_thread_took_it_leaves_its_place_to_the_next():
    threads, gate, entered = made(limit=1), threading.Event(), threading.Event()
    awaited = threads.share("few", 1).awaited(lambda saga, word, ctx: word, transactional=False)

    def hold() -> None:
        entered.set()
        assert gate.wait(PATIENCE)

    holding = asyncio.ensure_future(runs(threads, hold))
    await until(entered.is_set)
    first = asyncio.ensure_future(awaited(None, "first", Attempt()))
    second = asyncio.ensure_future(awaited(None, "second", Attempt()))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    async with asyncio.timeout(PATIENCE):
        await holding
        assert await second == "second"


async def test_it_is_told_when_all_threads_of_a_saga_are_kept(caplog):
    threads, gate = made(limit=5), threading.Event()
    awaited = threads.share("trip", 2).awaited(lambda saga, act, ctx: act(), transactional=False)
    told = "no `def` step of saga trip runs here any more: all of its 2 threads"
    for number in (1, 2):
        entered = threading.Event()

        def hang(entered: threading.Event = entered) -> None:
            entered.set()
            assert gate.wait(PATIENCE)

        hanging = asyncio.ensure_future(awaited(None, hang, Attempt()))
        await until(entered.is_set)
        hanging.cancel()
        await asyncio.wait([hanging])
        assert (told in caplog.text) is (number == 2)
    gate.set()
    await until(lambda: threads.hung == 0)


def test_what_hinders_the_threads_hinders_the_sagas():
    app = Standfast("memory://")
    assert app.sagas.executor.hindrance == ""
    app.sagas.threads.limit = 0
    assert app.sagas.executor.hindrance.startswith("all 0 threads are kept by functions of steps")
