"""Databases by URL. Each backend is imported, with its driver, only when it is asked for."""

from __future__ import annotations

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
                "PostgreSQL needs a driver: pip install 'standfast[postgres]'"
            ) from error
        return PostgresDatabase(url)
    raise ConfigurationError(
        (f"no backend for {scheme!r} URLs" if scheme else "the database isn't named by a URL")
        + ": use sqlite:///shop.db, postgresql://user@host/name or memory://"
    )
