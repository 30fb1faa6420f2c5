"""The memory backend against the contract of the ports."""

import pytest

from standfast.backends.memory import MemoryDatabase
from standfast.conformance import DatabaseSuite, JournalSuite, LeasesSuite, TransactionSuite
from standfast.errors import ConfigurationError, StoreError


class Memory:
    sql = False

    @pytest.fixture
    async def database(self):
        database = MemoryDatabase("memory://")
        await database.open()
        yield database
        await database.close()

    @pytest.fixture
    def empty(self, database):
        return database


class TestDatabase(Memory, DatabaseSuite): ...


class TestTransaction(Memory, TransactionSuite): ...


class TestJournal(Memory, JournalSuite): ...


class TestLeases(Memory, LeasesSuite): ...


def test_a_wrong_url_is_refused():
    with pytest.raises(ConfigurationError, match="memory://"):
        MemoryDatabase("memory://shop")


async def test_a_task_that_would_wait_for_itself_is_told():
    database = MemoryDatabase()
    async with database.transaction():
        with pytest.raises(StoreError, match="transaction open"):
            await database.journal.start([], owner=None)
    assert await database.journal.start([], owner=None) == []
