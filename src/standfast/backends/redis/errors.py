"""What the errors of Redis mean."""

from __future__ import annotations

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
    RedisError,
)

from standfast.errors import StoreUnavailable

ERRORS: tuple[type[Exception], ...] = (RedisError, OSError)
"""What a call of the driver raises; TimeoutError is an OSError."""

_REFUSED = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)


def is_demoted(error: Exception) -> bool:
    """Whether the connection leads to a server that is no master any more.

    Such a server keeps its connections, so that they must be dropped: the address may lead to the
    new master by now, or soon.
    """
    # Older servers hide it in the text of an error of the script.
    return any(word in str(error) for word in ("READONLY", "read only replica", "MASTERDOWN"))


def unavailable(place: str, what: str, error: Exception) -> StoreUnavailable:
    """What a caller is told of an `error` of the driver."""
    if isinstance(error, _REFUSED):
        return StoreUnavailable(
            f"Redis at {place} {what} ({error}): check the user and password in its URL, and what "
            "that user may do",
            for_good=True,
        )
    if is_demoted(error):
        return StoreUnavailable(
            f"Redis at {place} {what} ({error}): the address leads to a replica. During a failover "
            "that passes; else give the master's"
        )
    reason = str(error) or type(error).__name__
    return StoreUnavailable(f"Redis at {place} {what} ({reason}): check that it answers")
