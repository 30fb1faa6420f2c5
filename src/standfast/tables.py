"""Whether a database has the tables that an app needs, and making them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from standfast.errors import MigrationNeeded
from standfast.ports.database import Database
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration

log = logging.getLogger("standfast.tables")


@dataclass(frozen=True, slots=True)
class LineStatus:
    """How far a line of migrations has come in a database: `numbers` are those applied there."""

    line: SchemaLine
    numbers: frozenset[int]

    @property
    def missing(self) -> list[SchemaMigration]:
        """What is to be applied, in order: also what was left out before others."""
        return [each for each in self.line.migrations if each.number not in self.numbers]

    @property
    def applied(self) -> int:
        """The number up to which nothing is missing; above `newest` if a newer version was here."""
        missing = self.missing
        return missing[0].number - 1 if missing else max(self.numbers)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def is_newer(self) -> bool:
        """Whether the database has migrations of this line that a newer version brought."""
        return max(self.numbers, default=0) > self.line.newest


async def status_of(database: Database, ports: Iterable[type]) -> list[LineStatus]:
    """The lines that these ports need, and how far each has come in an open database."""
    lines = database.lines(ports)
    applied: Mapping[str, frozenset[int]] = {}
    if lines:
        applied = await database.port(Schema).applied()
    return [LineStatus(line, applied.get(line.name, frozenset())) for line in lines]


async def check_tables(
    database: Database, ports: Sequence[type], *, migrate: bool | None
) -> list[AppliedMigration]:
    """Verify or migrate the tables of these ports in an open database; what was applied.

    `migrate`: whether to make what is missing; None does so where a single machine has the
    database for itself. Tables that a newer version made are used, with a warning in
    the log. Raises `MigrationNeeded`, and what `Schema.migrate` raises.
    """
    stands = await status_of(database, ports)
    newer = [one for one in stands if one.is_newer]
    if newer:
        told = ", ".join(
            f"{one.line.name} is at {max(one.numbers)}, this version knows {one.line.newest}"
            for one in newer
        )
        log.warning(
            "the database at %s was migrated by a newer version than this process runs (%s): "
            "upgrade this one, unless the release notes say that both may work together",
            database.url,
            told,
        )
    missing = [one for one in stands if not one.is_complete]
    if not missing:
        return []
    can = database.capabilities
    if migrate is None:
        migrate = not (can.many_workers and can.durable)
    schema = database.port(Schema)
    if migrate:
        return await schema.migrate([one.line for one in missing])
    if await schema.to_take_over():
        raise MigrationNeeded(
            f"the database at {database.url} was made by an older version and has to be taken "
            "over, with all it holds: end the old version's workers, then run `standfast migrate`"
        )
    told = ", ".join(f"{one.line.name} is at {one.applied}" for one in missing)
    needed = ", ".join(f"{one.line.newest}" for one in missing)
    raise MigrationNeeded(
        f"the database at {database.url} lacks migrations ({told}; this version needs "
        f"{needed}): run `standfast migrate`, or make the app with Standfast(…, migrate=True)"
    )
