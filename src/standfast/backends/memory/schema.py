"""The memory backend's `Schema`: there are no tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from standfast.errors import Unsupported
from standfast.ports.providing import Provided
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration, distinct


class MemorySchema:
    """`Schema` in memory. Ask the `MemoryDatabase` for it."""

    async def applied(self) -> Mapping[str, frozenset[int]]:
        """Always empty: there are no tables."""
        return {}

    async def to_take_over(self) -> Mapping[str, frozenset[int]]:
        """Always empty: nothing outlives its process."""
        return {}

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """Nothing to do. Raises `ConfigurationError` for two lines of one name that differ."""
        distinct(lines)
        return []

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """`Unsupported`: there is no SQL."""
        raise Unsupported(
            f"memory:// has no tables, so there is no script for {line.name}: use sqlite:/// or "
            "postgresql://"
        )

    def preparation(self) -> Sequence[str]:
        """Nothing."""
        return []

    def statements(self, line: SchemaLine, migration: SchemaMigration) -> Sequence[str]:
        """`Unsupported`: there is no SQL."""
        raise Unsupported(f"memory:// has no tables, so there are no statements for {line.name}")

    def taking_over(self) -> str:
        """`Unsupported`: there is no SQL."""
        raise Unsupported("memory:// has no tables, so there is nothing to take over")


PROVIDES = {Schema: Provided(make=lambda database: MemorySchema())}
