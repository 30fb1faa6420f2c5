"""Bad luck, drawn from a seed: what happens to a request that has nothing wrong with it.

| fault | what the caller sees | what was done |
|---|---|---|
| error | status 500 | nothing |
| lost | a broken connection | everything |
| slow | a timeout | everything |
| late | a timeout | nothing yet: it happens later, maybe after its own undo |
"""

import asyncio
import random
from collections import Counter

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from standfast.branch_key import CORRELATION_HEADER

SHARES = {"error": 0.06, "lost": 0.05, "slow": 0.04, "late": 0.04}
PATIENCE = 1.0  # seconds; the saga's steps wait for this long


class Faults:
    """ASGI middleware. The same seed deals the same faults to the same calls for an order."""

    def __init__(self, app: ASGIApp, seed: int, tally: Counter[str]) -> None:
        self.app = app
        self.seed = seed
        self.tally = tally
        self.calls: Counter[str] = Counter()

    def draw(self, scope: Scope) -> tuple[str, float]:
        """The fault of this call ("" for none), and how long it lasts in seconds."""
        call = f"{scope['path']} {Headers(scope=scope).get(CORRELATION_HEADER)}"
        self.calls[call] += 1
        luck = random.Random(f"{self.seed} {call} {self.calls[call]}")
        (fault,) = luck.choices([*SHARES, ""], [*SHARES.values(), 1 - sum(SHARES.values())])
        return fault, PATIENCE * luck.uniform(1.05, 1.5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it has bad luck."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        fault, pause = self.draw(scope)
        self.tally[fault or "answered"] += 1
        if fault == "error":
            await JSONResponse({"error": "bad luck"}, 500)(scope, receive, send)
        elif fault == "lost":

            async def send_head_only(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)

            await self.app(scope, receive, send_head_only)  # the server then cuts the connection
        elif fault == "slow":
            answer: list[Message] = []

            async def hold(message: Message) -> None:
                answer.append(message)

            await self.app(scope, receive, hold)
            await asyncio.sleep(pause)
            for message in answer:
                await send(message)
        elif fault == "late":
            body = await _read(receive)  # before the caller hangs up
            await asyncio.sleep(pause)
            await self.app(scope, body, send)
        else:
            await self.app(scope, receive, send)


async def _read(receive: Receive) -> Receive:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    left = iter(messages)

    async def again() -> Message:
        return next(left, {"type": "http.disconnect"})

    return again
