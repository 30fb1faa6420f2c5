"""The PostgreSQL backend against the contract of the ports."""

import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.conformance import DatabaseSuite, JournalSuite, LeasesSuite, TransactionSuite


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
        await database.migrate()
        yield database
        await database.close()


class TestDatabase(Postgres, DatabaseSuite): ...


class TestTransaction(Postgres, TransactionSuite): ...


class TestJournal(Postgres, JournalSuite):
    @pytest.mark.xfail(
        reason="a child's broken start fails its whole batch here, and is raised as StoreError; "
        "SQLite answers that one append with ConstraintViolated",
        strict=True,
    )
    async def test_append_with_a_start_that_breaks_a_constraint(self, database):
        await super().test_append_with_a_start_that_breaks_a_constraint(database)


class TestLeases(Postgres, LeasesSuite): ...
