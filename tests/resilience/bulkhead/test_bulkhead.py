"""What a bulkhead promises, to tasks and to threads."""

import asyncio
import gc
import random
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.errors import BulkheadFull, ConfigurationError
from standfast.resilience.bulkhead import AdaptiveBulkhead, Bulkhead


def until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_run_at_once_and_all_are_served() -> None:
    bulkhead = Bulkhead(3, queue=100)
    running = most = 0

    @bulkhead
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await turns(2)
        running -= 1

    await asyncio.gather(*(work() for _ in range(50)))
    assert (most, running, bulkhead.active, bulkhead.queued) == (3, 0, 0, 0)
    assert bulkhead.admitted == 50


def test_no_more_threads_than_the_limit_run_at_once_and_all_are_served() -> None:
    bulkhead = Bulkhead(3, max_wait="60s")
    running: set[int] = set()
    most = []

    @bulkhead
    def work() -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        time.sleep(0.001)
        running.discard(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 30
    assert max(most) <= 3
    assert (bulkhead.active, bulkhead.queued) == (0, 0)


async def test_waiters_are_served_first_come_first_served() -> None:
    bulkhead = Bulkhead(1, queue=10)
    order = []

    async def work(number: int) -> None:
        async with bulkhead:
            order.append(number)
            await turns(1)

    tasks = [asyncio.create_task(work(number)) for number in range(10)]
    await asyncio.gather(*tasks)
    assert order == list(range(10))


async def test_a_newcomer_can_not_slip_in_before_a_woken_waiter() -> None:
    bulkhead = Bulkhead(1, queue=1)
    await bulkhead.__aenter__()
    waiter = asyncio.create_task(bulkhead.__aenter__())
    await turns()
    await bulkhead.__aexit__(None, None, None)  # the waiter holds it now, and hasn't run yet
    assert bulkhead.active == 1
    newcomer = asyncio.create_task(bulkhead.__aenter__())
    await waiter
    await turns()
    assert not newcomer.done()
    await bulkhead.__aexit__(None, None, None)
    await newcomer


async def test_it_is_full_at_once_without_a_queue() -> None:
    bulkhead = Bulkhead(1, name="stock")
    async with bulkhead:
        with pytest.raises(BulkheadFull, match="'stock' is full: 1 calls run and 0 wait"):
            await bulkhead.__aenter__()
        with pytest.raises(BulkheadFull), bulkhead:
            raise AssertionError("must not run")
    assert bulkhead.rejected == 2
    async with bulkhead:
        pass


async def test_it_is_full_when_the_queue_is() -> None:
    bulkhead = Bulkhead(1, queue=2)
    await bulkhead.__aenter__()
    waiting = [asyncio.create_task(bulkhead.__aenter__()) for _ in range(2)]
    await turns()
    with pytest.raises(BulkheadFull):
        await bulkhead.__aenter__()
    for task in waiting:
        await bulkhead.__aexit__(None, None, None)
        await task
    await bulkhead.__aexit__(None, None, None)
    assert bulkhead.active == 0


async def test_a_task_waits_no_longer_than_max_wait() -> None:
    bulkhead = Bulkhead(1, max_wait="50ms")
    async with bulkhead:
        with pytest.raises(BulkheadFull):
            async with asyncio.timeout(30):
                await bulkhead.__aenter__()
        assert bulkhead.queued == 0
    assert bulkhead.active == 0


def test_a_thread_waits_no_longer_than_max_wait() -> None:
    bulkhead = Bulkhead(1, max_wait="50ms")
    with bulkhead:
        with pytest.raises(BulkheadFull):
            bulkhead.call(lambda: None)
        assert bulkhead.queued == 0
    assert bulkhead.active == 0


def test_full_says_when_to_come_back() -> None:
    class Clock:
        time = 0.0

        def monotonic(self) -> float:
            return self.time

        def now(self) -> float:
            return self.time

        async def sleep(self, seconds: float) -> None: ...

    clock = Clock()
    bulkhead = Bulkhead(1, clock=clock)
    for _ in range(3):
        with bulkhead:
            clock.time += 4
            with pytest.raises(BulkheadFull) as full:
                bulkhead.call(lambda: None)
        clock.time += 1000  # idle time says nothing
    assert full.value.retry_after == 4


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(1, 4))
def test_a_cancelled_waiter_loses_no_capacity_over_1000_random_cancellations(
    seed: int, limit: int
) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        bulkhead = Bulkhead(limit, max_wait="30s" if seed % 2 else None, queue=10_000)
        tasks: list[asyncio.Task[None]] = []
        cancelled = 0

        async def work() -> None:
            async with bulkhead:
                await turns(chance.randrange(3))

        while cancelled < 1000:
            tasks.extend(asyncio.create_task(work()) for _ in range(chance.randrange(8)))
            await turns(chance.randrange(2))
            for task in chance.sample(tasks, min(len(tasks), chance.randrange(8))):
                cancelled += task.cancel()
            tasks = [task for task in tasks if not task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=30)
        assert all(task.done() for task in tasks), "a permit is lost, so some wait for ever"
        assert (bulkhead.active, bulkhead.queued) == (0, 0)
        for _ in range(limit):
            await asyncio.wait_for(bulkhead.__aenter__(), 30)
        assert bulkhead.active == limit

    asyncio.run(scenario())


async def test_cancelled_at_the_moment_it_is_served_it_passes_the_permit_on() -> None:
    bulkhead = Bulkhead(1, queue=5)
    await bulkhead.__aenter__()
    first = asyncio.create_task(bulkhead.__aenter__())
    second = asyncio.create_task(bulkhead.__aenter__())
    await turns()
    await bulkhead.__aexit__(None, None, None)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.wait_for(second, 30)
    assert (bulkhead.active, bulkhead.queued) == (1, 0)


def test_tasks_and_threads_share_one_queue() -> None:
    bulkhead = Bulkhead(1, queue=5)
    order: list[str] = []
    bulkhead.__enter__()

    def thread() -> None:
        with bulkhead:
            order.append("thread")

    async def task() -> None:
        async with bulkhead:
            order.append("task")

    first = threading.Thread(target=thread)
    first.start()
    until(lambda: bulkhead.queued == 1)
    second = threading.Thread(target=lambda: asyncio.run(task()))
    second.start()
    until(lambda: bulkhead.queued == 2)
    bulkhead.__exit__(None, None, None)
    first.join(30)
    second.join(30)
    assert order == ["thread", "task"]
    assert bulkhead.active == 0


def test_a_waiter_whose_loop_was_closed_loses_no_capacity() -> None:
    bulkhead = Bulkhead(1, queue=5)
    bulkhead.__enter__()
    loop = asyncio.new_event_loop()
    coroutine = bulkhead.__aenter__()

    async def begin() -> None:
        coroutine.send(None)  # it waits now, and nobody will ever resume it

    loop.run_until_complete(begin())
    loop.close()
    assert bulkhead.queued == 1
    bulkhead.__exit__(None, None, None)
    assert (bulkhead.active, bulkhead.queued) == (0, 0)
    with bulkhead:
        assert bulkhead.active == 1


class StandingLoop:
    """An event loop in which a task waits for a permit, and that stops, but isn't closed."""

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.loop = asyncio.new_event_loop()
        self.waiting: list[asyncio.Task[Any]] = []

    def stops_while_it_waits(self, waiters: int = 1) -> None:
        """Somebody else holds the permit, and gives it back later."""

        async def begin() -> None:
            await turns()

        with self.bulkhead:
            for number in range(waiters):
                work = self.bulkhead.call(asyncio.sleep, 0, number)
                self.waiting.append(self.loop.create_task(work))  # type: ignore[arg-type]
            self.loop.run_until_complete(begin())
            assert self.bulkhead.queued == waiters

    def stops_when_it_is_served(self) -> None:
        """The permit is handed to it in the last turn of its loop."""

        async def begin() -> None:
            async with self.bulkhead:
                work = self.bulkhead.call(asyncio.sleep, 0, 0)
                self.waiting.append(self.loop.create_task(work))  # type: ignore[arg-type]
                await turns()

        self.loop.run_until_complete(begin())
        assert not self.waiting[0].done()

    def goes_on(self) -> list[Any]:
        """All that waited in it are served."""
        done = self.loop.run_until_complete(asyncio.gather(*self.waiting))
        self.loop.close()
        return done


@pytest.fixture(params=[Bulkhead, AdaptiveBulkhead])
def standing(request: Any, monkeypatch: Any) -> StandingLoop:
    monkeypatch.setattr("standfast.resilience.bulkhead.semaphore._LOOK_EVERY", 0.001)
    return StandingLoop(request.param(1, queue=5))


@pytest.mark.parametrize("served", [False, True])
def test_a_waiter_whose_loop_stands_still_loses_no_capacity(
    standing: StandingLoop, served: bool
) -> None:
    bulkhead = standing.bulkhead
    standing.stops_when_it_is_served() if served else standing.stops_while_it_waits()
    assert bulkhead.call(lambda: 7) == 7
    assert asyncio.run(bulkhead.call(asyncio.sleep, 0, 7)) == 7  # type: ignore[arg-type]
    with bulkhead:
        pass
    assert (bulkhead.active, bulkhead.queued) == (0, 0)
    assert standing.goes_on() == [0], "it is served when its loop goes on"
    assert (bulkhead.active, bulkhead.queued) == (0, 0)


def test_several_in_a_loop_that_stood_still_are_served_in_their_order(
    standing: StandingLoop,
) -> None:
    standing.stops_while_it_waits(3)
    assert (standing.bulkhead.active, standing.bulkhead.queued) == (0, 0)
    assert standing.goes_on() == [0, 1, 2]
    assert (standing.bulkhead.active, standing.bulkhead.queued) == (0, 0)


@pytest.mark.parametrize("served", [False, True])
def test_one_in_a_loop_that_stood_still_may_be_thrown_away(
    standing: StandingLoop, served: bool
) -> None:
    standing.stops_when_it_is_served() if served else standing.stops_while_it_waits()
    standing.waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        standing.goes_on()
    standing.loop.close()
    assert (standing.bulkhead.active, standing.bulkhead.queued) == (0, 0)


@pytest.mark.parametrize("who", ["thread", "task"])
def test_who_waits_behind_a_loop_that_stops_has_the_permit(
    standing: StandingLoop, who: str
) -> None:
    """It was in line before the loop stopped, so that no newcomer sees to it."""
    bulkhead = standing.bulkhead
    answers: list[Any] = []

    def behind() -> None:
        if who == "thread":
            answers.append(bulkhead.call(lambda: 7))
        else:
            answers.append(asyncio.run(bulkhead.call(asyncio.sleep, 0, 7)))  # type: ignore[arg-type]

    async def begin() -> threading.Thread:
        async with bulkhead:
            work = bulkhead.call(asyncio.sleep, 0, 0)
            standing.waiting.append(asyncio.ensure_future(work))
            await turns()
            thread = threading.Thread(target=behind)
            thread.start()
            until(lambda: bulkhead.queued == 2)
        return thread

    standing.loop.run_until_complete(begin()).join()
    assert answers == [7]
    assert standing.goes_on() == [0]
    assert (bulkhead.active, bulkhead.queued) == (0, 0)


def test_a_coroutine_that_is_thrown_away_gives_its_permit_back() -> None:
    bulkhead = Bulkhead(1)

    @bulkhead
    async def work() -> None:
        await asyncio.Event().wait()

    coroutine = work()

    async def begin() -> None:
        coroutine.send(None)

    asyncio.run(begin())
    assert bulkhead.active == 1
    coroutine.close()
    gc.collect()
    assert bulkhead.active == 0


def test_what_telemetry_reads() -> None:
    bulkhead = Bulkhead(1, name="stock")
    with bulkhead:
        with pytest.raises(BulkheadFull):
            bulkhead.call(lambda: None)
        read = {
            (name.removeprefix("standfast."), labels.get("outcome")): value
            for name, value, labels in bulkhead.measures()
        }
    assert read == {
        ("resilience.calls", "admitted"): 1,
        ("resilience.calls", "rejected"): 1,
        ("bulkhead.active", None): 1,
        ("bulkhead.queued", None): 0,
        ("bulkhead.rejected", None): 1,
        ("bulkhead.limit", None): 1,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit=0"),
        ({"limit": 1, "queue": -1}, "queue=-1"),
        ({"limit": 1, "max_wait": -1}, "max_wait=-1"),
        ({"limit": 1, "queue": 3, "max_wait": 0}, "nobody would ever"),
    ],
)
def test_bad_options_are_refused_when_it_is_built(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Bulkhead(**options)
