"""From what was typed to an app, and from an app to its open database.

Nothing of the library is imported before it is needed, so that ``--help`` comes at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from standfast.errors import ConfigurationError, MigrationNeeded, StoreUnavailable
from standfast.text import class_name, class_of, told

if TYPE_CHECKING:
    from standfast.app import Standfast
    from standfast.ports.database import Database
    from standfast.saga.operations import Operations

T = TypeVar("T")


def is_url(target: str) -> bool:
    """Whether a database was named rather than an app."""
    return "://" in target


def load_app(target: str) -> Standfast:
    """The app at ``module:attribute`` or ``module:factory``, looked for in this folder first.

    To be called while no event loop runs: the module may run one of its own.

    Raises `ConfigurationError`, with what the module raised as its cause.
    """
    from standfast.app import Standfast

    if is_url(target):
        raise ConfigurationError(
            # Not shown, for it may hold a password.
            "APP: a database's address isn't enough here, the code is needed: write "
            "module:attribute, such as shop:app"
        )
    module_name, colon, path = target.partition(":")
    if _is_path(target):
        raise ConfigurationError(f"APP={target!r} is a path: {_instead_of_path(target)}")
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
    except SystemExit as error:
        raise ConfigurationError(
            f"APP={target!r}: importing {module_name!r} ended the program (SystemExit: {error}): "
            'put what it does as a program under `if __name__ == "__main__":`'
        ) from error
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
            f"APP={target!r} is {class_of(found)}, not a Standfast app or a function that "
            f"makes one{_apps_in(module_name)}"
        )
    return found


def _is_path(target: str) -> bool:
    """Whether a file was named rather than a module."""
    return "/" in target or "\\" in target or target.partition(":")[0].endswith(".py")


def _instead_of_path(target: str) -> str:
    """What to write for the module in that file."""
    file, colon, attribute = target.replace("\\", "/").rpartition(":")
    if not colon:
        file, attribute = target.replace("\\", "/"), "app"
    path = Path(file).absolute()
    module = path.with_suffix("") if path.suffix == ".py" else path
    if not (colon or module.with_suffix(".py").exists()):  # it may be anything
        return "write module:attribute, such as shop:app"
    if module.name == "__init__":
        module = module.parent
    here = Path.cwd()
    if module.is_relative_to(here):
        return f"write {'.'.join(module.relative_to(here).parts)}:{attribute or 'app'}"
    return f"write {module.name}:{attribute or 'app'}, in the folder {module.parent}"


def _broken(target: str, act: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"APP={target!r}: {act} raised {class_name(error)}: {told(error)} (standfast --debug … "
        "shows where)"
    )


def _apps_in(module_name: str) -> str:
    from standfast.app import Standfast

    names = [
        name
        for name, value in vars(sys.modules[module_name]).items()
        if isinstance(value, Standfast)
    ]
    return f"; it has {', '.join(f'{module_name}:{name}' for name in names)}" if names else ""


def load(target: str) -> Standfast:
    """The app at `target`; for a database's URL one without patterns, that can look and ask."""
    from standfast.app import Standfast

    return Standfast(target, migrate=False) if is_url(target) else load_app(target)


def is_absent(database: Database) -> bool:
    """Whether it is an SQLite file that isn't there yet."""
    path = _file_of(database)
    return path is not None and not Path(path).exists()


def is_foreign(database: Database) -> bool:
    """Whether it is an SQLite file without tables of Standfast's: opening it would change it.

    Raises `StoreUnavailable` and `CorruptRecord` where it can't be read.
    """
    path = _file_of(database)
    if path is None:
        return False
    from standfast.backends.sqlite.schema import is_standfast

    return not is_standfast(path)


def _file_of(database: Database) -> str | None:
    path: str | None = getattr(database, "path", None)
    return path if database.dialect == "sqlite" else None


def must_be_there(database: Database) -> None:
    """Raise for an SQLite file that opening would make anew, or turn into Standfast's.

    Raises `StoreUnavailable` if it isn't there, `MigrationNeeded` if it is somebody else's.
    """
    if is_absent(database):
        raise StoreUnavailable(
            f"there is no database at {_file_of(database)}: check the name, or make it with "
            "`standfast migrate`"
        )
    if is_foreign(database):
        raise MigrationNeeded(
            f"{database.url} has none of Standfast's tables: check the name, or make them with "
            "`standfast migrate`"
        )


def must_be_shared(database: Database) -> None:
    """Raise `ConfigurationError` for a database that lives inside one process."""
    if not database.capabilities.many_processes:
        raise ConfigurationError(
            f"{database.url} lives and dies with the process that opens it: there is nothing to "
            "see or do from outside, so use sqlite:///… or postgresql://…"
        )


@asynccontextmanager
async def reading(database: Database, ports: Sequence[type]) -> AsyncIterator[Database]:
    """A database, open, that has the tables of these ports. It isn't changed.

    Raises `ConfigurationError`, `StoreUnavailable` and `MigrationNeeded`.
    """
    from standfast.tables import status_of

    must_be_shared(database)
    must_be_there(database)
    await database.open()
    try:
        missing = [one for one in await status_of(database, ports) if not one.is_complete]
        if missing:
            told = ", ".join(
                f"{one.line.name} is at {one.applied}, this version needs {one.line.newest}"
                for one in missing
            )
            named = " ".join(f"--line {one.line.name}" for one in missing)
            raise MigrationNeeded(
                f"{database.url} lacks migrations ({told}): run `standfast migrate` with an app "
                f"that brings them, or with the URL and {named}"
            )
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened(app: Standfast) -> AsyncIterator[Standfast]:
    """An app, open, on a database that has the tables of its patterns. It is never migrated.

    Raises as `reading`.
    """
    app.migrate = False
    async with reading(app.database, app.patterns.ports), app:
        yield app


@asynccontextmanager
async def operating(app: Standfast) -> AsyncIterator[Operations]:
    """The operations on the sagas of an app, which joins the pattern of sagas if it hasn't yet.

    Raises as `reading`.
    """
    operations = app.operations
    async with opened(app):
        yield operations


def perform(work: Coroutine[Any, Any, T]) -> T:
    """Carry out what a command does with an event loop; what it returns."""
    import asyncio

    return asyncio.run(work)
