"""From what was typed to an app, and from an app to its open database."""

from __future__ import annotations

import importlib
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from standfast.app import Standfast
from standfast.errors import ConfigurationError, MigrationNeeded, StoreUnavailable
from standfast.ports.database import Database
from standfast.saga.operations import Operations


def is_url(target: str) -> bool:
    """Whether a database was named rather than an app."""
    return "://" in target


def load_app(target: str) -> Standfast:
    """The app at ``module:attribute`` or ``module:factory``, looked for in this folder first.

    Raises `ConfigurationError`, with what the module raised as its cause.
    """
    if is_url(target):
        raise ConfigurationError(
            f"APP={target!r}: a database's address isn't enough here, the code is needed: write "
            "module:attribute, such as shop:app"
        )
    module_name, colon, path = target.partition(":")
    if not (module_name and colon and path):
        raise ConfigurationError(f"APP={target!r}: write module:attribute, such as shop:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"APP={target!r}: there is no module {module_name!r} in {here} or among the "
                "installed packages"
            ) from error
        raise _broken(target, f"importing {module_name!r}", error) from error
    except Exception as error:  # anything may happen in a user's module
        raise _broken(target, f"importing {module_name!r}", error) from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise ConfigurationError(
                f"APP={target!r}: {module_name!r} has no {path!r}{_apps_in(module_name)}"
            ) from error
    if callable(found) and not isinstance(found, Standfast):
        try:
            found = found()
        except Exception as error:  # as above
            raise _broken(target, f"calling {path}()", error) from error
    if not isinstance(found, Standfast):
        raise ConfigurationError(
            f"APP={target!r} is a {type(found).__name__}, not a Standfast app or a function that "
            f"makes one{_apps_in(module_name)}"
        )
    return found


def _broken(target: str, act: str, error: Exception) -> ConfigurationError:
    said = " ".join(str(error).split())
    return ConfigurationError(
        f"APP={target!r}: {act} raised {type(error).__name__}: {said} (standfast --debug … shows "
        "where)"
    )


def _apps_in(module_name: str) -> str:
    names = [
        name
        for name, value in vars(sys.modules[module_name]).items()
        if isinstance(value, Standfast)
    ]
    return f"; it has {', '.join(f'{module_name}:{name}' for name in names)}" if names else ""


def load(target: str) -> Standfast:
    """The app at `target`; for a database's URL one without sagas, that can look and ask."""
    return Standfast(target, migrate=False) if is_url(target) else load_app(target)


def must_be_there(database: Database) -> None:
    """Raise for an SQLite file that opening would make anew, or turn into Standfast's.

    Raises `StoreUnavailable` if it isn't there, `MigrationNeeded` if it is somebody else's.
    """
    path = getattr(database, "path", None)
    if path is None or not database.url.startswith("sqlite:"):
        return
    if not Path(path).exists():
        raise StoreUnavailable(
            f"there is no database at {path}: check the name, or make it with `standfast migrate`"
        )
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as connection:
            ours = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'standfast_migrations'"
            ).fetchone()
    except sqlite3.Error:
        return  # opening it will say what is wrong with it
    if ours is None:
        raise MigrationNeeded(
            f"{database.url} is at migration 0, it has none of Standfast's tables: check the name, "
            "or run `standfast migrate`"
        )


def must_be_shared(database: Database) -> None:
    """Raise `ConfigurationError` for a database that lives inside one process."""
    if not database.capabilities.many_processes:
        raise ConfigurationError(
            f"{database.url} lives and dies with the process that opens it: there is nothing to "
            "see or do from outside"
        )


@asynccontextmanager
async def operating(app: Standfast) -> AsyncIterator[Operations]:
    """The operations on an app's database, which must be there and up to date: it isn't changed.

    Raises `StoreUnavailable` and `MigrationNeeded`.
    """
    database = app.database
    must_be_shared(database)
    must_be_there(database)
    await database.open()
    try:
        current = await database.schema_version()
        newest = max(migration.number for migration in database.migrations)
        if current < newest:
            raise MigrationNeeded(
                f"{database.url} is at migration {current}, this version needs {newest}: run "
                "`standfast migrate`"
            )
        yield Operations(app.sagas, database)
    finally:
        await database.close()
