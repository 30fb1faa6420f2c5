"""Where the database is, and how to talk to it: the URL and its options."""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

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
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": (
        "any",
        "primary",
        "standby",
        "prefer-standby",
        "read-write",
        "read-only",
    ),
}
# What libpq or other drivers understand and asyncpg doesn't: it would ask the server for a setting
# of that name, and some of them are there for security.
_UNKNOWN = frozenset(
    {
        "channel_binding",
        "fallback_application_name",
        "gssencmode",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "replication",
        "require_auth",
        "requiressl",
        "ssl",
        "sslcompression",
        "sslsni",
        "tcp_user_timeout",
    }
)
_INSTEAD = {"ssl": "write sslmode=require", "hostaddr": "write the address as the host"}
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_OPTION = re.compile(r"[A-Za-z_][\w.]*")
_HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[^:\[\]]+)(?::(\d*))?")
_ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")

_WRITE = (
    "write postgresql://user:password@host:5432/database, and percent-encode special characters in "
    "user and password: # is %23, / is %2F, ? is %3F, @ is %40, [ is %5B, % is %25"
)


def parse(url: str, options: PostgresOptions | None = None) -> tuple[str, PostgresOptions]:
    """The driver's own URL, and `options` with what the query of `url` says.

    Raises `ConfigurationError` for another scheme, a malformed URL or option. No message holds what
    may be part of a password.
    """
    scheme, _, rest = url.partition(":")
    if scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "this isn't a PostgreSQL URL, which begins with postgresql://"
            + (f", not {scheme}:" if scheme.isalnum() and rest else "")
        )
    netloc, path, query = _split(url)
    login, _, hosts = netloc.rpartition("@")
    asked = parse_qsl(query, keep_blank_values=True)
    if (
        _ESCAPED.search(login)
        or set(login) & set("@[]")
        or "@" in path
        or ("@" in query and not login)
        or "#" in url
        or not all(_OPTION.fullmatch(name) for name, _ in asked)
    ):
        # What is in the wrong place may be a part of the password: it isn't shown.
        raise ConfigurationError(f"the PostgreSQL URL is malformed: {_WRITE}")
    if hosts:
        _check_hosts(hosts)
    kept: list[tuple[str, str]] = []
    given: dict[str, int | str] = {}
    for name, value in asked:
        if name in _INTEGERS:
            try:
                given[name] = int(value)
            except ValueError as error:
                raise ConfigurationError(f"{name}={value!r}: must be a whole number") from error
        elif name in _DURATIONS:
            given[name] = _number_or_text(value)
        else:
            _check(name, value)
            kept.append((name, value))
    if not netloc and os.environ.get("PGSERVICE") and not {"host", "service"} & set(dict(kept)):
        kept.append(("service", os.environ["PGSERVICE"]))
    found = replace(options or PostgresOptions(), **given)  # type: ignore[arg-type]
    return _joined(scheme, netloc, path, kept), found


def _split(url: str) -> tuple[str, str, str]:
    """What stands for login and hosts, the path, and the query."""
    rest, _, query = url.partition(":")[2].partition("?")
    if not rest.startswith("//"):
        return "", rest, query
    netloc, slash, path = rest[2:].partition("/")
    return netloc, slash + path, query


def _joined(scheme: str, netloc: str, path: str, query: Sequence[tuple[str, str]]) -> str:
    # With a path that names no database the driver would forget that of a service or PGDATABASE.
    path = "" if path == "/" else path
    told = f"?{urlencode(query, quote_via=quote)}" if query else ""
    return f"{scheme}://{netloc}{path}{told}"


def _check_hosts(hosts: str) -> None:
    for host in hosts.split(","):
        match = _HOST.fullmatch(host)
        port = match and match[2]
        if not match or (port is not None and not 0 < int(port or 0) < 65536):
            # A raw "/" or "?" in a password makes a part of it look like a host and its port.
            raise ConfigurationError(
                "the PostgreSQL URL is malformed: a host with its port isn't of the form name:5432 "
                f"or [::1]:5432, or several of these with commas between. {_WRITE}"
            )


def _check(name: str, value: str) -> None:
    if name in _UNKNOWN:
        raise ConfigurationError(
            f"{name} isn't an option of the driver, asyncpg: {_INSTEAD.get(name, 'leave it out')}"
        )
    choices = _CHOICES.get(name)
    if choices and value not in choices:
        raise ConfigurationError(f"{name}={value!r}: must be one of {', '.join(choices)}")
    if name == "port" and not all(one.isdigit() for one in value.split(",")):
        raise ConfigurationError(f"port={value!r}: must be a whole number, or one for each host")


def option_of(dsn: str, name: str) -> str:
    """The option of that name in the query of `dsn`, "" where there is none."""
    return dict(parse_qsl(_split(dsn)[2])).get(name, "")


def each_host(dsn: str) -> list[str]:
    """`dsn` once for each of the hosts that stand before its path, in their order."""
    netloc, path, query = _split(dsn)
    login, at, hosts = netloc.rpartition("@")
    options = parse_qsl(query, keep_blank_values=True)
    if "," not in hosts or option_of(dsn, "target_session_attrs") == "prefer-standby":
        return [dsn]
    scheme = dsn.partition(":")[0]
    return [_joined(scheme, login + at + host, path, options) for host in hosts.split(",")]


def check_surroundings(dsn: str) -> None:
    """Raise `ConfigurationError` for a file that `dsn` names and there isn't, or a service.

    The driver would tell no more than that a file is missing, or go to another server.
    """
    mode = option_of(dsn, "sslmode") or os.environ.get("PGSSLMODE", "")
    verified = mode in ("require", "verify-ca", "verify-full")
    for name in _FILES:
        variable = f"PG{name.upper()}"
        value = option_of(dsn, name) or (os.environ.get(variable, "") if verified else "")
        if value and not Path(value).is_file():
            raise ConfigurationError(
                f"{name}={value!r} (of the URL, or of {variable}): there is no such file, or it "
                "can't be read: give the path of one that this process can read"
            )
    service = option_of(dsn, "service")
    if service:
        _check_service(service)


def _check_service(name: str) -> None:
    file = Path(os.environ.get("PGSERVICEFILE") or Path.home() / ".pg_service.conf")
    known = configparser.ConfigParser()
    try:
        known.read(file)
        if known.has_section(name):
            known.items(name)
            return
    except configparser.Error:
        # Its own text would show a line of the file, which may hold a password.
        raise ConfigurationError(
            f"service={name!r}: {file} can't be read: each line is [name], key=value or a comment, "
            "and % is written %%"
        ) from None
    raise ConfigurationError(
        f"service={name!r}: {file} has no such service: add it there, or name another file in "
        "PGSERVICEFILE"
    )


def _number_or_text(value: str) -> str:
    return f"{value}s" if value.replace(".", "", 1).isdigit() else value


def redact(url: str) -> str:
    """`url` with its password, wherever it stands, replaced by ``***``."""
    netloc, path, query = _split(url)
    login, at, host = netloc.rpartition("@")
    if at and ":" in login:
        netloc = f"{login.partition(':')[0]}:***@{host}"
    shown = [
        (name, "***" if "password" in name.lower() else value)
        for name, value in parse_qsl(query, keep_blank_values=True)
    ]
    told = f"?{urlencode(shown, safe='*/')}" if shown else ""
    return f"{url.partition(':')[0]}://{netloc}{path}{told}"
