"""The PostgreSQL backend against the contract of the ports."""

import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.conformance import (
    DatabaseSuite,
    JournalSuite,
    LeasesSuite,
    MarkSuite,
    TransactionSuite,
)
from standfast.conformance.samples import migrate


class Postgres:
    @pytest.fixture
    async def empty(self, postgres_dsn):
        database = PostgresDatabase(postgres_dsn)
        await database.open()
        yield database
        await database.close()

    @pytest.fixture
    async def database(self, postgres_dsn):
        database = PostgresDatabase(postgres_dsn)
        await database.open()
        await migrate(database)
        yield database
        await database.close()


class TestDatabase(Postgres, DatabaseSuite): ...


class TestTransaction(Postgres, TransactionSuite): ...


class TestJournal(Postgres, JournalSuite): ...


class TestLeases(Postgres, LeasesSuite): ...


class TestMarks(Postgres, MarkSuite): ...
