"""The memory backend's `Schema`: there are no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from standfast.errors import Unsupported
from standfast.ports.providing import Provided
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration


class MemorySchema:
    """`Schema` in memory. Ask the `MemoryDatabase` for it."""

    async def versions(self) -> Mapping[str, int]:
        """Always empty: there are no tables."""
        return {}

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """Nothing to do."""
        return []

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """`Unsupported`: there is no SQL."""
        raise Unsupported(
            f"memory:// has no tables, so there is no script for {line.name}: use sqlite:/// or "
            "postgresql://"
        )


PROVIDES = {Schema: Provided(make=lambda database: MemorySchema())}
