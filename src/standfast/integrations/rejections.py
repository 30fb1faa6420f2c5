"""What the integrations of ASGI and of Starlette ask a limiter, and tell a client of limits."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from math import ceil
from typing import Any, Literal, TypeAlias

from standfast.checks import whole
from standfast.errors import ConfigurationError
from standfast.integrations.problems import Headers
from standfast.rates import Decision, Rate
from standfast.resilience.ratelimit import RateLimiter

Scope: TypeAlias = MutableMapping[str, Any]
KeyOf: TypeAlias = Callable[[Scope], "str | Awaitable[str | None] | None"]

HeaderVersion: TypeAlias = Literal["draft-10", "draft-07", "draft-06", "none"]
"""``"draft-10"`` (also 08 and 09): ``RateLimit: "api";r=9;t=30``. ``"draft-07"``: ``RateLimit:
limit=10, remaining=9, reset=30``. ``"draft-06"`` (also 03 to 05): three ``RateLimit-*`` fields.

Where the store is away, the fields that tell how things stand are left out."""

# From the IANA registry of WebSocket close codes.
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


class Check:
    """What a middleware or a dependency asks `limiter` about a request, and tells of the answer.

    The options, and their errors, are those of `RateLimitMiddleware`.
    """

    def __init__(
        self, limiter: RateLimiter, *, key: KeyOf, headers: HeaderVersion, cost: int
    ) -> None:
        if not isinstance(limiter, RateLimiter):
            raise ConfigurationError(f"limiter={limiter!r}: give a RateLimiter(…)")
        if headers not in _EMITTERS:
            raise ConfigurationError(f"headers={headers!r}: choose one of {', '.join(_EMITTERS)}")
        if not callable(key):
            raise ConfigurationError(
                f"key={key!r}: give a function of the scope, such as client_address or "
                "by_header('X-API-Key')"
            )
        limiter.check_cost(whole(cost, name="cost"))
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
