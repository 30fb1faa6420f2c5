"""The tables of a database: who makes them, in which steps, and how far they have come.

Every port that needs tables brings a *line* of migrations of its own, numbered from 1. An app has
the lines of the patterns that were added to it, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SchemaMigration:
    """One numbered step of a line, as SQL. Once released it is never edited."""

    number: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class SchemaLine:
    """All migrations of one port's tables, in order, numbered from 1."""

    name: str
    migrations: tuple[SchemaMigration, ...]

    @property
    def newest(self) -> int:
        """The number of the last migration."""
        return self.migrations[-1].number


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A migration that was carried out just now, and its line's name."""

    line: str
    migration: SchemaMigration


class Schema(Protocol):
    """The tables of one open database.

    A database that an older version made, which had one line for everything, is taken over by
    `migrate` with all that it holds; `versions` tells it as version 0 of every line until then.
    """

    async def versions(self) -> Mapping[str, int]:
        """The number of the last migration applied, by line; lines without any are left out."""
        ...

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """Apply what these lines lack, all in one transaction; what was done, in order.

        Safe beside others who do the same: each migration is applied by one of them.
        """
        ...

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """The SQL, complete, for someone else to run: it also notes the migration as applied."""
        ...
