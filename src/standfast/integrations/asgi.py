"""Rate limits and bulkheads in front of any ASGI application (FastAPI, Starlette, Quart …).

The header fields are those of draft-ietf-httpapi-ratelimit-headers, whose shape changed between
versions; `HeaderVersion` says which to send.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from ipaddress import IPv6Address
from typing import Any, Literal, TypeAlias

from standfast.checks import provides, text
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, Rejected
from standfast.integrations.problems import TITLES, later
from standfast.integrations.problems import Headers as Headers
from standfast.integrations.rejections import TRY_AGAIN_LATER, Check
from standfast.integrations.rejections import HeaderVersion as HeaderVersion
from standfast.integrations.rejections import KeyOf as KeyOf
from standfast.integrations.rejections import Scope as Scope
from standfast.resilience.pipeline import Pipeline
from standfast.resilience.policy import Policy, stands_around_blocks
from standfast.resilience.ratelimit import RateLimiter

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def client_address(scope: Scope, *, ipv6_prefix: int = 64) -> str | None:
    """The key of the client's address, as the server sees it; None (no limit) if it has none.

    Of an IPv6 address the first `ipv6_prefix` bits count (1 to 128), for whoever has one address
    has the whole network; give others as ``key=partial(client_address, ipv6_prefix=56)``. An IPv4
    address that is written as IPv6 (``::ffff:192.0.2.1``) counts as what it is.

    Behind a proxy let the server put the real address there (uvicorn's ``--proxy-headers``).
    Raises `ConfigurationError` for another `ipv6_prefix`.
    """
    if not 1 <= ipv6_prefix <= 128:
        raise ConfigurationError(f"ipv6_prefix={ipv6_prefix!r}: give 1 to 128 bits")
    client = scope.get("client")
    if not client:
        return None
    host = client[0]
    return f"client:{_network(host, ipv6_prefix) if ':' in host else host}"


def _network(host: str, prefix: int) -> str:
    """An IPv6 address without what is behind the prefix; what is no address, as it is."""
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    rest = 128 - prefix
    return f"{IPv6Address(int(address) >> rest << rest)}/{prefix}"


def by_header(name: str) -> KeyOf:
    """Keys from a request header, such as an API key; requests without it, by their address.

    Only for a header that something in front has verified: who may invent values isn't limited.
    """
    wanted = text(name).lower().encode("latin-1")

    def key(scope: Scope) -> str | None:
        for field, value in scope["headers"]:
            if field == wanted:
                return f"{name.lower()}:{value.decode('latin-1')}"
        return client_address(scope)

    return key


class RateLimitMiddleware:
    """Answers 429 with ``Retry-After`` when `limiter` says no, before the application is called.

    `key` tells who is limited, from the request's scope: a text, or None for no limit; it may be
    ``async``. Every limited answer carries the rate-limit fields of `headers`. The body of a denial
    is problem details (RFC 9457). A WebSocket that is denied is closed before it is accepted.
    `cost` is what one request takes.

    Raises `ConfigurationError` for what is no `RateLimiter`, for an unknown version of the
    fields, for a `cost` that can never pass, and at a request whose `key` answers neither a text
    nor None.
    """

    def __init__(
        self,
        app: App,
        limiter: RateLimiter,
        *,
        key: KeyOf = client_address,
        headers: HeaderVersion = "draft-10",
        cost: int = 1,
    ) -> None:
        self.app = app
        self.limiter = limiter
        self._check = Check(limiter, key=key, headers=headers, cost=cost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        asked = await self._check.ask(scope)
        if asked is None:
            return await self.app(scope, receive, send)
        decision, fields = asked
        if not decision:
            return await _reject(scope, receive, send, 429, decision.retry_after, fields)

        async def send_with_fields(message: MutableMapping[str, Any]) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        return await self.app(scope, receive, send_with_fields)


class BulkheadMiddleware:
    """Answers 503 with ``Retry-After`` when `bulkhead` is full, before the application is called.

    The body is problem details (RFC 9457).

    `bulkhead` is an asynchronous context manager that can be entered many times at once and raises
    a `Rejected` on entry to say no: a `Bulkhead`, say. It is held until the response is complete.
    `retry_after` (seconds or text) is told when the rejection doesn't know one.

    Raises `ConfigurationError` for what can't be entered so, such as a `Retry`, and for a
    `retry_after` that is no duration.
    """

    def __init__(
        self, app: App, bulkhead: AbstractAsyncContextManager[Any], *, retry_after: Duration = 1.0
    ) -> None:
        # What can't stand around a block would be told at the first request only.
        for one in bulkhead.flat() if isinstance(bulkhead, Pipeline) else (bulkhead,):
            provides(one, "__aenter__", "__aexit__", name="bulkhead", instead="Bulkhead(…), or ")
            if isinstance(one, Policy) and not stands_around_blocks(one, "__aenter__"):
                raise ConfigurationError(
                    f"bulkhead={one!r}: give Bulkhead(…), or another policy that can stand around "
                    "a block"
                )
        self.app = app
        self.bulkhead = bulkhead
        self._retry_after = seconds(retry_after, name="retry_after", positive=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        entered = False
        try:
            async with AsyncExitStack() as held:
                await held.enter_async_context(self.bulkhead)
                entered = True

                async def send_and_leave(message: MutableMapping[str, Any]) -> None:
                    await send(message)
                    ended = message["type"] == "http.response.body"
                    if ended and not message.get("more_body"):
                        await held.aclose()  # what the application does after it is its own affair

                await self.app(scope, receive, send_and_leave)
        except Rejected as rejected:
            if entered:  # The application's own affair.
                raise
            wait = self._retry_after if rejected.retry_after is None else rejected.retry_after
            await _reject(scope, receive, send, 503, wait, [])


async def _reject(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: Literal[429, 503],
    retry_after: float,
    fields: Headers,
) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": TITLES[status]})
        return
    told = later(status, retry_after)
    body = told.body()
    headers = told.headers(body)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *fields]})
    await send({"type": "http.response.body", "body": body})
