"""The tables: which migrations were applied, by line, and databases that an older version made.

Where the tables of a port come from stands beside its statements (`LINE` of each module).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.errors import DRIVER_ERRORS, translate
from standfast.backends.postgres.pool import Pool
from standfast.ports.providing import Provided
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration

LOCK_KEY = 0x5354_4644_4641_5354
"""The advisory lock that migrations hold, of all versions."""

_BOOKKEEPING = """\
CREATE SCHEMA IF NOT EXISTS standfast;
CREATE TABLE IF NOT EXISTS standfast.schema_migrations (
    line       text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, number)
);
"""

# ruff: noqa: S608 - constants of this module and quoted literals are put into the SQL text

_KNOWN = "SELECT to_regclass('standfast.schema_migrations')::oid"
_OLD = "SELECT to_regclass('standfast.migrations')::oid"
_VERSIONS = "SELECT line, max(number) FROM standfast.schema_migrations GROUP BY line"

# Version 0.1 had one line for everything, and leases for workers only. The old table of migrations
# is the proof that nobody did this before; what it knew stays, with its times.
_ADOPT = f"""\
{_BOOKKEEPING}
ALTER TABLE standfast.workers RENAME TO leases;
ALTER TABLE standfast.leases RENAME CONSTRAINT workers_pkey TO leases_pkey;
ALTER SEQUENCE standfast.workers_token_seq RENAME TO leases_token_seq;
ALTER TABLE standfast.leases RENAME COLUMN name TO holder;
ALTER TABLE standfast.leases RENAME COLUMN kinds TO note;
ALTER TABLE standfast.leases ADD COLUMN name text,
    ALTER COLUMN note TYPE json USING ('{{"kinds": ' || note::text || '}}')::json;
UPDATE standfast.leases SET name = 'member:' || token;
ALTER TABLE standfast.leases ALTER COLUMN name SET NOT NULL,
    ADD CONSTRAINT leases_name_key UNIQUE (name);

INSERT INTO standfast.schema_migrations (line, number, name, applied_at)
SELECT l.line, 1, l.name, m.applied_at
FROM (VALUES (1, 'coordination', 'leases'), (1, 'journal', 'instances, journal and mail'),
             (1, 'marks', 'marks'), (2, 'rate_limits', 'rate limits'))
     AS l (number, line, name) JOIN standfast.migrations m USING (number);
DROP TABLE standfast.migrations;
"""


class PostgresSchema:
    """`Schema` on PostgreSQL. Ask the `PostgresDatabase` for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def versions(self) -> Mapping[str, int]:
        """See `Schema.versions`."""
        if (await self._pool.fetch(_KNOWN))[0][0] is None:
            return {}
        return {row[0]: row[1] for row in await self._pool.fetch(_VERSIONS)}

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """See `Schema.migrate`. What was taken over counts as done before, by the older version.

        Old workers that still run are waited for in the middle of a write, and can't write any
        more afterwards.
        """
        done: list[AppliedMigration] = []
        try:
            async with self._pool.begin() as connection:
                await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
                if await connection.fetchval(_OLD) is not None:
                    await connection.execute(_ADOPT)
                versions = await _versions(connection)
                for line in lines:
                    for migration in line.migrations:
                        if migration.number > versions.get(line.name, 0):
                            await connection.execute(self.script(line, migration))
                            done.append(AppliedMigration(line.name, migration))
        except DRIVER_ERRORS as error:
            raise translate(error, self._pool.place, own=False) from error
        return done

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """See `Schema.script`. Run it in one transaction."""
        sql = migration.sql.strip()
        if not sql.endswith(";"):
            sql += "\n;"
        noted = f"{_literal(line.name)}, {migration.number:d}, {_literal(migration.name)}"
        return (
            f"{_BOOKKEEPING}\n{sql}\n\n"
            "INSERT INTO standfast.schema_migrations (line, number, name)\n"
            f"VALUES ({noted});\n"
        )


async def _versions(connection: Any) -> dict[str, int]:
    if await connection.fetchval(_KNOWN) is None:
        return {}
    return {row[0]: row[1] for row in await connection.fetch(_VERSIONS)}


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _make(database: PostgresDatabase) -> PostgresSchema:
    return PostgresSchema(database.pool)


PROVIDES: dict[type, Provided] = {Schema: Provided(_make)}
