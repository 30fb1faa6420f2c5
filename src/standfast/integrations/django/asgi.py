"""The app open for as long as an ASGI server runs, for async views."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from standfast.integrations.django.current import app

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


def with_lifespan(application: Application, *, work: bool = False) -> Application:
    """An ASGI application that has the project's app open from the server's start to its end.

    So async views may ``await app.start(…)`` and wait for results; `work`: its services run in the
    server's process too. The server must speak the lifespan protocol, as uvicorn, hypercorn and
    granian do, and Daphne doesn't. Views that adopt transactions don't need it.
    """

    async def served(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        await receive()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(app.running() if work else app)
            except Exception as error:  # the server tells it, and ends
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    return served
