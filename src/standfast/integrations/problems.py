"""Our errors as problem details (RFC 9457), for every integration that answers over HTTP.

Nothing of an error's text is told, which may name keys, services and addresses.
"""

from __future__ import annotations

import json
import logging
from math import ceil, isfinite
from typing import NamedTuple, TypeAlias

from standfast.errors import (
    CodecError,
    RateLimited,
    Refused,
    Rejected,
    SagaCompensated,
    SagaConflict,
    SagaNotFound,
    StoreFull,
    StoreUnavailable,
    TimedOut,
    Unreadable,
)

log = logging.getLogger("standfast.integrations")

Headers: TypeAlias = list[tuple[bytes, bytes]]

TITLES = {
    404: "Not Found",
    409: "Conflict",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

NOT_BY_ITSELF = 30.0
"""Seconds until one may ask again where somebody must do something first."""


class Problem(NamedTuple):
    """What a client is told. `retry_after` is in seconds; None tells of no time."""

    status: int
    detail: str
    retry_after: int | None = None

    def body(self) -> bytes:
        """The problem details, as JSON."""
        told = {
            "type": "about:blank",
            "title": TITLES[self.status],
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(told).encode()

    def headers(self, body: bytes) -> Headers:
        """The header fields that belong to `body`."""
        fields = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if self.retry_after is not None:
            fields.append((b"retry-after", str(self.retry_after).encode()))
        return fields


def later(status: int, retry_after: float | None) -> Problem:
    """That one may try again later: in `retry_after` seconds, rounded up.

    It is a second at least; None and infinity are a second too.
    """
    known = retry_after is not None and isfinite(retry_after)
    # 1800.0000000001 is no second more.
    wait = max(1, ceil(round(retry_after, 6))) if known else 1  # type: ignore[arg-type]
    return Problem(status, f"Try again in {wait} s.", wait)


def rejected(error: Rejected) -> Problem:
    """What a rejection is to a client."""
    return later(429 if isinstance(error, RateLimited) else 503, error.retry_after)


def problem_of(error: Exception) -> Problem | None:
    """What an error of ours is to a client; None where it is the server's own fault.

    That the database doesn't answer is logged here, for nobody else learns of it.
    """
    match error:
        case Rejected():
            return rejected(error)
        case SagaNotFound():
            return Problem(404, "There is no such saga.")
        case SagaConflict():
            return Problem(409, "The key belongs to a request that said something else.")
        case SagaCompensated():
            return Problem(409, "It couldn't be done: everything was undone.")
        case Refused():
            return Problem(409, "It was refused, and nothing was done.")
        case CodecError() if not isinstance(error, Unreadable):  # but the caller's own value
            return Problem(422, "A value doesn't have the form that is asked for.")
        case TimedOut():
            return Problem(504, "It took too long. Whether it was done isn't known.")
        case StoreUnavailable(for_good=False):
            log.warning("a request is answered with 503: %s", error)
            return later(503, None)
        case StoreUnavailable() | StoreFull():
            log.error("a request is answered with 503: %s", error)
            return later(503, NOT_BY_ITSELF)
    return None
