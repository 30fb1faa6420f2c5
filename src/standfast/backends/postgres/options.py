"""Where the database is, and how to talk to it: the URL and its options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """Options of a `PostgresDatabase`; each may also be given in the URL's query.

    `min_size` and `max_size`: connections in the pool (one more listens, and up to two more keep
    the leases of a process that runs services, and ask for the time). `timeout`: the longest
    that one statement, or waiting for a connection, may take (seconds or text). `connect_timeout`:
    the longest that connecting may take. `idle_timeout`: the server ends a transaction whose client
    has been silent for this long, so that a stopped process doesn't hold its locks for ever.
    `statement_cache_size`: prepared statements kept per connection; give 0 behind pgbouncer in
    transaction mode.
    """

    min_size: int = 2
    max_size: int = 10
    timeout: Duration = 30.0
    connect_timeout: Duration = 10.0
    idle_timeout: Duration = 15.0
    statement_cache_size: int = 100

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "idle_timeout"):
            object.__setattr__(self, name, seconds(getattr(self, name), name=name))
        if self.max_size < 2:
            raise ConfigurationError(f"max_size={self.max_size!r}: must be 2 or more")
        if not 0 <= self.min_size <= self.max_size:
            raise ConfigurationError(
                f"min_size={self.min_size!r}: must be from 0 to max_size={self.max_size}"
            )
        if self.statement_cache_size < 0:
            raise ConfigurationError(
                f"statement_cache_size={self.statement_cache_size!r}: must be 0 or more"
            )

    @property
    def timeout_seconds(self) -> float:
        """`timeout` in seconds."""
        return seconds(self.timeout)

    @property
    def connect_seconds(self) -> float:
        """`connect_timeout` in seconds."""
        return seconds(self.connect_timeout)

    @property
    def idle_milliseconds(self) -> int:
        """`idle_timeout` in whole milliseconds, at least one."""
        return max(1, round(seconds(self.idle_timeout) * 1000))


_INTEGERS = ("min_size", "max_size", "statement_cache_size")
_DURATIONS = ("timeout", "connect_timeout", "idle_timeout")


def parse(url: str, options: PostgresOptions | None = None) -> tuple[str, PostgresOptions]:
    """The driver's own URL, and `options` with what the query of `url` says.

    Raises `ConfigurationError` for another scheme or a malformed option.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(
            "the PostgreSQL URL is malformed; write postgresql://user:password@host:5432/database, "
            "with special characters percent-encoded"
        ) from error
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"scheme {parts.scheme!r}: a PostgreSQL URL begins with postgresql://"
        )
    rest: list[tuple[str, str]] = []
    given: dict[str, int | str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _INTEGERS:
            try:
                given[name] = int(value)
            except ValueError as error:
                raise ConfigurationError(f"{name}={value!r}: must be a whole number") from error
        elif name in _DURATIONS:
            given[name] = _number_or_text(value)
        else:
            rest.append((name, value))
    found = replace(options or PostgresOptions(), **given)  # type: ignore[arg-type]
    return urlunsplit(parts._replace(query=urlencode(rest, quote_via=quote))), found


def _number_or_text(value: str) -> str:
    return f"{value}s" if value.replace(".", "", 1).isdigit() else value


def redact(url: str) -> str:
    """`url` with its password, wherever it stands, replaced by ``***``."""
    parts = urlsplit(url)
    netloc = parts.netloc
    login, at, host = netloc.rpartition("@")
    if at and ":" in login:
        netloc = f"{login.partition(':')[0]}:***@{host}"
    query = [
        (name, "***" if "password" in name.lower() else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/")))
