"""Whether a database has the tables that an app needs, and making them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from standfast.errors import MigrationNeeded
from standfast.ports.database import Database
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine


@dataclass(frozen=True, slots=True)
class LineStatus:
    """How far a line of migrations has come: `applied` of `newest`."""

    line: SchemaLine
    applied: int

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.applied >= self.line.newest


async def status_of(database: Database, ports: Iterable[type]) -> list[LineStatus]:
    """The lines that these ports need, and how far each has come in an open database."""
    lines = database.lines(ports)
    versions: Mapping[str, int] = await database.port(Schema).versions() if lines else {}
    return [LineStatus(line, versions.get(line.name, 0)) for line in lines]


async def check_tables(
    database: Database, ports: Sequence[type], *, migrate: bool | None
) -> list[AppliedMigration]:
    """Verify or migrate the tables of these ports in an open database; what was applied.

    `migrate`: whether to make what is missing; None does so where a single machine has the
    database for itself. Raises `MigrationNeeded`.
    """
    missing = [one for one in await status_of(database, ports) if not one.is_complete]
    if not missing:
        return []
    can = database.capabilities
    if migrate is None:
        migrate = not (can.many_workers and can.durable)
    if not migrate:
        told = ", ".join(f"{one.line.name} is at {one.applied}" for one in missing)
        needed = ", ".join(f"{one.line.newest}" for one in missing)
        raise MigrationNeeded(
            f"the database at {database.url} lacks migrations ({told}; this version needs "
            f"{needed}): run `standfast migrate`, or make the app with Standfast(…, migrate=True)"
        )
    return await database.port(Schema).migrate([one.line for one in missing])
