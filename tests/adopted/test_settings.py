"""Connections that their users have set up, and what they answer the library with."""

import asyncio
import contextlib
import sqlite3
from uuid import uuid4

import aiosqlite
import psycopg
import pytest

from standfast import BranchKey, ConfigurationError, barrier
from standfast.backends.postgres.journal import scripts
from standfast.backends.postgres.marks import PostgresMarkWriter
from standfast.errors import StoreError, StoreUnavailable, TransactionConflict
from standfast.ports.journal import Instance, Start
from tests.adopted.conftest import Order, Ship


@pytest.fixture
def file(app, url):
    return url.removeprefix("sqlite:///")


@pytest.mark.parametrize("backend", ["postgres"])
class TestPipelines:
    """Of psycopg, where an answer comes later, and is nothing until then."""

    def test_it_is_refused_at_once(self, app, url, backend):
        with (
            psycopg.connect(url) as connection,
            connection.pipeline(),
            pytest.raises(ConfigurationError, match="pipeline mode"),
        ):
            app.adopt(connection)

    def test_one_that_begins_later(self, app, url, backend):
        with psycopg.connect(url) as connection:
            tx = app.adopt(connection)
            with connection.pipeline():
                for use in (
                    lambda: tx.fetch("SELECT 1"),
                    lambda: tx.execute("SELECT 1"),
                    lambda: tx.start(Ship, Order("a")),
                    lambda: barrier(tx, BranchKey("1/pay", "action")).__enter__(),
                ):
                    with pytest.raises(ConfigurationError, match="pipeline mode"):
                        use()
            tx.start(Ship, Order("a"))


class Silent:
    """A transaction of PostgreSQL in which no statement is ever answered with a row."""

    dialect = "postgresql"

    async def fetch(self, sql, *args):
        return []


async def test_a_mark_that_is_neither_set_nor_there_is_told():
    with pytest.raises(StoreError, match="neither set nor there"):
        await PostgresMarkWriter(Silent()).set("1/pay", "action", "", at=0)  # type: ignore[arg-type]


def test_a_key_that_nobody_holds_is_told():
    row = Instance(
        id=uuid4(),
        pattern="saga",
        name="ship",
        version=1,
        key="a",
        correlation_id="",
        input_hash="",
        status="",
        step="",
        cause="",
        created_at=0,
        updated_at=0,
        owner=None,
        wake_at=None,
        deadline_at=None,
        finished_at=None,
    )
    script = scripts.start([Start(row, "{}")], None)
    answers = {"INSERT": [(0,)], "SELECT": []}
    statement = next(script)
    with pytest.raises(StoreError, match="is taken, and by nobody"):
        for _ in range(10):
            answer = answers["INSERT" if "INSERT" in statement.sql else "SELECT"]
            statement = script.send(answer)


class TestTextOfSqlite:
    async def test_reads_of_the_library_that_overlap_leave_the_users_factory(self, app, file):
        async with aiosqlite.connect(file) as connection:
            connection.text_factory = bytes
            tx = app.adopt(connection)
            await tx.execute("INSERT INTO orders (id) VALUES ('a')")
            keys = ["a", "a", "b", "a"]
            handles = await asyncio.gather(*[tx.start(Ship, Order(key), key=key) for key in keys])
            assert len({handle.id for handle in handles}) == 2
            assert connection.text_factory is bytes
            assert await tx.fetch_value("SELECT 'text'") == b"text"

    def test_the_users_factory_is_back_after_an_error(self, app, file):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.text_factory = bytes
            connection.row_factory = sqlite3.Row
            tx = app.adopt(connection)
            connection.execute("DROP TABLE standfast_instances")
            with pytest.raises(StoreError):
                tx.start(Ship, Order("a"))
            assert connection.text_factory is bytes
            assert connection.row_factory is sqlite3.Row


class TestLocksOfSqlite:
    def test_a_transaction_that_read_what_is_old_is_a_conflict(self, app, file):
        with (
            contextlib.closing(sqlite3.connect(file, isolation_level=None)) as reader,
            contextlib.closing(sqlite3.connect(file)) as writer,
        ):
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM orders").fetchall()
            with writer:
                writer.execute("INSERT INTO orders (id) VALUES ('a')")
            with pytest.raises(TransactionConflict, match="began with a read"):
                app.adopt(reader).start(Ship, Order("a"))

    def test_one_that_waits_may_wait_for_its_own_process(self, app, file):
        with (
            contextlib.closing(sqlite3.connect(file)) as first,
            contextlib.closing(sqlite3.connect(file, timeout=0)) as second,
        ):
            app.adopt(first).start(Ship, Order("a"))
            with pytest.raises(StoreUnavailable, match="a transaction of your own"):
                app.adopt(second).start(Ship, Order("b"))
