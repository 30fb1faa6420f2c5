"""Databases by URL. Each backend is imported, with its driver, only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

from standfast.errors import ConfigurationError
from standfast.ports.database import Database


def open_database(url: str) -> Database:
    """The (unopened) database that `url` names. Raises `ConfigurationError`."""
    scheme = url.partition(":")[0] if ":" in url else ""
    if scheme == "memory":
        from standfast.backends.memory import MemoryDatabase

        return MemoryDatabase()
    if scheme == "sqlite":
        from standfast.backends.sqlite import SqliteDatabase

        return SqliteDatabase(url)
    if scheme in ("postgresql", "postgres"):
        try:
            from standfast.backends.postgres import PostgresDatabase
        except ImportError as error:
            raise ConfigurationError(
                "PostgreSQL needs a driver: pip install asyncpg, or install standfast with its "
                "extra `postgres`"
            ) from error
        return PostgresDatabase(url)
    what = f"no backend for {scheme!r} URLs" if scheme else "that is no database's URL"
    raise ConfigurationError(
        f"{what}: use sqlite:///shop.db, postgresql://user@host/name or memory://"
    )


def anew(database: Database) -> Database:
    """The same database, unopened, for a process that was forked from the one that has it open.

    Raises `ConfigurationError` for one that can't be opened by two processes.
    """
    make: Callable[[], Database] | None = getattr(database, "anew", None)
    if make is None:
        raise ConfigurationError(
            f"{database.url} was opened in the process that this one was forked from, and can't be "
            "opened in both: open it after the fork only, or start the process by spawn"
        )
    return make()
