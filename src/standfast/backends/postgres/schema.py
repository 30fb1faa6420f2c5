"""The tables: which migrations were applied, by line, and databases that an older version made.

Where the tables of a port come from stands beside its statements (`LINE` of each module).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from standfast.backends.control import statements
from standfast.backends.postgres.database import PostgresDatabase
from standfast.backends.postgres.errors import DRIVER_ERRORS, TRANSIENT, translate_migration
from standfast.backends.postgres.pool import Pool
from standfast.durations import human
from standfast.errors import MigrationNeeded, StoreError, StoreUnavailable
from standfast.ports.providing import Provided
from standfast.ports.schema import (
    AppliedMigration,
    Schema,
    SchemaLine,
    SchemaMigration,
    distinct,
)

_log = logging.getLogger(__name__)

LOCK_KEY = 0x5354_4644_4641_5354
"""The advisory lock that migrations hold, of all versions."""

LOCK_TIMEOUT = 1.0
"""For how many seconds a migration queues for a lock before it lets the others through.

Whoever wants the table meanwhile, if only to read it, waits behind it.
"""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_NOT_GRANTED = (asyncpg.LockNotAvailableError, *TRANSIENT)
_TELL_AFTER = 1.0
_LOOK_EVERY = 0.25
# A migration takes as long as its tables need. asyncpg takes None for the connection's own timeout.
_NO_TIMEOUT = 1e9

_BOOKKEEPING = """\
DO $standfast$ BEGIN
    -- IF NOT EXISTS would ask for CREATE on the database even where there is nothing to create.
    IF to_regnamespace('standfast') IS NULL THEN
        CREATE SCHEMA standfast;
    END IF;
END $standfast$;
CREATE TABLE IF NOT EXISTS standfast.schema_migrations (
    line       text NOT NULL,
    number     int NOT NULL,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line, number)
);
"""

# ruff: noqa: S608 - constants of this module and quoted literals are put into the SQL text

_TRY_LOCK = f"SELECT pg_try_advisory_xact_lock({LOCK_KEY}), pg_backend_pid()"
_LIMIT_LOCKS = f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT * 1000:.0f}ms';"
# Who they are, and not what they asked: the text of a query may hold what is secret.
_BLOCKERS = """\
SELECT b.pid, a.application_name, a.usename, a.state,
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS since
FROM unnest(pg_blocking_pids($1)) AS b (pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid
ORDER BY a.xact_start
"""
# Which tables there are: of today's bookkeeping, of an older version's, and those of today that
# replace older ones.
_SHAPE = """\
SELECT to_regclass('standfast.schema_migrations') IS NOT NULL,
    to_regclass('standfast.migrations') IS NOT NULL, to_regclass('standfast.leases') IS NOT NULL
"""
_APPLIED = "SELECT line, number FROM standfast.schema_migrations"

# Version 0.1 had one line for everything, and leases for workers only. The old table of migrations
# is the proof that nobody did this before; what it knew stays, with its times.
_OLD_NUMBERS = "SELECT number FROM standfast.migrations"
_OF_OLD = {("coordination", 1): 1, ("journal", 1): 1, ("marks", 1): 1, ("rate_limits", 1): 2}
"""By line and number, the number that it had in the line for everything."""

_TAKE_OVER = f"""\
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
     AS l (number, line, name) JOIN standfast.migrations m USING (number)
ON CONFLICT DO NOTHING;
DROP TABLE standfast.migrations;
"""

_HALF_MADE = (
    "has an older version's tables (standfast.migrations), and beside them newer ones "
    "(standfast.leases), made without taking the old ones over. If processes of the new version "
    "have worked there since, restore a backup from before; otherwise end all processes, run "
    "`DROP TABLE standfast.leases`, and then `standfast migrate`"
)
_REFUSE_OLD = f"""\
DO $standfast$ BEGIN
    PERFORM pg_advisory_xact_lock({LOCK_KEY});
    IF to_regclass('standfast.migrations') IS NOT NULL THEN
        RAISE EXCEPTION 'an older version of Standfast made this database: nothing was changed'
            USING HINT = 'Take it over first, with `standfast migrate` or with the SQL that '
                '`standfast migrate -a URL --sql --take-over` prints.';
    END IF;
END $standfast$;
"""
_REFUSE_NEW = f"""\
DO $standfast$ BEGIN
    PERFORM pg_advisory_xact_lock({LOCK_KEY});
    IF to_regclass('standfast.migrations') IS NULL THEN
        RAISE EXCEPTION 'there is nothing to take over: no older version of Standfast made this '
            'database, or it was taken over already';
    ELSIF to_regclass('standfast.leases') IS NOT NULL THEN
        RAISE EXCEPTION 'this database %', $told${_HALF_MADE}$told$;
    END IF;
END $standfast$;
"""

EMPTYING = """\
SELECT 'DELETE FROM standfast.' || quote_ident(tablename) FROM pg_tables
WHERE schemaname = 'standfast' AND tablename NOT IN ('schema_migrations', 'migrations', 'leases')
"""
"""Answers with the statements that empty all tables but those of migrations and of leases, which
tell what is there and who lives. They don't truncate, which would lock out a worker that looks."""


class PostgresSchema:
    """`Schema` on PostgreSQL. Ask the `PostgresDatabase` for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def applied(self) -> Mapping[str, frozenset[int]]:
        """See `Schema.applied`."""
        ((known, old, _),) = await self._pool.fetch(_SHAPE)
        return _by_line(await self._pool.fetch(_APPLIED) if known and not old else ())

    async def to_take_over(self) -> Mapping[str, frozenset[int]]:
        """See `Schema.to_take_over`."""
        ((known, old, leases),) = await self._pool.fetch(_SHAPE)
        if not old:
            return {}
        if leases:
            raise self._half_made()
        try:
            numbers = {number for (number,) in await self._pool.fetch(_OLD_NUMBERS)}
        except MigrationNeeded:  # Somebody took it over just now.
            return {}
        noted = await self._pool.fetch(_APPLIED) if known else ()
        return _by_line([*noted, *(new for new, number in _OF_OLD.items() if number in numbers)])

    async def migrate(self, lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
        """See `Schema.migrate`. What was taken over counts as done before, by the older version.

        No statement of a migration is given up for taking long, but none queues for a lock for
        longer than a second: all who want the table, readers too, would stand in line behind it.
        Then all is rolled back, and tried again after growing pauses; a warning in the log names
        the sessions that are in the way. It goes on so, and waits for another migration that runs,
        for up to `migration_wait` of the options. Old workers that still run are waited for in the
        middle of a write, and can't write any more afterwards.
        """
        lines = distinct(lines)
        longest = self._pool.options.migration_seconds
        began, told, pause = time.monotonic(), False, _FIRST_PAUSE
        while True:
            in_the_way: list[str] = []
            try:
                async with self._pool.begin() as connection:
                    is_mine, pid = await connection.fetchrow(_TRY_LOCK)
                    if is_mine:
                        async with self._watched(pid, in_the_way):
                            return await self._migrate(connection, lines)
            except _NOT_GRANTED as error:
                left = began + longest - time.monotonic()
                await self._stand_back(error, in_the_way, pause, left)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except DRIVER_ERRORS as error:
                raise translate_migration(error, self._pool.place) from error
            waited = time.monotonic() - began
            if waited >= longest:
                raise StoreUnavailable(
                    f"PostgreSQL at {self._pool.place}: another migration has been running for "
                    f"over {human(longest)}: look for its session (it holds an advisory lock in "
                    "pg_locks), and migrate again once it has ended. Nothing was written"
                )
            if waited >= _TELL_AFTER and not told:
                told = True
                _log.warning(
                    "another migration is running on PostgreSQL at %s: waiting for it, for %s at "
                    "most",
                    self._pool.place,
                    human(longest),
                )
            await asyncio.sleep(_LOOK_EVERY)

    async def _stand_back(
        self, error: Exception, in_the_way: Sequence[str], pause: float, left: float
    ) -> None:
        """Let the others through for a while. Raises `StoreUnavailable` once no time is left."""
        others = "; ".join(in_the_way) or "a session that has gone by now"
        if left <= 0:
            raise StoreUnavailable(
                f"PostgreSQL at {self._pool.place}: the migration didn't get its locks within "
                f"{human(self._pool.options.migration_seconds)} ({error}). In its way was "
                f"{others}. Have that transaction end (pg_terminate_backend(PID) ends its session) "
                "and migrate again, with a longer migration_wait in the URL if need be. Nothing "
                "was written"
            ) from error
        pause = min(pause, left)
        _log.warning(
            "the migration on PostgreSQL at %s needs a lock and stands back, so that nobody waits "
            "behind it; in its way is %s. It tries again in %s",
            self._pool.place,
            others,
            human(pause),
        )
        await asyncio.sleep(pause)

    @asynccontextmanager
    async def _watched(self, pid: int, in_the_way: list[str]) -> AsyncIterator[None]:
        """Keep in `in_the_way` whom the session `pid` waited for last."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(LOCK_TIMEOUT * 0.4)  # twice while it queues
                with suppress(StoreError):  # it only tells more
                    if rows := await self._pool.fetch(_BLOCKERS, pid):
                        in_the_way[:] = [_session(*row) for row in rows]

        watching = asyncio.create_task(watch(), name="standfast: who blocks the migration")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _migrate(
        self, connection: Any, lines: Sequence[SchemaLine]
    ) -> list[AppliedMigration]:
        await connection.execute(_LIMIT_LOCKS)
        known, old, leases = await connection.fetchrow(_SHAPE)
        if old:
            if leases:
                raise self._half_made()
            await connection.execute(_TAKE_OVER, timeout=_NO_TIMEOUT)
        applied = _by_line(await connection.fetch(_APPLIED) if known or old else ())
        missing = [
            AppliedMigration(line.name, migration)
            for line in lines
            for migration in line.migrations
            if migration.number not in applied.get(line.name, ())
        ]
        if missing:
            await connection.execute(_BOOKKEEPING)
        for one in missing:
            # One by one, so that SQL which ends in the middle can't swallow what follows it.
            await connection.execute(one.migration.sql, timeout=_NO_TIMEOUT)
            await connection.execute(_note(one.line, one.migration))
        return missing

    def _half_made(self) -> StoreError:
        return StoreError(f"PostgreSQL at {self._pool.place} {_HALF_MADE}")

    def script(self, line: SchemaLine, migration: SchemaMigration) -> str:
        """See `Schema.script`."""
        sql = migration.sql.strip()
        if not sql.endswith(";"):
            sql += "\n;"
        noted = _note(line.name, migration)
        return f"BEGIN;\n{_REFUSE_OLD}{_LIMIT_LOCKS}\n\n{_BOOKKEEPING}\n{sql}\n\n{noted}COMMIT;\n"

    def preparation(self) -> Sequence[str]:
        """See `Schema.preparation`. How long to queue for locks is left to whoever runs it."""
        return statements(_REFUSE_OLD + _BOOKKEEPING)

    def statements(self, line: SchemaLine, migration: SchemaMigration) -> Sequence[str]:
        """See `Schema.statements`."""
        return [*statements(migration.sql), *statements(_note(line.name, migration))]

    def taking_over(self) -> str:
        """See `Schema.taking_over`."""
        return f"BEGIN;\n{_REFUSE_NEW}{_LIMIT_LOCKS}\n\n{_TAKE_OVER}COMMIT;\n"


def _session(
    pid: int, application: str | None, user: str | None, state: str | None, since: float | None
) -> str:
    """A session for the eyes of an operator; what its role may not see of others is left out."""
    if not pid:
        return "a prepared transaction (see pg_prepared_xacts)"
    told = [application, user and f"role {user}", state]
    if since is not None:
        told.append(f"in a transaction for {human(max(since, 0.0))}")
    return f"PID {pid} ({', '.join(filter(None, told))})"


def _by_line(rows: Iterable[Sequence[Any]]) -> dict[str, frozenset[int]]:
    found: dict[str, frozenset[int]] = {}
    for line, number in rows:
        found[line] = found.get(line, frozenset()) | {number}
    return found


def _note(line: str, migration: SchemaMigration) -> str:
    noted = f"{_literal(line)}, {migration.number:d}, {_literal(migration.name)}"
    return f"INSERT INTO standfast.schema_migrations (line, number, name)\nVALUES ({noted});\n"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _make(database: PostgresDatabase) -> PostgresSchema:
    return PostgresSchema(database.pool)


PROVIDES: dict[type, Provided] = {Schema: Provided(_make)}
