"""The user's own rows in a simulation: SQLite in memory, which takes what PostgreSQL takes."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from standfast.backends.control import refuse_control
from standfast.backends.sqlite.driver import check_arguments, declared_columns, native
from standfast.errors import ConstraintViolated, StoreError


class Kind(NamedTuple):
    """Values that SQLite keeps as text, in columns that are declared `of` these types."""

    of: frozenset[str]
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def _instant(value: datetime) -> str:
    """As PostgreSQL gives it back: with a time zone, in UTC."""
    return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat(" ")


KINDS = {
    UUID: Kind(frozenset({"uuid"}), str, UUID),
    Decimal: Kind(frozenset({"numeric", "decimal"}), str, Decimal),
    datetime: Kind(
        frozenset({"timestamp", "timestamptz", "datetime"}), _instant, datetime.fromisoformat
    ),
    date: Kind(frozenset({"date"}), date.isoformat, date.fromisoformat),
    time: Kind(frozenset({"time", "timetz"}), time.isoformat, time.fromisoformat),
}


class Tables:
    """Tables that `schema` makes, and the rows in them.

    SQLite has no UUID, date, time or Decimal. They are taken all the same, as on PostgreSQL, and
    given back from columns that are declared so. Where none was ever given there is but text, as on
    SQLite. A Decimal is exact to 15 digits; it comes back as a number where a column of the same
    name has another type in another table.
    """

    def __init__(self, schema: str) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.executescript(schema)
        self._declared = dict(_declared(self._connection))
        self._given: set[type] = set()
        self._connection.row_factory = self._row

    def run(self, sql: str, args: Sequence[Any]) -> sqlite3.Cursor:
        """Run a statement in ``$1, $2 …``. Raises `StoreError`, `ConstraintViolated`."""
        text, arrange, numbers = native(sql)
        check_arguments(sql, numbers, len(args))
        refuse_control(sql, "sqlite")
        values = [self._taken(value) for value in args]
        try:
            return self._connection.execute(text, values if arrange is None else arrange(values))
        except sqlite3.IntegrityError as error:
            raise ConstraintViolated(f"{sql}: {error}") from error
        except sqlite3.Error as error:
            raise StoreError(
                f"{sql}: {error} (the test kit runs it on SQLite, whatever your database is)"
            ) from error

    @property
    def changes(self) -> int:
        """How many rows were changed, ever."""
        return self._connection.total_changes

    def begin(self) -> None:
        """Begin a transaction."""
        self._connection.execute("BEGIN")

    def commit(self) -> None:
        """Commit it."""
        self._connection.execute("COMMIT")

    def roll_back(self) -> None:
        """Roll it back."""
        self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Drop them."""
        self._connection.close()

    def _taken(self, value: Any) -> Any:
        kind = next((kind for kind in KINDS if isinstance(value, kind)), None)
        if kind is None:
            return value
        self._given.add(kind)
        return KINDS[kind].write(value)

    def _row(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> sqlite3.Row:
        if self._given:
            names = [column[0] for column in cursor.description]
            values = tuple(map(self._read, names, values))
        return sqlite3.Row(cursor, values)

    def _read(self, column: str, value: Any) -> Any:
        kind, certain = self._declared.get(column.lower(), (None, True))
        if value is None or kind not in self._given or not (certain or isinstance(value, str)):
            return value
        assert kind is not None
        try:
            return KINDS[kind].read(str(value))
        except (ValueError, ArithmeticError):  # it was written otherwise
            return value


def _declared(connection: sqlite3.Connection) -> Iterator[tuple[str, tuple[type, bool]]]:
    """The columns that hold such values, by name, and whether all of that name do."""
    kinds: dict[str, set[type | None]] = {}
    for column, declared in declared_columns(connection):
        kinds.setdefault(column.lower(), set()).add(_kind(declared))
    for column, found in kinds.items():
        known = [kind for kind in found if kind is not None]
        if len(known) == 1:
            yield column, (known[0], len(found) == 1)


def _kind(declared: str) -> type | None:
    word = re.match(r"\w*", declared.lower())
    return next((kind for kind in KINDS if word and word[0] in KINDS[kind].of), None)
