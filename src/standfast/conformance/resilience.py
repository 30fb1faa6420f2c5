"""What holds for every resilience policy, around ``def`` and ``async def``, as tests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from standfast.clock import SystemClock
from standfast.conformance.policy_uses import PolicyUses
from standfast.errors import Rejected
from standfast.resilience.bulkhead.threads import ThreadPoolBulkhead
from standfast.resilience.deadline import remaining
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.policy import Policy, stands_around_blocks
from standfast.resilience.telemetry import INSTRUMENTS

# Far more than anything here takes, and less than anybody wants to wait.
LONG = 30.0


class Unlisted(Exception):
    """An error that no policy knows of."""


# A cancelled call ends at once; this is for a busy machine.
SOON = 10.0


class HangsOnce:
    """An ``async def`` that hangs, but not when it is called again, so that nothing else does."""

    def __init__(self) -> None:
        self.called = False

    async def __call__(self) -> None:
        """Hang, or return."""
        again, self.called = self.called, True
        if not again:
            await asyncio.Event().wait()


class PolicySuite(PolicyUses):
    """Set `make`: it makes a policy that lets calls through and at least 50 run at once::

        class TestRetry(PolicySuite):
            make = Retry

    Nothing here may make the policy refuse, repeat or replace a call: calls succeed, or there are
    two failures at most, which it may repeat (`repeats`) or replace (`replaces`).
    """

    def needs_blocks(self, policy: Policy, enter: str) -> None:
        """Skip the rest of a test, for a policy that can't be entered so for each call."""
        policies = policy.flat() if isinstance(policy, Pipeline) else (policy,)
        for one in policies:
            if not stands_around_blocks(one, enter) or isinstance(one, ThreadPoolBulkhead):
                pytest.skip("it can't stand around blocks")

    # -- it is transparent -------------------------------------------------------------------

    async def test_arguments_and_answers_pass(self, policy: Policy) -> None:
        """Positional and by keyword, as decorator and by call, plain and async."""

        def plain(a: int, *rest: int, b: int = 0) -> object:
            return a, rest, b

        async def awaited(a: int, *rest: int, b: int = 0) -> object:
            await asyncio.sleep(0)
            return a, rest, b

        wanted = (1, (2, 3), 4)
        assert policy(plain)(1, 2, 3, b=4) == wanted
        assert policy.call(plain, 1, 2, 3, b=4) == wanted
        self.needs_async()
        assert await policy(awaited)(1, 2, 3, b=4) == wanted
        assert await policy.call(awaited, 1, 2, 3, b=4) == wanted
        assert await policy.call_async(lambda: awaited(1, 2, 3, b=4)) == wanted

    async def test_none_and_falsy_answers_pass(self, policy: Policy) -> None:
        """An answer is an answer."""
        answers: tuple[object, ...] = (None, 0, "", False, [])

        def plain(n: int) -> object:
            return answers[n]

        async def awaited(n: int) -> object:
            return answers[n]

        for n, answer in enumerate(answers):
            assert policy.call(plain, n) is answer
        self.needs_async()
        for n, answer in enumerate(answers):
            assert await policy.call(awaited, n) is answer

    def test_the_kind_of_function_is_kept(self, policy: Policy) -> None:
        """Name, docstring, signature, and whether it is ``async def``."""

        def plain(a: int) -> str:
            """Tells."""
            return str(a)

        async def awaited(a: int) -> str:
            """Tells."""
            return str(a)

        for function in (plain, awaited) if self.takes_async else (plain,):
            decorated = policy(function)
            assert decorated.__name__ == function.__name__
            assert decorated.__doc__ == "Tells."
            assert inspect.signature(decorated) == inspect.signature(function)
        assert not inspect.iscoroutinefunction(policy(plain))
        self.needs_async()
        assert inspect.iscoroutinefunction(policy(awaited))

    async def test_methods_can_be_decorated(self, policy: Policy) -> None:
        """`self` arrives."""

        class Client:
            def plain(self) -> Client:
                return self

            async def awaited(self) -> Client:
                return self

        Client.plain = policy(Client.plain)  # type: ignore[method-assign]
        client = Client()
        assert client.plain() is client
        self.needs_async()
        Client.awaited = policy(Client.awaited)  # type: ignore[method-assign]
        assert await client.awaited() is client

    async def test_the_error_of_the_call_comes_out_itself(self, policy: Policy) -> None:
        """Not wrapped, and without another error as its cause."""
        if self.replaces:
            pytest.skip("it answers for failures")
        raised: list[Unlisted] = []

        def fail() -> None:
            raised.append(Unlisted("plain"))
            raise raised[-1]

        async def fail_awaited() -> None:
            fail()

        with pytest.raises(Unlisted) as caught:
            policy.call(fail)
        assert caught.value is raised[-1]
        assert caught.value.__cause__ is None
        self.needs_async()
        with pytest.raises(Unlisted) as caught:
            await policy.call(fail_awaited)
        assert caught.value is raised[-1]
        assert caught.value.__cause__ is None
        if not self.repeats:
            assert len(raised) == 2

    async def test_a_rejection_is_not_repeated(self, policy: Policy) -> None:
        """What wasn't even tried is not tried again, unless a policy is told to."""
        if self.replaces:
            pytest.skip("it answers for failures")
        calls = 0

        def rejected() -> None:
            nonlocal calls
            calls += 1
            raise Rejected("no", retry_after=0.0)

        async def rejected_awaited() -> None:
            rejected()

        with pytest.raises(Rejected):
            policy.call(rejected)
        assert calls == 1
        self.needs_async()
        with pytest.raises(Rejected):
            await policy.call(rejected_awaited)
        assert calls == 2

    async def test_one_exception_object_may_be_raised_again_and_again(self, policy: Policy) -> None:
        """What a policy notes on it belongs to one call: the next one goes the same way."""
        if self.replaces:
            pytest.skip("it answers for failures")
        error, calls = Unlisted("shared"), 0

        def fail() -> None:
            nonlocal calls
            calls += 1
            raise error

        async def fail_awaited() -> None:
            fail()

        counted = []
        for _ in range(2):
            calls = 0
            with pytest.raises(Unlisted):
                policy.call(fail)
            counted.append(calls)
        assert counted[0] == counted[1]
        self.needs_async()
        policy = type(self).make()
        for _ in range(2):
            calls = 0
            with pytest.raises(Unlisted):
                await policy.call(fail_awaited)
            counted.append(calls)
        assert counted[2] == counted[3]

    def test_what_ends_the_program_passes_and_is_not_repeated(self, policy: Policy) -> None:
        """`KeyboardInterrupt` and the like are nobody's failures."""
        calls = 0

        def interrupted() -> None:
            nonlocal calls
            calls += 1
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            policy.call(interrupted)
        assert calls == 1
        assert policy.call(lambda: 7) == 7

    # -- it is shared ------------------------------------------------------------------------

    async def test_fifty_tasks_share_it(self, policy: Policy) -> None:
        """They run together, and each gets its own answer."""
        self.needs_async()

        together = asyncio.Barrier(50)

        async def meet(n: int) -> int:
            await together.wait()
            return n

        decorated = policy(meet)
        async with asyncio.timeout(LONG):
            answers = await asyncio.gather(*(decorated(n) for n in range(50)))
        assert answers == list(range(50))

    def test_threads_are_not_serialised(self, policy: Policy) -> None:
        """No lock is held across a call: four threads meet inside."""
        together = threading.Barrier(4, timeout=LONG)
        answers: list[int] = []

        def meet(n: int) -> int:
            together.wait()
            return n

        decorated = policy(meet)
        threads = [
            threading.Thread(target=lambda n=n: answers.append(decorated(n))) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a call hangs"
        assert sorted(answers) == [0, 1, 2, 3]

    def test_one_policy_serves_many_event_loops(self, policy: Policy) -> None:
        """One after another, and at once in several threads."""
        self.needs_async()

        async def answer() -> int:
            await asyncio.sleep(0.001)
            return 7

        decorated = policy(answer)
        assert [asyncio.run(decorated()) for _ in range(3)] == [7] * 3
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(asyncio.run(decorated())))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        assert answers == [7] * 4

    async def test_a_policy_inside_a_pipeline_behaves_the_same(self, policy: Policy) -> None:
        """Alone in it."""

        async def awaited(a: int) -> int:
            return a

        pipeline = Pipeline(policy, name="conformance")
        assert pipeline.call(lambda a: a, 7) == 7
        self.needs_async()
        assert await pipeline.call(awaited, 7) == 7

    async def test_calls_may_nest(self, policy: Policy) -> None:
        """A call under the policy may call something else under it."""

        async def outer() -> int:
            async def inner() -> int:
                return 7

            return await policy.call(inner)

        assert policy.call(lambda: policy.call(lambda: 7)) == 7
        self.needs_async()
        assert await policy.call(outer) == 7

    # -- blocks ------------------------------------------------------------------------------

    @pytest.mark.parametrize("wrap", [lambda policy: policy, Pipeline])
    async def test_a_block_may_end_in_another_task(self, policy: Policy, wrap: Any) -> None:
        """As one in a generator does that the event loop closes: nothing is left behind."""
        around = wrap(policy)
        self.needs_blocks(policy, "__aenter__")

        @contextlib.asynccontextmanager
        async def fixture() -> AsyncIterator[None]:
            async with around:
                yield

        async with asyncio.timeout(LONG):
            for _ in range(100):  # more than there is room for, if any of it were lost
                block = fixture()
                await block.__aenter__()
                await asyncio.create_task(block.__aexit__(None, None, None))
        assert remaining() is None

    @pytest.mark.parametrize("wrap", [lambda policy: policy, Pipeline])
    def test_a_block_may_end_in_another_thread(self, policy: Policy, wrap: Any) -> None:
        """As one does in a plain dependency of a web framework."""
        around = wrap(policy)
        self.needs_blocks(policy, "__enter__")

        @contextlib.contextmanager
        def dependency() -> Iterator[None]:
            with around:
                yield

        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            for _ in range(100):
                block = dependency()
                one.submit(block.__enter__).result(LONG)
                other.submit(block.__exit__, None, None, None).result(LONG)

    # -- cancellation ------------------------------------------------------------------------

    async def test_cancellation_arrives_once_and_passes(self, policy: Policy) -> None:
        """The call is cancelled where it waits, isn't repeated, and the caller sees it."""
        self.needs_async()

        started = asyncio.Event()
        calls = cancelled = 0

        async def hang() -> None:
            nonlocal calls, cancelled
            calls += 1
            started.set()
            if calls > 1:
                return  # made again, which is told below, instead of hanging
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise

        task = asyncio.create_task(policy.call(hang))
        async with asyncio.timeout(LONG):
            await started.wait()
        task.cancel()
        await asyncio.wait([task], timeout=SOON)
        assert task.done(), "the policy swallows the cancellation"
        assert task.cancelled()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (calls, cancelled) == (1, 1)

    async def test_a_hundred_cancelled_calls_cost_nothing(self, policy: Policy) -> None:
        """All capacity is there afterwards, and nothing has opened."""
        self.needs_async()

        for _ in range(10):
            tasks = [asyncio.create_task(policy.call_async(HangsOnce())) for _ in range(10)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=SOON)
            assert all(task.done() for task in tasks), "the policy swallows the cancellation"
            assert all(task.cancelled() for task in tasks)
        await self.test_fifty_tasks_share_it(policy)

    async def test_a_timeout_around_it_ends_it_on_time(self, policy: Policy) -> None:
        """``asyncio.timeout`` interrupts the call, and leaves no cancellation behind."""
        self.needs_async()

        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await policy.call_async(HangsOnce())
        assert 0.04 < time.monotonic() - began < LONG / 2
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    # -- time, memory, telemetry -------------------------------------------------------------

    async def test_the_system_clock_may_jump(
        self, policy: Policy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An hour back, a day forward: calls go through as before."""

        async def answer() -> int:
            return 7

        real = time.time
        jump = 0.0

        def jumped() -> float:
            return real() + jump

        monkeypatch.setattr(time, "time", jumped)
        monkeypatch.setattr(SystemClock, "now", staticmethod(jumped))
        for jump in (-3600.0, 86400.0):  # noqa: B007 - read by jumped()
            assert policy.call(lambda: 7) == 7
            if self.takes_async:
                assert await policy.call(answer) == 7

    async def test_calls_leave_nothing_behind(self, policy: Policy) -> None:
        """What was called with, and what came back, can be collected."""
        if self.keeps:
            pytest.skip("it keeps answers on purpose")

        class Thing:
            pass

        async def echo(thing: Thing) -> Thing:
            return Thing()

        thing = Thing()
        alive = weakref.ref(thing)
        answer = weakref.ref(await policy.call(echo, thing) if self.takes_async else Thing())
        answers = weakref.ref(policy.call(lambda _: Thing(), thing))
        del thing
        for _ in range(5):
            await asyncio.sleep(0)
        deadline = time.monotonic() + LONG  # a thread may still be on its way out
        while any(one() is not None for one in (alive, answer, answers)):
            gc.collect()
            assert time.monotonic() < deadline, "the policy holds on to arguments or answers"
            await asyncio.sleep(0.001)

    async def test_what_it_measures_is_declared(self, policy: Policy) -> None:
        """Each name has an instrument, each value is a number, each attribute is text."""

        async def answer() -> int:
            return 7

        policy.call(lambda: 7)
        if self.takes_async:
            await policy.call(answer)
        for name, value, attributes in policy.measures():
            assert name in INSTRUMENTS, name
            assert isinstance(value, (int, float))
            assert all(isinstance(one, str) for pair in attributes.items() for one in pair)

    def test_it_says_what_it_is(self, policy: Policy) -> None:
        """A kind for telemetry, a name, and a repr that shows the class."""
        assert policy.label
        assert isinstance(policy.name, str)  # type: ignore[attr-defined]
        assert type(policy).__name__ in repr(policy)
