"""An `await` too few or too many is the author's mistake, told at once and not tried again."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from standfast import Context, Saga, sleep, step, wait
from standfast.errors import ConfigurationError
from standfast.resilience import Pipeline, Retry
from standfast.testing import run_saga


async def charge(calls: list[str] | None = None) -> str:
    if calls is not None:
        calls.append("charge")
    return "receipt"


class Returned(Saga[str]):
    @step(no_compensation="reads only")
    async def pay(self, order: str, ctx: Context) -> Any:
        return charge()


class Awaited(Saga[str]):
    @step(no_compensation="reads only")
    async def pay(self, order: str, ctx: Context) -> None:
        await sleep("1s")  # type: ignore[misc]


class AwaitedWait(Saga[str]):
    @step(no_compensation="reads only")
    async def pay(self, order: str, ctx: Context) -> None:
        await wait("approved")  # type: ignore[misc]


class ReturnedStep(Saga[str]):
    @step(no_compensation="reads only")
    async def pay(self, order: str, ctx: Context) -> Any:
        return sleep("1s")


class Transacted(Saga[str]):
    @step(transactional=True, no_compensation="reads only")
    async def pay(self, order: str, ctx: Context, tx: Any) -> Any:
        return charge()


@pytest.mark.parametrize(
    ("saga", "cause"),
    [
        (Returned(), r"step 'pay' returned a coroutine .* `return await …`"),
        (Transacted(), r"step 'pay' returned a coroutine .* `return await …`"),
        (ReturnedStep(), r"step 'pay' returned sleep\('1s'\) that nobody awaits"),
        (Awaited(), r"sleep\('1s'\) is awaited, but it is a step itself.*asyncio\.sleep"),
        (AwaitedWait(), r"wait\('approved'\) is awaited, .* approval = wait\('approved'\)"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Saga) else "",
)
def test_it_fails_the_step_at_once(saga: Saga[str], cause: str) -> None:
    run = run_saga(saga, "1")
    assert run.status == "compensated"
    assert re.search(cause, run.cause), run.cause
    assert len(run.calls) == 1


class Unreleased(Saga[str]):
    @step
    async def pay(self, order: str, ctx: Context) -> None:
        raise RuntimeError("lost")

    @pay.compensation
    async def release(self, order: str, ctx: Context) -> Any:
        return charge()


def test_an_undo_that_nobody_awaited_is_not_taken_as_done() -> None:
    run = run_saga(Unreleased(), "1", raises={"pay": RuntimeError})
    assert run.status == "compensation_failed"
    assert "the compensation of step 'pay' returned a coroutine that nobody awaits" in run.cause
    assert run.trace.count("undo pay") == 1


@pytest.mark.parametrize("policy", [Retry(), Pipeline(Retry())], ids=["retry", "pipeline"])
def test_a_policy_is_given_a_function_and_no_coroutine(policy: Any) -> None:
    calls: list[str] = []
    with pytest.raises(ConfigurationError, match=r"charge\(…\) was called already"):
        asyncio.run(policy.call_async(charge(calls)))
    with pytest.raises(ConfigurationError, match=r"charge\(…\) was called already"):
        policy.call(charge(calls))
    with pytest.raises(ConfigurationError, match="7 can't be called: give a function"):
        asyncio.run(policy.call_async(7))
    assert not calls
