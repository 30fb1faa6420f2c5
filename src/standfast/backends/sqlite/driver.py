"""How statements in ``$1, $2 …`` are run by SQLite's driver, and whole scripts in one go.

The driver binds a sequence only to ``?``; numbers it deprecates, and names, in a dict, are slow.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

from standfast.errors import StoreError
from standfast.ports.database import Script, Statement

T = TypeVar("T")
Arrange: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]

# What may hold a ``$1`` that is none comes first: quoted text and names, comments, words.
_TOKEN = re.compile(
    r"""'[^']*(?:'|\Z) | "[^"]*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[^]]*(?:\]|\Z)
      | --[^\n]* | /\*.*?(?:\*/|\Z) | [^\W\d][\w$]* | \$([1-9]\d*)(?![\w$])""",
    re.DOTALL | re.VERBOSE,
)


class Native(NamedTuple):
    """A statement as the driver takes it.

    `arrange` puts the arguments into the order of the ``?``, None where they are in it already.
    `numbers` are those of its placeholders.
    """

    sql: str
    arrange: Arrange | None
    numbers: frozenset[int]


@lru_cache(maxsize=1024)
def native(sql: str) -> Native:
    """Translate a statement."""
    numbers: list[int] = []

    def replace(token: re.Match[str]) -> str:
        if token[1] is None:
            return token[0]
        numbers.append(int(token[1]))
        return "?"

    text = _TOKEN.sub(replace, sql)
    return Native(text, _arrangement(numbers), frozenset(numbers))


WHICH_FILE = "PRAGMA database_list"
"""Answers with rows, in whose first one the third column is the path of a connection's file."""


def check_arguments(sql: str, numbers: frozenset[int], given: int) -> None:
    """Raise `StoreError` unless there is an argument for each placeholder, and the reverse."""
    if len(numbers) == given and (not given or max(numbers) == given):
        return
    unused = [number for number in range(1, given + 1) if number not in numbers]
    if unused:
        raise StoreError(
            f"${unused[0]} isn't in the statement, but {given} arguments are given: {sql}"
        )
    if len(numbers) > given:
        raise StoreError(
            f"${max(numbers)} is in the statement, but {given} arguments are given: {sql}"
        )


def declared_columns(con: sqlite3.Connection) -> list[tuple[str, str]]:
    """The columns of all tables and views: their names, and their types as declared."""
    names = con.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    tables = [name for (name,) in names.fetchall()]
    columns = "SELECT name, type FROM pragma_table_info(?)"
    return [column for table in tables for column in con.execute(columns, (table,)).fetchall()]


def _arrangement(numbers: Sequence[int]) -> Arrange | None:
    if numbers == list(range(1, len(numbers) + 1)):
        return None
    if len(numbers) == 1:
        (number,) = numbers
        return lambda args: (args[number - 1],)
    return itemgetter(*(number - 1 for number in numbers))


def commit(con: sqlite3.Connection, script: Callable[[], Script[T]]) -> T:
    """Carry a script out in a write transaction of its own; what it returns.

    Rolled back when a statement fails. `script` makes it, so that it can be begun anew.
    """
    con.execute("BEGIN IMMEDIATE")
    try:
        result = run(con, script())
        con.execute("COMMIT")
    except BaseException:  # whatever ended it, nothing of it may stay
        if con.in_transaction:  # SQLite may have undone it itself
            con.execute("ROLLBACK")
        raise
    return result


COUNT = "SELECT changes()"
"""Answers how many rows the last statement that changed any has touched, without its triggers."""


def touched(cursor: sqlite3.Cursor, before: int) -> int:
    """How many rows the statement of `cursor` touched, which is run to its end for that.

    `before` is what `total_changes` was. The driver doesn't count where there is a WITH first.
    """
    if cursor.description is not None:  # with RETURNING, the rows are changed as they are read
        for _ in cursor:
            pass
    if cursor.rowcount >= 0:
        return cursor.rowcount
    con = cursor.connection
    if con.total_changes == before:
        return 0
    cursor.row_factory = None
    count: int = cursor.execute(COUNT).fetchone()[0]
    return count


def touched_by(con: sqlite3.Connection, statement: Statement) -> int:
    """Run a statement that writes, with no WITH first; how many rows it touched."""
    text, arrange, _ = native(statement.sql)
    args = statement.args if arrange is None else arrange(statement.args)
    return con.execute(text, args).rowcount


def run(con: sqlite3.Connection, script: Script[T]) -> T:
    """Carry a script out on a connection; what it returns. An error of a statement ends it."""
    rows: Any = None
    try:
        while True:
            sql, args, many = script.send(rows)
            text, arrange, _ = native(sql)
            if many:
                if arrange is not None:
                    args = map(arrange, args)  # type: ignore[assignment]  # any iterable will do
                before = con.total_changes
                count = con.executemany(text, args).rowcount
                # Of what is written through a view it counts none; the others count what triggers
                # of the user's own write, too.
                rows = ((count if count > 0 else con.total_changes - before,),)
            else:
                if arrange is not None:
                    args = arrange(args)
                rows = con.execute(text, args).fetchall()
    except StopIteration as end:
        result: T = end.value
        return result
