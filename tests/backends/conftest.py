"""What the tests of several backends share."""

import asyncpg
import pytest


@pytest.fixture
async def direct(postgres_dsn):
    """A connection of one's own, past the backend."""
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()
