"""What Django does to a whole database, done to Standfast's part of it as well.

Standfast's tables are nobody's models, so ``flush`` wouldn't empty them: between two tests, and by
hand. And a database that somebody is connected to can't be dropped or cloned, so what
``app.blocking`` has open in it is closed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, TypeVar

from standfast.errors import ConfigurationError
from standfast.integrations.django.checks import current
from standfast.integrations.django.current import alias

T = TypeVar("T")

_TABLES = {
    "sqlite": (
        "SELECT substr(name, 11), 'DELETE FROM ' || name FROM sqlite_master "
        "WHERE type = 'table' AND substr(name, 1, 10) = 'standfast_'"
    ),
    "postgresql": (
        "SELECT tablename, 'DELETE FROM standfast.' || quote_ident(tablename) FROM pg_tables "
        "WHERE schemaname = 'standfast'"
    ),
}
_KEPT = frozenset({"schema_migrations", "migrations", "leases"})
"""What Django keeps of its own too: which migrations were applied; and who is alive just now."""


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
        cursor.execute(_TABLES[connection.vendor])
        # Not TRUNCATE, which locks out a worker that happens to look.
        return [delete for name, delete in cursor.fetchall() if name not in _KEPT]


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
