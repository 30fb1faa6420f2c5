"""Transactions that somebody else opened, as an app's own: what `Standfast.adopt` takes.

A driver has a module here, which is imported when something of it is adopted. Its function `adopt`
makes of a session or connection a `StoreTransaction` that rides what is open there, and the
`Ending` by which one learns of its commit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from standfast.errors import ConfigurationError
from standfast.ports.database import Database, StoreTransaction
from standfast.text import class_of
from standfast.transaction import Ending

DRIVERS: Mapping[str, str] = {
    "sqlalchemy": "standfast.adopted.sqlalchemy",
    "asyncpg": "standfast.adopted.asyncpg",
    "psycopg": "standfast.adopted.psycopg",
    "sqlite3": "standfast.adopted.sqlite",
    "aiosqlite": "standfast.adopted.aiosqlite",
}
"""By the package in which the class of what is adopted is defined, or one that it inherits from."""

KNOWN = (
    "an SQLAlchemy Session, AsyncSession, Connection or AsyncConnection; a connection of asyncpg, "
    "psycopg 3, sqlite3 or aiosqlite; or, where Django is set up, the alias of a database of its"
)


class AdoptedTransaction(StoreTransaction, Protocol):
    """A `StoreTransaction` on what somebody else opened."""

    @property
    def blocking(self) -> bool:
        """Whether its methods never wait for an event loop, so that sync code may `step` them."""
        ...


Adopt: TypeAlias = Callable[[Any, Database], tuple[AdoptedTransaction, Ending]]


class CommitsAsync(Protocol):
    """What async code commits: a session or connection of SQLAlchemy, psycopg or aiosqlite."""

    def commit(self) -> Awaitable[None]:
        """Commit."""
        ...


class KnowsItsTransaction(Protocol):
    """A connection of asyncpg."""

    def is_in_transaction(self) -> bool:
        """Whether one is open."""
        ...


class CommitsBlocking(Protocol):
    """What sync code commits: a session or connection of SQLAlchemy, psycopg or ``sqlite3``."""

    def commit(self) -> None:
        """Commit."""
        ...


def adopted(source: Any, database: Database) -> tuple[AdoptedTransaction, Ending]:
    """The transaction that is open in `source`, and its end. Raises `ConfigurationError`."""
    store, ending = _adopt_of(source)(source, database)
    if store.dialect != database.dialect:
        raise ConfigurationError(
            f"adopt({class_of(source)}): this is a transaction of {store.dialect}, and the app "
            f"keeps its data in {database.url}: adopt one of the app's own database"
        )
    return store, ending


def _adopt_of(source: Any) -> Adopt:
    """The function `adopt` of the driver that `source` is of. Raises `ConfigurationError`."""
    if isinstance(source, str) and _has_django():
        return _function("standfast.adopted.django")
    kind: Any = type(source)
    found = _adopt_for(kind)
    if found is not None:
        return found
    if source == "":
        raise ConfigurationError(
            "adopt() without a source is for programs of Django's, and Django isn't set up here: "
            f"give {KNOWN}"
        )
    shown = repr(source) if source is None or isinstance(source, str) else class_of(source)
    package = type(source).__module__.partition(".")[0]
    if package == "psycopg2":
        raise ConfigurationError(
            f"adopt({shown} of psycopg2): can't be adopted: adopt the session of SQLAlchemy or the "
            "alias of Django that it belongs to, or a connection of psycopg 3"
        )
    origin = "" if package in ("builtins", "__main__") else f" of {package}"
    raise ConfigurationError(f"adopt({shown}{origin}): can't be adopted: give {KNOWN}")


@lru_cache(maxsize=256)
def _adopt_for(kind: Any) -> Adopt | None:
    for ancestor in kind.__mro__:
        home = DRIVERS.get(ancestor.__module__.partition(".")[0])
        if home is not None:
            return _function(home)
    return None


def _function(module: str) -> Adopt:
    found: Adopt = import_module(module).adopt
    return found


def _has_django() -> bool:
    """Whether this is a program of Django's, so that text is an alias."""
    if "DJANGO_SETTINGS_MODULE" in os.environ:
        return True
    conf: Any = sys.modules.get("django.conf")
    return conf is not None and bool(conf.settings.configured)
