"""A limiter that event loops in several threads share, and child processes."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from standfast.errors import ConfigurationError, RateLimited
from standfast.ports.rate_limit import RateRequest
from standfast.rates import Rate
from standfast.resilience.ratelimit import LeasedRateLimits, MemoryRateLimits, RateLimiter
from standfast.resilience.ratelimit import line as module
from standfast.testing.manual_clock import ManualClock

PATIENCE = 20.0


def in_thread(work):
    """Run coroutine function `work` in an event loop of its own; wait for it with `join`."""
    outcome = []

    async def bounded():
        async with asyncio.timeout(PATIENCE):
            return await work()

    def run():
        try:
            outcome.append(asyncio.run(bounded()))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(PATIENCE + 5)
        assert not thread.is_alive(), "the thread hangs"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    return join


def test_waiters_in_several_loops_are_all_served():
    limiter = RateLimiter(200, 1.0, burst=1)
    order = []

    async def three():
        for _ in range(3):
            await limiter.acquire(max_wait=PATIENCE)
            order.append(threading.get_ident())

    joins = [in_thread(three) for _ in range(4)]
    for join in joins:
        join()
    assert len(order) == 12
    assert limiter._lines.by_key == {}
    assert limiter._lines.waiting == 0


def test_a_waiter_is_woken_by_one_in_another_loop():
    """At once, not by the look that it takes now and then."""
    clock = ManualClock()
    limiter = RateLimiter(1, "1h", clock=clock)
    limiter.check_now()
    first, second = threading.Event(), threading.Event()

    async def leaves():
        task = asyncio.create_task(limiter.acquire(max_wait="2h"))
        await clock.settle()
        first.set()
        await asyncio.to_thread(second.wait, PATIENCE)
        task.cancel()
        await asyncio.wait((task,))

    async def comes():
        turn = limiter._lines.join("", most=10)
        second.set()
        async with asyncio.timeout(PATIENCE):
            await turn.come
        limiter._lines.leave("", turn)

    leaving = in_thread(leaves)
    assert first.wait(PATIENCE)
    in_thread(comes)()
    leaving()


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "stopped"])
def test_a_dead_loops_waiters_do_not_hold_up_the_others(closed, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    limiter = RateLimiter(100, 1.0, burst=1)
    dead = asyncio.new_event_loop()

    async def begin():
        tasks = [asyncio.ensure_future(limiter.acquire(max_wait="1h")) for _ in range(3)]
        await asyncio.sleep(0)
        return tasks

    tasks = dead.run_until_complete(begin())
    assert limiter._lines.waiting == 2

    async def waits_behind():
        waiting = asyncio.create_task(limiter.acquire(max_wait=PATIENCE))
        return (await waiting).allowed

    if closed:
        dead.close()
    assert in_thread(waits_behind)()
    assert limiter._lines.waiting == 0
    deadline = threading.Event()
    while not limiter.check_now():
        deadline.wait(0.01)
    if not closed:
        # They come back, and go on.
        dead.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), PATIENCE))
        dead.close()
    else:
        for task in tasks:
            task._log_destroy_pending = False


def test_one_behind_a_loop_that_dies_meanwhile_is_served(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.01)
    limiter = RateLimiter(1, 0.2)
    limiter.check_now()
    dies, joined = asyncio.new_event_loop(), threading.Event()
    tasks = []

    def first():
        async def waits():
            tasks.append(asyncio.ensure_future(limiter.acquire(max_wait="1h")))
            while limiter._lines.waiting < 2:
                await asyncio.sleep(0.001)

        dies.run_until_complete(asyncio.wait_for(waits(), PATIENCE))
        dies.close()

    thread = threading.Thread(target=first, daemon=True)
    thread.start()
    while not limiter._lines.waiting:
        joined.wait(0.001)

    async def second():
        return (await limiter.acquire(max_wait=PATIENCE)).allowed

    assert in_thread(second)()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    tasks[0]._log_destroy_pending = False


def test_the_line_is_bounded_over_all_threads():
    limiter = RateLimiter(1, "1h", max_waiters=1)
    limiter.check_now()
    waits, refused = threading.Event(), threading.Event()

    async def waiter():
        task = asyncio.create_task(limiter.acquire(max_wait="2h"))
        await asyncio.sleep(0)
        waits.set()
        await asyncio.to_thread(refused.wait, PATIENCE)
        task.cancel()

    async def other():
        with pytest.raises(RateLimited):
            await limiter.acquire(max_wait="2h")
        refused.set()

    waiting = in_thread(waiter)
    assert waits.wait(PATIENCE)
    in_thread(other)()
    waiting()


async def test_leases_belong_to_one_loop():
    store = LeasedRateLimits(MemoryRateLimits(), tokens=5)
    await store.check([RateRequest("k", Rate(10, "1h"))])

    async def elsewhere():
        with pytest.raises(ConfigurationError, match="was opened in another event loop"):
            await store.check([RateRequest("another", Rate(10, "1h"))])

    join = in_thread(elsewhere)
    await asyncio.to_thread(join)


def test_leases_go_on_in_the_next_loop():
    """Also of a key whose renewal ended with the loop before."""

    class Hangs(MemoryRateLimits):
        __slots__ = ("hangs",)

        async def check(self, requests):
            if self.hangs:
                await asyncio.Event().wait()
            return await super().check(requests)

    inner = Hangs()
    inner.hangs = True
    store = LeasedRateLimits(inner, tokens=5)
    loop = asyncio.new_event_loop()
    asking = loop.create_task(store.check([RateRequest("k", Rate(10, "1h"))]))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    inner.hangs = False

    async def again():
        return (await store.check([RateRequest("k", Rate(10, "1h"))]))[0].allowed

    assert in_thread(again)()
    asking._log_destroy_pending = False


FORKING = """
import asyncio, os, signal
from standfast.resilience.ratelimit import RateLimiter

limiter = RateLimiter(1000, "1h")
patient = RateLimiter(1, "1h")
limited = limiter(lambda: 1)
limited()

# The parent's thread is in the midst of everything, and somebody waits, when it forks.
limiter._store._acquire()
patient._lines._lock.acquire()
patient._lines.by_key["elsewhere"] = [None]
patient._lines.waiting = 1
child = os.fork()
if child == 0:
    signal.alarm(20)

    async def use():
        assert limited() == 1
        assert await limiter.check()
        assert await patient.check("elsewhere")
        assert patient._lines.waiting == 0

    asyncio.run(use())
    os._exit(7)
print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where there is fork")
def test_a_child_process_goes_on_for_itself():
    done = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "exit 7", done.stderr
