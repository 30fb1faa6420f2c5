"""Rate limits and bulkheads in front of any ASGI application (FastAPI, Starlette, Quart …).

The header fields are those of draft-ietf-httpapi-ratelimit-headers, whose shape changed between
versions; `HeaderVersion` says which to send.
"""

from __future__ import annotations

import inspect
import json
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
limit=10, remaining=9, reset=30``. ``"draft-06"`` (also 03 to 05): three ``RateLimit-*`` fields.

Where the store is away, the fields that tell how things stand are left out."""

TRY_AGAIN_LATER = 1013
"""From the IANA registry of WebSocket close codes."""


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


class Check:
    """What a middleware or a dependency asks `limiter` about a request, and tells of the answer.

    The options, and their errors, are those of `RateLimitMiddleware`.
    """

    def __init__(
        self, limiter: RateLimiter, *, key: KeyOf, headers: HeaderVersion, cost: int
    ) -> None:
        if headers not in _EMITTERS:
            raise ConfigurationError(f"headers={headers!r}: choose one of {', '.join(_EMITTERS)}")
        if not callable(key):
            raise ConfigurationError(
                f"key={key!r}: give a function of the scope, such as client_address or "
                "by_header('X-API-Key')"
            )
        limiter.check_cost(cost)
        self._limiter = limiter
        self._key = key
        self._cost = cost
        self._emit = _EMITTERS[headers]
        # A quoted string of structured fields (RFC 9651) holds printable ASCII.
        self._name = "".join(c for c in limiter.name if " " <= c <= "~" and c not in '"\\')

    async def ask(self, scope: Scope) -> tuple[Decision, Headers] | None:
        """The decision, and the fields that tell of it; None where there is no limit."""
        found = self._key(scope)
        key = await found if inspect.isawaitable(found) else found
        if key is None:
            return None
        if not isinstance(key, str):
            raise ConfigurationError(
                f"{self._limiter!r}: its key function answered {key!r}: it must answer a text, or "
                "None for no limit"
            )
        decision = await self._limiter.check(key, self._cost)
        return decision, self._emit(self._name or "default", self._limiter.rate, decision)


class RateLimitMiddleware:
    """Answers 429 with ``Retry-After`` when `limiter` says no, before the application is called.

    `key` tells who is limited, from the request's scope: a text, or None for no limit; it may be
    ``async``. Every limited answer carries the rate-limit fields of `headers`. The body of a denial
    is problem details (RFC 9457). A WebSocket that is denied is closed before it is accepted.
    `cost` is what one request takes.

    Raises `ConfigurationError` for an unknown version of the fields, for a `cost` that can never
    pass, and at a request whose `key` answers neither a text nor None.
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
            return await _refuse(scope, receive, send, 429, decision.retry_after, fields)

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
            await _refuse(scope, receive, send, 503, wait, [])


def problem(status: Literal[429, 503], retry_after: float) -> tuple[bytes, Headers]:
    """The body and header fields of a refusal: ``Retry-After``, and problem details (RFC 9457).

    `retry_after` (seconds) is rounded up, to a second at least. Nothing of an error's text is told,
    which may name keys and services.
    """
    wait = _ceil(max(1.0, retry_after))
    told = {
        "type": "about:blank",
        "title": _TITLES[status],
        "status": status,
        "detail": f"Try again in {wait} s.",
    }
    body = json.dumps(told).encode()
    return body, [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(wait).encode()),
    ]


_TITLES = {429: "Too Many Requests", 503: "Service Unavailable"}


async def _refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: Literal[429, 503],
    retry_after: float,
    fields: Headers,
) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": _TITLES[status]})
        return
    body, headers = problem(status, retry_after)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *fields]})
    await send({"type": "http.response.body", "body": body})


def _draft_10(name: str, rate: Rate, decision: Decision) -> Headers:
    fields = [(b"ratelimit-policy", f'"{name}";q={rate.limit};w={_ceil(rate.window)}'.encode())]
    if decision.counted:
        left, reset = decision.remaining, _ceil(decision.reset_after)
        fields.append((b"ratelimit", f'"{name}";r={left};t={reset}'.encode()))
    return fields


def _draft_07(name: str, rate: Rate, decision: Decision) -> Headers:
    limit, left, reset = rate.limit, decision.remaining, _ceil(decision.reset_after)
    fields = [(b"ratelimit-policy", f"{limit};w={_ceil(rate.window)}".encode())]
    if decision.counted:
        fields.append((b"ratelimit", f"limit={limit}, remaining={left}, reset={reset}".encode()))
    return fields


def _draft_06(name: str, rate: Rate, decision: Decision) -> Headers:
    fields = [
        (b"ratelimit-policy", f"{rate.limit};w={_ceil(rate.window)}".encode()),
        (b"ratelimit-limit", str(rate.limit).encode()),
    ]
    if decision.counted:
        fields += [
            (b"ratelimit-remaining", str(decision.remaining).encode()),
            (b"ratelimit-reset", str(_ceil(decision.reset_after)).encode()),
        ]
    return fields


def _none(name: str, rate: Rate, decision: Decision) -> Headers:
    return []


_EMITTERS: dict[str, Callable[[str, Rate, Decision], Headers]] = {
    "draft-10": _draft_10,
    "draft-07": _draft_07,
    "draft-06": _draft_06,
    "none": _none,
}


def _ceil(value: float) -> int:
    return ceil(round(value, 6))  # 1800.0000000001 is no second more.
