"""Blocks that end elsewhere than they began: in another task, thread, context or function."""

import asyncio
import contextlib
import contextvars
import gc
import threading

import pytest

from standfast.errors import CircuitOpen, TimedOut
from standfast.resilience import (
    AdaptiveBulkhead,
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    Timeout,
    remaining,
    within,
)

SOON = 0.03
# Longer than any of the deadlines here; what should be cancelled is by then.
LATER = 0.1
HANGS = 20.0


def fails_once():
    """A breaker that opens at its first failure."""
    return CircuitBreaker(consecutive_failures=1)


@pytest.fixture(params=["alone", "in a pipeline"])
def wrap(request):
    return (lambda policy: policy) if request.param == "alone" else Pipeline


def in_a_thread(function, *args):
    """Run it in a thread of its own, and raise what it raised."""
    raised = []

    def run():
        try:
            function(*args)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(HANGS)
    assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]


# -- async generators --------------------------------------------------------------------------


async def test_a_generator_that_the_loop_closes_leaves_no_deadline_behind(wrap):
    block = wrap(Timeout(SOON))

    async def stream():
        async with block:
            for number in range(9):
                yield number

    async for _ in stream():
        break  # the event loop closes it, in a task of its own
    gc.collect()
    await asyncio.sleep(LATER)
    assert remaining() is None
    assert asyncio.current_task().cancelling() == 0
    assert len(block._blocks) == 0


async def test_a_generator_that_waits_for_its_consumer_interrupts_nothing(wrap):
    block = wrap(Timeout(SOON))

    async def stream():
        async with block:
            yield 1
            await asyncio.Event().wait()

    generator = stream()
    assert await anext(generator) == 1
    assert remaining() is None, "the consumer has no part in it"
    await asyncio.sleep(LATER)
    async with asyncio.timeout(HANGS):
        with pytest.raises(TimedOut):
            await anext(generator)  # but its own work is
    assert asyncio.current_task().cancelling() == 0


async def test_a_generator_s_own_work_is_interrupted_on_time(wrap):
    block = wrap(Timeout(SOON))

    async def stream():
        async with block:
            await asyncio.Event().wait()
        yield 1

    async def through(generator):
        async for value in generator:
            yield value

    async with asyncio.timeout(HANGS):
        with pytest.raises(TimedOut):
            await anext(stream())
        with pytest.raises(TimedOut):
            await anext(through(stream()))
    assert asyncio.current_task().cancelling() == 0


async def test_behind_a_context_manager_it_guards_the_body(wrap):
    block = wrap(Timeout(SOON))

    @contextlib.asynccontextmanager
    async def guarded():
        async with block:
            yield

    async with asyncio.timeout(HANGS):
        with pytest.raises(TimedOut):
            async with guarded():
                assert 0 < remaining() <= SOON
                await asyncio.Event().wait()
    assert remaining() is None


@pytest.mark.parametrize("expired", [False, True])
async def test_a_fixture_torn_down_in_another_task_leaves_nothing(wrap, expired):
    block = wrap(Timeout(SOON))

    @contextlib.asynccontextmanager
    async def fixture():
        async with block:
            yield

    entered, go_on = asyncio.Event(), asyncio.Event()
    fixed = fixture()

    async def set_up():
        await fixed.__aenter__()
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await go_on.wait()

    task = asyncio.create_task(set_up())
    await entered.wait()
    if expired:
        await asyncio.wait([task], timeout=HANGS)
    await asyncio.create_task(fixed.__aexit__(None, None, None))
    go_on.set()
    await asyncio.wait([task], timeout=HANGS)
    assert task.done()
    await asyncio.sleep(LATER)
    assert len(block._blocks) == 0
    assert await Timeout(5).call(asyncio.sleep, 0, "fine") == "fine"


async def test_the_context_that_a_deadline_was_entered_in_is_free_of_it(wrap):
    block = wrap(Timeout(SOON))
    fixed = contextlib.asynccontextmanager(_fixture)(block)
    await fixed.__aenter__()
    assert remaining() is not None
    await asyncio.create_task(fixed.__aexit__(None, None, None))
    assert remaining() is None
    await asyncio.sleep(LATER)
    assert await Timeout(5).call(asyncio.sleep, 0, "fine") == "fine"


async def _fixture(block):
    async with block:
        yield


async def test_blocks_in_stacks_end_in_another_task(wrap):
    block = wrap(Timeout(SOON))
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(block)
    await asyncio.create_task(stack.aclose())
    await asyncio.sleep(LATER)
    assert remaining() is None
    assert len(block._blocks) == 0


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: Pipeline(Bulkhead(2), one)])
async def test_a_block_that_cannot_be_told_from_others_is_refused(wrap):
    policy = wrap(Timeout(HANGS))
    stacks = [contextlib.AsyncExitStack() for _ in range(2)]

    async def enter(stack):
        await stack.enter_async_context(policy)

    for stack in stacks:
        await asyncio.create_task(enter(stack))
    with pytest.raises(RuntimeError, match=r"which of 2 open blocks.*policy\.block\(\)"):
        await stacks[0].aclose()


async def test_a_block_of_its_own_may_end_anywhere():
    timeout = Timeout(SOON)
    one, other = timeout.block(), timeout.block()
    await one.__aenter__()
    await asyncio.create_task(other.__aenter__())
    await asyncio.create_task(one.__aexit__(None, None, None))
    await other.__aexit__(None, None, None)
    assert remaining() is None
    await asyncio.sleep(LATER)
    with pytest.raises(RuntimeError, match="once"):
        await one.__aexit__(None, None, None)


def test_a_deadline_within_left_in_another_context_leaves_nothing():
    def stream():
        with within(SOON):
            yield

    generator = stream()
    next(generator)
    contextvars.Context().run(generator.close)
    assert remaining() is None


async def test_left_on_another_loop_a_timer_finds_nothing():
    timeout = Timeout(SOON)
    await timeout.call(asyncio.sleep, 0)  # so that the block has a place in the queue
    block = timeout.block()
    await block.__aenter__()
    await asyncio.to_thread(asyncio.run, block.__aexit__(None, None, None))
    await asyncio.sleep(LATER)
    assert asyncio.current_task().cancelling() == 0
    assert remaining() is None


# -- permits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Bulkhead(5), lambda: AdaptiveBulkhead(5)])
def test_no_permit_is_lost_between_threads(wrap, make):
    bulkhead = make()
    policy = wrap(bulkhead)
    for _ in range(3):
        in_a_thread(policy.__enter__)
    assert bulkhead.active == 3
    for _ in range(3):
        policy.__exit__(None, None, None)
    assert bulkhead.active == 0


def test_a_dependency_whose_halves_run_in_two_threads_counts(wrap):
    breaker = fails_once()
    policy = wrap(breaker)

    @contextlib.contextmanager
    def dependency():
        with policy:
            yield

    fine, fails = dependency(), dependency()
    in_a_thread(fine.__enter__)
    in_a_thread(fails.__enter__)
    in_a_thread(fine.__exit__, None, None, None)
    assert (breaker.successes, breaker.failures) == (1, 0)
    in_a_thread(fails.__exit__, OSError, OSError("away"), None)
    assert (breaker.successes, breaker.failures) == (1, 1)
    with pytest.raises(CircuitOpen), policy:
        raise AssertionError("it is open")


async def test_a_breaker_counts_a_generator_that_the_loop_closes(wrap):
    breaker = fails_once()
    policy = wrap(breaker)

    async def stream():
        async with policy:
            yield 1

    async for _ in stream():
        break
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert breaker.ignored == 1, "closed early, it says nothing about the other side"


def test_two_adaptive_bulkheads_interleaved_are_each_measured_by_their_own_block():
    clock = iter(range(100))

    class Clock:
        now = monotonic = staticmethod(lambda: float(next(clock)))

    one, other = AdaptiveBulkhead(5, clock=Clock()), AdaptiveBulkhead(5, clock=Clock())
    took = {id(one): [], id(other): []}
    for bulkhead in (one, other):
        bulkhead._sample = took[id(bulkhead)].append
    first, second = one.block(), other.block()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert took[id(one)] < took[id(other)]
