"""What a thread pool bulkhead promises."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from standfast.errors import BulkheadFull, ConfigurationError
from standfast.resilience.bulkhead import ThreadPoolBulkhead


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_core_threads_then_the_queue_then_more_threads_then_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[Any] = []
    monkeypatch.setattr(
        "standfast.resilience.telemetry.span_event",
        lambda event, **said: events.append((event, said)),
    )
    waits: list[Any] = []
    monkeypatch.setattr(
        "standfast.resilience.telemetry.record",
        lambda name, waited, labels, **_: waits.append((name, waited > 0, labels)),
    )
    go = threading.Event()
    with ThreadPoolBulkhead(1, 2, queue=1, keep_alive="10ms", name="files") as pool:
        futures = [pool.submit(go.wait, 30)]
        assert (pool.threads, pool.queued) == (1, 0)
        futures.append(pool.submit(go.wait, 30))
        assert (pool.threads, pool.queued) == (1, 1)
        futures.append(pool.submit(go.wait, 30))
        assert (pool.threads, pool.queued) == (2, 1)
        with pytest.raises(BulkheadFull, match="'files' is full"):
            pool.submit(go.wait, 30)
        assert pool.rejected == 1
        assert events == [("bulkhead.rejected", {"name": "files"})]
        assert (pool.admitted, pool.queued) == (3, 1), "what was rejected is never made"
        go.set()
        assert [future.result(30) for future in futures] == [True] * 3
        until(lambda: len(waits) == 3)
        assert waits == [("standfast.bulkhead.wait", True, {"name": "files"})] * 3
        until(lambda: pool.threads == 1)
        with pytest.raises(BulkheadFull) as full:
            for _ in range(10):
                pool.submit(time.sleep, 0.05)
        assert full.value.retry_after is not None
        assert full.value.retry_after > 0


def test_a_decorated_function_runs_in_the_pool() -> None:
    with ThreadPoolBulkhead(1) as pool:

        @pool
        def where(fail: bool = False) -> str:
            """Tell the thread."""
            if fail:
                raise TimeoutError("its own")
            return threading.current_thread().name

        assert where() == "bulkhead "
        with pytest.raises(TimeoutError, match="its own"):
            where(fail=True)
        assert where.__doc__ == "Tell the thread."


async def test_async_code_awaits_it_with_its_own_context() -> None:
    request = contextvars.ContextVar("request", default="")
    with ThreadPoolBulkhead(2) as pool:
        request.set("r-7")
        assert await pool.run(request.get) == "r-7"
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)


async def test_a_cancelled_caller_leaves_the_queue() -> None:
    go = threading.Event()
    with ThreadPoolBulkhead(1, queue=1) as pool:
        running = asyncio.create_task(pool.run(go.wait, 30))
        await asyncio.sleep(0)
        for _ in range(100):
            waiting = asyncio.create_task(pool.run(go.wait, 30))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        last = asyncio.create_task(pool.run(go.wait, 30))
        await asyncio.sleep(0)
        go.set()
        assert await asyncio.gather(running, last) == [True, True]
        assert pool.rejected == 0


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_call_that_does_not_begin_within_max_wait_is_rejected(way: str) -> None:
    go = threading.Event()
    made = []
    with ThreadPoolBulkhead(1, queue=1, max_wait="50ms") as pool:
        running = pool.submit(go.wait, 30)
        with pytest.raises(BulkheadFull):
            if way == "sync":
                pool.call(made.append, 1)
            else:
                asyncio.run(pool.run(made.append, 1))
        go.set()
        assert running.result(30)
    assert made == []


def test_a_call_that_has_begun_is_waited_for_beyond_max_wait() -> None:
    with ThreadPoolBulkhead(1, max_wait="10ms") as pool:
        assert pool.call(lambda: (time.sleep(0.2), 7)[1]) == 7


def test_closing_waits_for_what_was_taken_and_takes_no_more() -> None:
    done = []
    pool = ThreadPoolBulkhead(1, queue=5)
    for number in range(5):
        pool.submit(lambda number=number: (time.sleep(0.01), done.append(number)))
    pool.close()
    assert done == [0, 1, 2, 3, 4]
    assert pool.threads == 0
    with pytest.raises(BulkheadFull, match="closed"):
        pool.submit(print)


def test_a_forgotten_pool_ends_its_threads() -> None:
    pool = ThreadPoolBulkhead(2, name="forgotten")
    pool.call(lambda: None)
    alive = [one for one in threading.enumerate() if one.name == "bulkhead forgotten"]
    assert len(alive) == 1
    del pool
    gc.collect()
    alive[0].join(30)
    assert not alive[0].is_alive()


def test_many_threads_share_it_and_none_is_lost() -> None:
    results: list[int] = []
    with ThreadPoolBulkhead(2, 4, queue=1000) as pool:

        def work(number: int) -> None:
            results.append(pool.call(lambda: number))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == list(range(100))
    assert pool.admitted == 100


def test_coroutine_functions_are_refused() -> None:
    async def work() -> None: ...

    with pytest.raises(ConfigurationError, match="Use Bulkhead"):
        ThreadPoolBulkhead(1)(work)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"core": 0}, "core=0"),
        ({"core": 2, "maximum": 1}, "maximum=1"),
        ({"core": 1, "queue": -1}, "queue=-1"),
        ({"core": 1, "max_wait": 0}, "max_wait=0"),
    ],
)
def test_bad_options_are_refused_when_it_is_built(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ThreadPoolBulkhead(**options)


# -- a pool that calls itself, StopIteration, fork ---------------------------------------------

HANGS = 20.0


@pytest.mark.parametrize("way", ["decorated", "submitted"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_pool_whose_calls_all_wait_for_each_other_says_so(
    way: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    monkeypatch.setattr(
        "standfast.resilience.telemetry.span_event",
        lambda event, **said: events.append((event, said)),
    )
    pool = ThreadPoolBulkhead(threads, queue=10, name="reports")
    together = threading.Barrier(threads, timeout=HANGS)
    answers: list[str] = []
    made: list[str] = []

    def inner() -> str:
        made.append("inner")
        return "done"

    def outer() -> None:
        together.wait()
        try:
            answers.append(pool(inner)() if way == "decorated" else pool.submit(inner).result())
        except BulkheadFull as full:
            answers.append(str(full))

    for future in [pool.submit(outer) for _ in range(threads)]:
        future.result(HANGS)
    refused = [answer for answer in answers if "called from inside itself" in answer]
    assert len(answers) == threads
    assert len(refused) == 1, "the others are served when that one has given up"
    assert "'reports'" in refused[0]
    assert events == [("bulkhead.rejected", {"name": "reports"})]
    assert pool.rejected == 1
    pool.close()
    assert pool.queued == 0
    assert len(made) == threads - 1, "what was refused isn't made later"


def test_a_pool_that_calls_itself_takes_another_thread_if_it_may() -> None:
    pool = ThreadPoolBulkhead(1, 3, queue=10)

    def nested(depth: int) -> int:
        return depth if depth == 0 else pool(nested)(depth - 1) + 1

    assert pool.submit(nested, 2).result(HANGS) == 2
    with pytest.raises(BulkheadFull, match="all of its 3 threads"):
        pool.submit(nested, 3).result(HANGS)
    assert pool.submit(nested, 2).result(HANGS) == 2


async def test_stop_iteration_comes_out_as_of_a_coroutine() -> None:
    pool = ThreadPoolBulkhead(1)
    async with asyncio.timeout(HANGS):
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await pool.run(next, iter(()))
        assert isinstance(caught.value.__cause__, StopIteration)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wrap_future(pool.submit(next, iter(())))
    with pytest.raises(RuntimeError, match="StopIteration"):
        pool(next)(iter(()))


async def test_a_coroutine_is_no_answer_of_a_thread() -> None:
    pool = ThreadPoolBulkhead(1)
    async with asyncio.timeout(HANGS):
        with pytest.raises(ConfigurationError, match="awaitable"):
            await pool.run(lambda: asyncio.sleep(0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_pool_and_a_bulkhead_that_were_used_work_after_a_fork() -> None:
    """In a process of its own, for forking this one would fork its other threads' locks too."""
    code = """
import os, signal, threading
from standfast.resilience import Bulkhead, CircuitBreaker, Pipeline, ThreadPoolBulkhead

pool, bulkhead, go_on = ThreadPoolBulkhead(2), Bulkhead(2), threading.Event()
policy, breaker = Pipeline(bulkhead), CircuitBreaker()
patient = Bulkhead(1, max_wait="10s")
begun = threading.Barrier(5, timeout=20)

def hang():
    with breaker._lock:
        pass
    begun.wait()
    go_on.wait(20)

for around in (pool, bulkhead):
    for _ in range(2):
        threading.Thread(target=around.call, args=(hang,), daemon=True).start()
begun.wait()

def holds():
    with breaker._lock, bulkhead._lock, pool._pool.lock:
        held.set()
        go_on.wait(20)

held = threading.Event()
threading.Thread(target=holds, daemon=True).start()
held.wait(20)
child = os.fork()
if child == 0:
    signal.alarm(15)
    assert (pool.active, bulkhead.active) == (0, 0)
    assert pool.call(int) == policy.call(int) == breaker.call(int) == 0
    with bulkhead:
        pass
    assert bulkhead.active == 0
    patient.__enter__()
    threading.Timer(0.2, patient.__exit__, (None, None, None)).start()
    with patient:  # it waits in line, as it might in the parent
        pass
    os._exit(7)
go_on.set()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False
    )
    assert done.stdout.strip() == "7", done.stderr
