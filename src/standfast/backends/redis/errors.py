"""What the errors of Redis mean."""

from __future__ import annotations

from urllib.parse import urlsplit

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterCrossSlotError,
    ClusterError,
    NoPermissionError,
    RedisError,
)

from standfast.errors import ConfigurationError, StoreUnavailable

ERRORS: tuple[type[Exception], ...] = (RedisError, OSError)
"""What a call of the driver raises; TimeoutError is an OSError."""

_REFUSED = (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
)
_OF_A_CLUSTER = (ClusterError, ClusterCrossSlotError, AskError)  # MovedError is an AskError


def place_of(url: str) -> str:
    """Host and port, or path, of a Redis URL, for messages: nothing secret.

    Raises `ConfigurationError` for what is none.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        # Its text could hold a part of the password.
        raise ConfigurationError(
            "the Redis URL can't be read: write special characters of a password by their codes "
            "(%23 for #, %2F for /, %40 for @), and an IPv6 address in brackets"
        ) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError(
            f"scheme {parts.scheme!r}: a Redis URL begins with redis://, rediss:// or unix://"
        )
    return parts.path if parts.scheme == "unix" else f"{host or 'localhost'}:{port or 6379}"


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
    if isinstance(error, _OF_A_CLUSTER):
        return StoreUnavailable(
            f"Redis at {place} {what} ({error}): it belongs to a Redis Cluster, which isn't "
            "supported; use a Redis without cluster mode",
            for_good=True,
        )
    if is_demoted(error):
        return StoreUnavailable(
            f"Redis at {place} {what} ({error}): the address leads to a replica. During a failover "
            "that passes; else give the master's"
        )
    reason = str(error) or type(error).__name__
    return StoreUnavailable(f"Redis at {place} {what} ({reason}): check that it answers")
