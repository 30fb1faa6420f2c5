"""What the tests of several backends share; those of SQLite have a `database` of their own."""

import asyncpg
import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.conformance.samples import migrate


@pytest.fixture
async def direct(postgres_dsn):
    """A connection of one's own, past the backend."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def database(postgres_dsn):
    """PostgreSQL with all tables."""
    database = PostgresDatabase(postgres_dsn, idle_timeout="1s")
    await database.open()
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
async def other(postgres_dsn, database):
    """The same, as another process sees it."""
    other = PostgresDatabase(postgres_dsn)
    await other.open()
    yield other
    await other.close()


@pytest.fixture
def overdue(direct):
    """Let the time of a lease be over."""

    async def end(token: int) -> None:
        await direct.execute(
            "UPDATE standfast.leases SET expires_at = now() - interval '1s' WHERE token = $1", token
        )

    return end
