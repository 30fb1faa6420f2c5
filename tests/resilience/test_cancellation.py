"""Policies take for a cancellation what is one, and not a request that nobody took back.

Before Python 3.13 a `TaskGroup` whose task fails while it waits leaves its own request behind.
"""

import asyncio
import contextlib
import time

import pytest

from standfast.errors import TimedOut
from standfast.resilience import Constant, Hedge, Pipeline, Retry, Timeout

# Far more than anything here takes.
WITHIN = 20.0


class Bad(Exception):
    pass


async def fail(error: type[Exception] = Bad) -> None:
    await asyncio.sleep(0)
    raise error


async def group_fails() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


async def group_fails_in_its_block() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await asyncio.sleep(WITHIN)


async def groups_fail() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0.001))
        async with asyncio.TaskGroup() as inner:
            inner.create_task(group_fails())


async def group_is_answered_for() -> None:
    with contextlib.suppress(ExceptionGroup):
        await group_fails()


async def fails_after_a_group() -> None:
    await group_is_answered_for()
    raise Bad


async def group_becomes_another_error() -> None:
    try:
        await group_fails()
    except ExceptionGroup as error:
        raise Bad from error


async def times_out_after_a_group() -> None:
    await group_is_answered_for()
    async with asyncio.timeout(0.001):
        await asyncio.sleep(WITHIN)


async def swallows_its_own_request() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    raise Bad


FAILURES = [
    group_fails,
    group_fails_in_its_block,
    groups_fail,
    fails_after_a_group,
    group_becomes_another_error,
    times_out_after_a_group,
    swallows_its_own_request,
]


@pytest.fixture(params=["decorated", "call", "block"])
def run(request):
    """Runs a function under a retry, in each of the ways that await."""

    async def run(policy, function):
        if request.param == "decorated":
            return await policy(function)()
        if request.param == "call":
            return await policy.call(function)
        async for attempt in policy:
            with attempt:
                return await function()
        raise AssertionError("the loop ended without an answer")

    return run


def counted(function):
    async def call():
        call.count += 1
        return await function()

    call.count = 0
    return call


def policy(**options) -> Retry:
    return Retry(attempts=3, backoff=Constant(0), on=(Exception,), **options)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_request_that_is_over_ends_no_retry(run, failure):
    call = counted(failure)
    with pytest.raises(Exception) as caught:
        await run(policy(), call)
    assert call.count == 3
    assert "attempt 3" in caught.value.__notes__[0]


async def cancelled(work, has_begun=lambda: True) -> asyncio.Task:
    """The task of `work`, cancelled while it waits, and ended."""
    task = asyncio.create_task(work)
    while not has_begun():
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task], timeout=WITHIN)
    assert task.done(), "the cancellation is swallowed"
    return task


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("where", ["block", "group"])
async def test_a_cancellation_in_which_a_group_fails_ends_the_retry(run, where, before):
    async def fails_at_the_end():
        try:
            await asyncio.sleep(WITHIN)
        finally:
            await fail()

    async def work():
        if before and work.count == 1:
            await group_fails()
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_at_the_end())
            if where == "block":
                await asyncio.sleep(WITHIN)

    work = counted(work)
    task = await cancelled(run(policy(), work), lambda: work.count == 1 + before)
    assert task.cancelled() or isinstance(task.exception(), ExceptionGroup)
    assert work.count == 1 + before


async def test_a_cancellation_while_a_failed_group_waits_for_the_others_ends_the_retry(run):
    async def slow_to_end():
        try:
            await asyncio.sleep(WITHIN)
        finally:
            await asyncio.sleep(0.05)

    async def work():
        async with asyncio.TaskGroup() as group:
            group.create_task(slow_to_end())
            group.create_task(fail())

    work = counted(work)
    task = await cancelled(run(policy(), work))
    assert task.cancelled() or isinstance(task.exception(), ExceptionGroup)
    assert work.count == 1


async def test_a_cancellation_that_is_still_to_be_delivered_ends_the_retry(run):
    async def work():
        task = asyncio.current_task()
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
        task.cancel()  # as a `TaskGroup` hands on what it put off
        raise Bad

    work = counted(work)
    task = asyncio.create_task(run(policy(), work))
    await asyncio.wait([task], timeout=WITHIN)
    assert task.cancelled()
    assert work.count == 1


@pytest.mark.parametrize("kind", ["block", "call", "retried", "hedged"])
async def test_a_timeout_after_a_group_failed_is_one(kind):
    async def work():
        await group_is_answered_for()
        await asyncio.sleep(WITHIN)

    work = counted(work)
    timeout = Timeout("200ms" if kind == "hedged" else "20ms")
    for _ in range(2):  # used again, its timer stands in a queue
        work.count = 0
        with pytest.raises(TimedOut, match=r"not done after 0\.0?2s"):
            if kind == "block":
                async with timeout:
                    await work()
            elif kind == "call":
                await timeout.call(work)
            elif kind == "retried":
                await Pipeline(policy(), timeout).call(work)
            else:
                await Pipeline(timeout, Hedge("15ms", most=1)).call(work)
        assert work.count == {"retried": 3, "hedged": 2}.get(kind, 1)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("ends", ["by itself", "anew", "as it was"])
async def test_a_timeout_in_the_cleanup_after_a_cancellation_doesnt_hide_it(group, ends):
    async def work():
        async with Timeout("300ms"):
            if group:
                await group_is_answered_for()
            try:
                await asyncio.sleep(WITHIN)
            except asyncio.CancelledError:
                if ends == "by itself":
                    await asyncio.sleep(WITHIN)
                elif ends == "anew":
                    try:
                        await asyncio.sleep(WITHIN)
                    except asyncio.CancelledError:
                        raise asyncio.CancelledError from None
                else:
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(WITHIN)
                    raise

    assert (await cancelled(work())).cancelled()


@pytest.mark.parametrize("first", ["timeout", "caller"])
async def test_a_cancellation_in_the_turn_in_which_the_time_is_up_stays_one(first):
    task = None

    async def work():
        await group_is_answered_for()
        loop = asyncio.get_running_loop()
        if first == "caller":
            loop.call_later(0.02, task.cancel)
        async with Timeout("20ms"):
            await group_is_answered_for()
            if first == "timeout":
                loop.call_later(0.02, task.cancel)
            loop.call_later(0.01, time.sleep, 0.03)  # both are due at once
            await asyncio.sleep(WITHIN)

    task = asyncio.create_task(work())
    await asyncio.wait([task], timeout=WITHIN)
    assert task.cancelled()
