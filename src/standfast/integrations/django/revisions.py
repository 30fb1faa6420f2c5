"""The operation of the migrations that ``standfast migrate --django`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import migrations


class RunSQL(migrations.RunSQL):
    """Run SQL on databases of its dialect (``"sqlite"`` or ``"postgresql"``), and none on others.

    There is no way back: Standfast's migrations only go forward, for their tables hold sagas that
    are under way. To go back, restore a backup.
    """

    def __init__(self, sql: Sequence[str], dialect: str) -> None:
        super().__init__(list(sql))
        self.dialect = dialect

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """See `Operation.deconstruct`: for ``squashmigrations``."""
        return type(self).__qualname__, [], {"sql": self.sql, "dialect": self.dialect}

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """See `Operation.database_forwards`."""
        if schema_editor.connection.vendor == self.dialect:
            super().database_forwards(app_label, schema_editor, from_state, to_state)
