"""What a resilience policy may stand around: the part of `PolicySuite` that says so."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from standfast.errors import ConfigurationError
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.policy import Policy


async def _nothing() -> AsyncIterator[int]:
    for number in range(0):
        yield number


class _Awaitable:
    def __await__(self) -> Iterator[None]:
        yield


_UNFINISHED: dict[str, Any] = {
    "generator": lambda: (one for one in range(0)),
    "async generator": _nothing,
    "awaitable": _Awaitable,
    "future": lambda: asyncio.get_running_loop().create_future(),
    "task": lambda: asyncio.ensure_future(asyncio.sleep(0)),
    "future of a thread": concurrent.futures.Future,
}


class PolicyUses:
    """What is decorated is taken for what it is, or refused with the reason."""

    make: ClassVar[Any]
    """Called without arguments, it gives a policy: a class, a partial or a staticmethod."""
    repeats: ClassVar[bool] = False
    """It may make a failed call again."""
    replaces: ClassVar[bool] = False
    """It may answer for a failed call."""
    keeps: ClassVar[bool] = False
    """It keeps answers on purpose."""
    takes_async: ClassVar[bool] = True
    """It stands around ``async def`` too. If not, it must refuse that with the reason."""

    @pytest.fixture
    def policy(self) -> Policy:
        """The policy under test."""
        policy: Policy = type(self).make()
        return policy

    def needs_async(self) -> None:
        """Skip the rest of a test, for a policy of plain functions only."""
        if not self.takes_async:
            pytest.skip("it is for plain functions only")

    def test_generators_are_refused(self, policy: Policy) -> None:
        """Plain and async, with a reason."""

        def generator() -> Iterator[int]:
            yield 1

        async def async_generator() -> Any:
            yield 1

        for function in (generator, async_generator):
            with pytest.raises(ConfigurationError, match="generator"):
                policy(function)
        with pytest.raises(ConfigurationError, match="can't be called"):
            policy(7)  # type: ignore[arg-type]

    def test_makers_of_context_managers_are_refused(self, policy: Policy) -> None:
        """What they answer with does its work when it is entered."""

        def opened() -> Iterator[int]:
            yield 1

        async def opened_async() -> AsyncIterator[int]:
            yield 1

        for maker in (
            contextlib.contextmanager(opened),
            contextlib.asynccontextmanager(opened_async),
        ):
            wrapped = functools.wraps(maker)(functools.partial(maker))
            for function in (maker, functools.partial(maker), wrapped):
                with pytest.raises(ConfigurationError, match="makes a context manager"):
                    policy(function)
            hidden = functools.wraps(maker)(lambda maker=maker: maker())
            for call in (policy.call, lambda function: policy(function)()):
                with pytest.raises(ConfigurationError, match="answered with a context manager"):
                    call(hidden)

    def test_classes_and_properties_are_refused(self, policy: Policy) -> None:
        """A policy around them would leave a function in their place."""

        class Client:
            pass

        with pytest.raises(ConfigurationError, match=r"Client is a class.*decorate its methods"):
            policy(Client)
        made: Any
        for made in (property(id), functools.cached_property(id), functools.partialmethod(id)):
            kind = type(made).__name__
            with pytest.raises(ConfigurationError, match=f"a {kind} can't be called.*around that"):
                policy(made)

    @pytest.mark.parametrize("answer", _UNFINISHED.values(), ids=_UNFINISHED)
    async def test_a_function_whose_answer_has_its_work_to_come_is_refused(
        self, policy: Policy, answer: Any
    ) -> None:
        """No policy could see it fail."""
        made = answer()
        for call in (policy.call, lambda function: policy(function)()):
            with pytest.raises(ConfigurationError, match="its work is still to come"):
                call(lambda: made)

    async def test_a_function_that_answers_with_a_coroutine_is_refused(
        self, policy: Policy
    ) -> None:
        """None of its work is done unprotected, decorated or called."""
        begun = 0

        async def work() -> None:
            nonlocal begun
            begun += 1

        def answers_later() -> Any:
            return work()

        for policy_of in (policy, Pipeline(policy)):
            with pytest.raises(ConfigurationError, match="answered with an awaitable"):
                policy_of.call(answers_later)
            with pytest.raises(ConfigurationError, match="answered with an awaitable"):
                policy_of(answers_later)()
        assert begun == 0

    async def test_static_methods_partials_and_objects_are_taken_for_what_they_are(
        self, policy: Policy
    ) -> None:
        """As `must_await` tells."""

        class Plain:
            def __call__(self, a: int = 7) -> int:
                return a

            @staticmethod
            def static() -> int:
                return 7

        class Awaited:
            async def __call__(self, a: int = 7) -> int:
                return a

        assert isinstance(policy(Plain.__dict__["static"]), staticmethod)
        for plain in (Plain(), functools.partial(Plain(), 7), Plain.static):
            assert policy.call(plain) == 7
        assert isinstance(policy.call(Plain), Plain)
        self.needs_async()
        for awaited in (Awaited(), functools.partial(Awaited(), 7)):
            assert await policy.call(awaited) == 7
        assert isinstance(policy.call(Awaited), Awaited)

    def test_async_functions_are_taken_or_refused(self, policy: Policy) -> None:
        """Never silently passed by."""

        async def awaited() -> None: ...

        if self.takes_async:
            policy(awaited)
        else:
            with pytest.raises(ConfigurationError, match="async"):
                policy(awaited)
