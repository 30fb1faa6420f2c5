"""The tables of a database: who makes them, in which steps, and how far they have come.

Every port that needs tables brings a *line* of migrations of its own, numbered from 1. An app has
the lines of the patterns that were added to it, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from standfast.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class SchemaMigration:
    """One numbered step of a line, as SQL. Once released it is never edited."""

    number: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaLine:
    """All migrations of one port's tables, in order, numbered from 1 without a gap.

    Raises `ConfigurationError` for any other numbers, and where there is no migration.
    """

    name: str
    migrations: tuple[SchemaMigration, ...]

    def __post_init__(self) -> None:
        numbers = [migration.number for migration in self.migrations]
        if not numbers or numbers != list(range(1, len(numbers) + 1)):
            told = ", ".join(map(str, numbers)) or "there are none"
            raise ConfigurationError(
                f"the migrations of the line {self.name!r} must be numbered 1, 2, 3 … in order, "
                f"without a gap: {told}"
            )

    @property
    def newest(self) -> int:
        """The number of the last migration."""
        return self.migrations[-1].number


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration that was carried out just now, and its line's name."""

    line: str
    migration: SchemaMigration


def distinct(lines: Iterable[SchemaLine]) -> list[SchemaLine]:
    """These lines, each once, in order.

    Raises `ConfigurationError` where two have the same name and other migrations: which of them the
    database has couldn't be told.
    """
    found: dict[str, SchemaLine] = {}
    for line in lines:
        if found.setdefault(line.name, line) != line:
            raise ConfigurationError(
                f"two lines of migrations are named {line.name!r}, and their migrations differ: "
                "rename one"
            )
    return list(found.values())


class Schema(Protocol):
    """The tables of one open database.

    An older version had one line for everything. A database that it made is taken over by `migrate`
    with all that it holds; until then nothing counts as applied there, and `to_take_over` tells
    what will. Where such a database was given tables of today's without being taken over,
    `to_take_over` and `migrate` raise a `StoreError` that names the remedy.
    """

    async def applied(self) -> Mapping[str, frozenset[int]]:
        """The numbers of the migrations applied, by line; lines without any are left out.

        A number that is missing between others was never applied.
        """
        ...

    async def to_take_over(self) -> Mapping[str, frozenset[int]]:
        """What `applied` will tell of an older version's database once that is taken over.

        Empty for any other database.
        """
        ...

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """Apply what these lines lack, all in one transaction; what was done, in order.

        Safe beside others who do the same: each migration is applied by one of them, for whom the
        others wait. It doesn't hold up those who work for longer than a moment. Raises
        `ConfigurationError` for two lines of one name that differ, and `StoreUnavailable` if others
        take too long.
        """
        ...

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """The SQL, complete, for someone else to run: a transaction that also notes it as applied.

        It fails, and changes nothing, on a database that is to be taken over first; what runs it
        must stop at the first error.
        """
        ...

    def preparation(self) -> Sequence[str]:
        """The statements that come before those of any migration in somebody else's transaction.

        They make the table in which migrations are noted, and fail on a database that is to be
        taken over first.
        """
        ...

    def statements(self, line: SchemaLine, migration: SchemaMigration) -> Sequence[str]:
        """A migration for a transaction that somebody else opens: the last one notes it as applied.

        One by one, without semicolons at their ends.
        """
        ...

    def taking_over(self) -> str:
        """The SQL, complete, for someone else to take over an older version's database.

        It is one transaction that fails, and changes nothing, on any other database.
        """
        ...
