"""Rate limits and bulkheads in front of any ASGI application (FastAPI, Starlette, Quart …).

The header fields are those of draft-ietf-httpapi-ratelimit-headers, whose shape changed between
versions; `HeaderVersion` says which to send.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from math import ceil
from typing import Any, Literal, TypeAlias

from standfast.errors import ConfigurationError, Rejected
from standfast.rates import Decision, Rate
from standfast.resilience.ratelimit import RateLimiter

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
KeyOf: TypeAlias = Callable[[Scope], "str | Awaitable[str | None] | None"]
Headers: TypeAlias = list[tuple[bytes, bytes]]

HeaderVersion: TypeAlias = Literal["draft-10", "draft-07", "draft-06", "none"]
"""``"draft-10"`` (also 08 and 09): ``RateLimit: "api";r=9;t=30``. ``"draft-07"``: ``RateLimit:
limit=10, remaining=9, reset=30``. ``"draft-06"`` (also 03 to 05): three ``RateLimit-*`` fields."""

# "Try Again Later", from the IANA registry of WebSocket close codes.
_TRY_AGAIN_LATER = 1013


def client_address(scope: Scope) -> str | None:
    """The key of the client's address, as the server sees it; None (no limit) if it has none.

    Behind a proxy let the server put the real address there (uvicorn's ``--proxy-headers``).
    """
    client = scope.get("client")
    return f"client:{client[0]}" if client else None


def by_header(name: str) -> KeyOf:
    """Keys from a request header, such as an API key; requests without it, by their address.

    Only for a header that something in front has verified: who may invent values isn't limited.
    """
    wanted = name.lower().encode("latin-1")

    def key(scope: Scope) -> str | None:
        for field, value in scope["headers"]:
            if field == wanted:
                return f"{name.lower()}:{value.decode('latin-1')}"
        return client_address(scope)

    return key


class RateLimitMiddleware:
    """Answers 429 with ``Retry-After`` when `limiter` says no, before the application is called.

    `key` tells who is limited, from the request's scope: a text, or None for no limit; it may be
    ``async``. Every limited answer carries the rate-limit fields of `headers`. A WebSocket that is
    denied is closed before it is accepted. `cost` is what one request takes.

    Raises `ConfigurationError` for an unknown version of the fields.
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
        if headers not in _EMITTERS:
            raise ConfigurationError(f"headers={headers!r}: choose one of {', '.join(_EMITTERS)}")
        self.app = app
        self.limiter = limiter
        self._key = key
        self._cost = cost
        self._emit = _EMITTERS[headers]
        # A quoted string of structured fields (RFC 9651) holds printable ASCII.
        self._name = "".join(c for c in limiter.name if " " <= c <= "~" and c not in '"\\')

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        found = self._key(scope)
        key = await found if inspect.isawaitable(found) else found
        if key is None:
            return await self.app(scope, receive, send)
        decision = await self.limiter.check(key, self._cost)
        fields = self._emit(self._name or "default", self.limiter.rate, decision)
        if not decision.allowed:
            return await _refuse(
                scope, receive, send, 429, "Too Many Requests", decision.retry_after, fields
            )

        async def send_with_fields(message: MutableMapping[str, Any]) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                message = {**message, "headers": [*message.get("headers", ()), *fields]}
            await send(message)

        return await self.app(scope, receive, send_with_fields)


class BulkheadMiddleware:
    """Answers 503 with ``Retry-After`` when `bulkhead` is full, before the application is called.

    `bulkhead` is an asynchronous context manager that can be entered many times at once and raises
    a `Rejected` on entry to say no: a `Bulkhead`, say. It is held until the response is complete.
    `retry_after` (seconds) is told when the rejection doesn't know one.
    """

    def __init__(
        self, app: App, bulkhead: AbstractAsyncContextManager[Any], *, retry_after: float = 1.0
    ) -> None:
        self.app = app
        self.bulkhead = bulkhead
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        entered = False
        try:
            async with self.bulkhead:
                entered = True
                await self.app(scope, receive, send)
        except Rejected as rejected:
            if entered:  # The application's own affair.
                raise
            wait = self._retry_after if rejected.retry_after is None else rejected.retry_after
            await _refuse(scope, receive, send, 503, "Service Unavailable", wait, [])


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    reason: str,
    retry_after: float,
    fields: Headers,
) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": reason})
        return
    body = reason.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", _whole(max(1.0, retry_after))),
        *fields,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _draft_10(name: str, rate: Rate, decision: Decision) -> Headers:
    return [
        (b"ratelimit-policy", f'"{name}";q={rate.limit};w={_ceil(rate.window)}'.encode()),
        (
            b"ratelimit",
            f'"{name}";r={decision.remaining};t={_ceil(decision.reset_after)}'.encode(),
        ),
    ]


def _draft_07(name: str, rate: Rate, decision: Decision) -> Headers:
    limit, remaining, reset = rate.limit, decision.remaining, _ceil(decision.reset_after)
    return [
        (b"ratelimit-policy", f"{limit};w={_ceil(rate.window)}".encode()),
        (b"ratelimit", f"limit={limit}, remaining={remaining}, reset={reset}".encode()),
    ]


def _draft_06(name: str, rate: Rate, decision: Decision) -> Headers:
    return [
        (b"ratelimit-policy", f"{rate.limit};w={_ceil(rate.window)}".encode()),
        (b"ratelimit-limit", str(rate.limit).encode()),
        (b"ratelimit-remaining", str(decision.remaining).encode()),
        (b"ratelimit-reset", _whole(decision.reset_after)),
    ]


def _none(name: str, rate: Rate, decision: Decision) -> Headers:
    return []


_EMITTERS: dict[str, Callable[[str, Rate, Decision], Headers]] = {
    "draft-10": _draft_10,
    "draft-07": _draft_07,
    "draft-06": _draft_06,
    "none": _none,
}


def _whole(value: float) -> bytes:
    return str(_ceil(value)).encode()


def _ceil(value: float) -> int:
    return ceil(round(value, 6))  # 1800.0000000001 is no second more.
