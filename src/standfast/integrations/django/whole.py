"""What Django does to a whole database, done to Standfast's part of it as well.

Standfast's tables are nobody's models, so ``flush`` wouldn't empty them: between two tests, and by
hand. And a database that somebody is connected to can't be dropped or cloned, so what
``app.blocking`` has open in it is closed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any, TypeVar

from standfast.errors import ConfigurationError
from standfast.integrations.django.checks import current
from standfast.integrations.django.current import alias

T = TypeVar("T")

_TABLES = {
    "sqlite": "standfast.backends.sqlite.schema",
    "postgresql": "standfast.backends.postgres.schema",
}


def join(connection: Any, **_: Any) -> None:
    """Take part in what is done to the database of this connection: for ``connection_created``."""
    ops, creation = connection.ops, connection.creation
    if "execute_sql_flush" in vars(ops):  # it has connected before
        return
    execute = ops.execute_sql_flush

    @wraps(execute)
    def emptied(statements: Iterable[str]) -> Any:
        if _is_ours(connection):
            current().close_blocking(unless_held=True)
        return execute([*_deletions(connection), *statements])

    ops.execute_sql_flush = emptied
    for name in ("clone_test_db", "destroy_test_db"):
        setattr(creation, name, _closed_before(getattr(creation, name)))


def _deletions(connection: Any) -> Sequence[str]:
    """The statements that empty Standfast's tables, where they are in this database."""
    if connection.vendor not in _TABLES or not _is_ours(connection):
        return ()
    with connection.cursor() as cursor:
        cursor.execute(import_module(_TABLES[connection.vendor]).EMPTYING)
        return [row[0] for row in cursor.fetchall()]


def _is_ours(connection: Any) -> bool:
    try:
        return bool(connection.alias == alias())
    except ConfigurationError:
        return False  # told by ``manage.py check``


def _closed_before(act: Callable[..., T]) -> Callable[..., T]:
    @wraps(act)
    def called(*args: Any, **kwargs: Any) -> T:
        current().close_blocking()
        return act(*args, **kwargs)

    return called
