"""What the sagas under test act on: it remembers what was done, and answers as it was told to."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from standfast import Constant, Context, Retry, Saga, step

SOON = Retry(attempts=3, backoff=Constant(0.01))


@dataclass(frozen=True)
class Order:
    id: str
    amount: int = 1
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receipt:
    number: str
    amount: int


class World:
    """`log` has a word for each call that got to its end, in order; `calls` for each begun."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.calls: list[str] = []
        self.keys: dict[str, list[str]] = {}
        self._answers: dict[str, deque[Any]] = {}

    def will(self, name: str, *answers: Any) -> None:
        """The next calls of `name` raise, return or await these; after them, they return `name`."""
        self._answers[name] = deque(answers)

    async def act(self, name: str, ctx: Context | None = None) -> Any:
        self.calls.append(name)
        if ctx is not None:
            self.keys.setdefault(name, []).append(ctx.idempotency_key)
        answers = self._answers.get(name)
        answer = answers.popleft() if answers else name
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            answer = await answer()
        self.log.append(name)
        return answer


async def until(
    condition: Callable[[], Any] | Callable[[], Awaitable[Any]], within: float = 10
) -> None:
    """Wait until `condition()` (awaited if need be) is true; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        answer = condition()
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < end, "it didn't come to pass in time"
        await asyncio.sleep(0.01)


class Trip(Saga[Order]):
    """Three steps in a row, the last without an undo."""

    def __init__(self, world: World) -> None:
        self.world = world

    @step(retry=SOON, timeout="2s")
    async def reserve(self, order: Order, ctx: Context) -> str:
        return str(await self.world.act("reserve", ctx))

    @reserve.compensation(retry=SOON)
    async def release(self, order: Order, ctx: Context) -> None:
        await self.world.act("release", ctx)

    @step(retry=SOON, timeout=0.1)
    async def charge(self, order: Order, ctx: Context) -> Receipt:
        return Receipt(str(await self.world.act("charge", ctx)), order.amount)

    @charge.compensation(retry=SOON)
    async def refund(self, order: Order, ctx: Context) -> None:
        await self.world.act("refund", ctx)

    @step(retry=SOON, no_compensation="nothing to take back: it is a mere note")
    async def note(self, order: Order, ctx: Context) -> str:
        return f"{await self.world.act('note', ctx)} of {ctx.result(self.charge).number}"
