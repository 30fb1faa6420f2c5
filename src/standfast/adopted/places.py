"""Whether a transaction is of the app's own database, where that can be told without asking it."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from standfast.errors import ConfigurationError
from standfast.ports.database import Database

_MOVES = frozenset(
    {
        *("host", "hostaddr", "port", "dbname", "database", "service", "servicefile"),
        "target_session_attrs",
    }
)
"""The options of an address with which it leads elsewhere than to its host, port and path."""


def check_file(database: Database, path: str) -> None:
    """Raise `ConfigurationError` unless `path` ("" for one in memory) is the app's SQLite file."""
    own: Any = getattr(database, "path", None)
    if own is None or (path and _same_file(str(own), path)):
        return
    raise ConfigurationError(
        f"adopt(…): the transaction is of {path or 'a database in memory'}, and the app keeps its "
        f"data in {own}: adopt one of the app's own database"
    )


def _same_file(one: str, other: str) -> bool:
    if one == other:  # as mostly, and then the disk needn't be asked
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def check_server(database: Database, host: Any, port: Any, name: Any) -> None:
    """Raise `ConfigurationError` if the transaction is surely of another PostgreSQL database.

    That is where host and port are those of the app's address, and the name differs: at another
    address may be the same database too, behind a pooler say.
    """
    expected = _if_another(database.url, host, port, name)
    if expected:
        raise ConfigurationError(
            f"adopt(…): the transaction is of the database {name!r}, and the app keeps its data in "
            f"{expected!r} of the same server: adopt one of the app's own database"
        )


@lru_cache(maxsize=64)
def _if_another(url: str, host: Any, port: Any, name: Any) -> str:
    """The name of the database at `url`, if it is another of the same server; else ""."""
    own = urlsplit(url)
    expected = unquote(own.path.lstrip("/"))
    if not (host and name and expected) or _MOVES.intersection(dict(parse_qsl(own.query))):
        return ""
    try:
        is_there = (own.hostname, own.port or 5432) == (host, int(port or 5432))
    except ValueError:  # several hosts
        return ""
    return expected if is_there and expected != name else ""
