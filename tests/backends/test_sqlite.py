"""The SQLite backend against the contract of the ports."""

import pytest

from standfast.backends.sqlite import SqliteDatabase
from standfast.conformance import DatabaseSuite, JournalSuite, LeasesSuite, TransactionSuite


class Sqlite:
    @pytest.fixture
    async def empty(self, tmp_path):
        database = SqliteDatabase(f"sqlite:///{tmp_path}/empty.db")
        await database.open()
        yield database
        await database.close()

    @pytest.fixture
    async def database(self, tmp_path):
        database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
        await database.open()
        await database.migrate()
        yield database
        await database.close()


class TestDatabase(Sqlite, DatabaseSuite): ...


class TestTransaction(Sqlite, TransactionSuite): ...


class TestJournal(Sqlite, JournalSuite): ...


class TestLeases(Sqlite, LeasesSuite): ...
