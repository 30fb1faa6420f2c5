"""The ways in which users open transactions, all with the same face, so that one suite tests all.

A way is one driver, sync or async. Whatever blocks is called as it is: an event loop that runs
meanwhile waits, as it does in a program that mixes both.
"""

import sqlite3
from contextlib import contextmanager
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlmodel import Session as SQLModelSession


async def done(value: Any) -> Any:
    """The value, or what it comes to once it is awaited."""
    return await value if hasattr(value, "__await__") else value


@contextmanager
def _none():
    yield


class Way:
    """One way. `source` is what is adopted, once `open` has been awaited."""

    blocking = True
    tells = False
    """Whether its commits are told of."""

    def __init__(self, url: str) -> None:
        self.url: str = url
        self.source: Any = None

    async def open(self) -> None:
        """Connect, and begin a transaction."""
        raise NotImplementedError

    async def begin(self) -> None:
        """Begin the next transaction, where none begins by itself."""

    async def run(self, sql: str) -> None:
        """A statement of the user's own."""
        raise NotImplementedError

    async def commit(self) -> None:
        await done(self.source.commit())

    async def rollback(self) -> None:
        await done(self.source.rollback())

    async def savepoint(self) -> None:
        await self.run("SAVEPOINT a")

    async def release(self) -> None:
        await self.run("RELEASE SAVEPOINT a")

    async def roll_back_to_savepoint(self) -> None:
        await self.run("ROLLBACK TO SAVEPOINT a")

    async def close(self) -> None:
        await done(self.source.close())


class Sqlite(Way):
    async def open(self):
        self.source = sqlite3.connect(self.url.removeprefix("sqlite:///"))

    async def run(self, sql):
        if not self.source.in_transaction:
            self.source.execute("BEGIN")
        self.source.execute(sql)


def by_column(cursor, row):
    """Rows as the documentation of sqlite3 has it for its ``row_factory``."""
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


class SqliteOdd(Sqlite):
    """Set up as nobody would expect: rows and texts of another kind, transactions by hand."""

    async def open(self):
        path = self.url.removeprefix("sqlite:///")
        self.source = sqlite3.connect(path, isolation_level=None)
        self.source.row_factory = by_column
        self.source.text_factory = bytes
        await self.begin()

    async def begin(self):
        self.source.execute("BEGIN")

    async def commit(self):
        self.source.execute("COMMIT")

    async def rollback(self):
        self.source.execute("ROLLBACK")


class Aiosqlite(Way):
    blocking = False

    async def open(self):
        self.source = await aiosqlite.connect(self.url.removeprefix("sqlite:///"))

    async def run(self, sql):
        if not self.source.in_transaction:
            await self.source.execute("BEGIN")
        await self.source.execute(sql)


class AiosqliteOdd(Aiosqlite):
    """Rows and texts of another kind."""

    async def open(self):
        await super().open()
        self.source.row_factory = by_column
        self.source.text_factory = bytes


class Psycopg(Way):
    async def open(self):
        self.source = psycopg.connect(self.url)

    async def run(self, sql):
        self.source.execute(sql)

    async def savepoint(self):
        self._nested = self.source.transaction()
        self._nested.__enter__()

    async def release(self):
        self._nested.__exit__(None, None, None)

    async def roll_back_to_savepoint(self):
        self._nested.__exit__(psycopg.Rollback, psycopg.Rollback(), None)


class PsycopgAscii(Psycopg):
    """With an encoding for which psycopg answers with bytes where text is, and rows of its own."""

    async def open(self):
        self.source = psycopg.connect(self.url, client_encoding="SQL_ASCII")
        self.source.row_factory = psycopg.rows.scalar_row
        self.source.prepare_threshold = 0


class PsycopgAsync(Way):
    blocking = False

    async def open(self):
        self.source = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        self.source.row_factory = psycopg.rows.dict_row
        await self.begin()

    async def begin(self):
        await self.source.execute("BEGIN")

    async def run(self, sql):
        await self.source.execute(sql)

    async def savepoint(self):
        self._nested = self.source.transaction()
        await self._nested.__aenter__()

    async def release(self):
        await self._nested.__aexit__(None, None, None)

    async def roll_back_to_savepoint(self):
        await self._nested.__aexit__(psycopg.Rollback, psycopg.Rollback(), None)


class Asyncpg(Way):
    blocking = False

    async def open(self):
        self.source = await asyncpg.connect(self.url)
        await self.begin()

    async def begin(self):
        self._transaction = self.source.transaction()
        await self._transaction.start()

    async def run(self, sql):
        await self.source.execute(sql)

    async def commit(self):
        await self._transaction.commit()

    async def rollback(self):
        await self._transaction.rollback()

    async def savepoint(self):
        self._nested = self.source.transaction()
        await self._nested.start()

    async def release(self):
        await self._nested.commit()

    async def roll_back_to_savepoint(self):
        await self._nested.rollback()


class AsyncpgPool(Asyncpg):
    """A connection that a pool lent, with a codec of the user's own for UUIDs."""

    async def open(self):
        async def prepare(connection):
            await connection.set_type_codec(
                "uuid", schema="pg_catalog", encoder=str, decoder=str, format="text"
            )

        self._pool = await asyncpg.create_pool(self.url, min_size=1, max_size=1, init=prepare)
        self.source = await self._pool.acquire()
        await self.begin()

    async def close(self):
        await self._pool.release(self.source)
        await self._pool.close()


class SqlAlchemySession(Way):
    tells = True
    make: Any = Session

    async def open(self):
        self._engine = sqlalchemy.create_engine(self.url)
        _mind_savepoints(self._engine)
        self.source = self.make(self._engine)
        self.source.begin()

    async def run(self, sql):
        self.source.execute(sqlalchemy.text(sql))

    async def savepoint(self):
        self._nested = self.source.begin_nested()

    async def release(self):
        self._nested.commit()

    async def roll_back_to_savepoint(self):
        self._nested.rollback()

    async def close(self):
        self.source.close()
        self._engine.dispose()


class SqlAlchemySessionOdd(SqlAlchemySession):
    """Its driver is set up as that of `SqliteOdd`, and its session is only begun when used."""

    async def open(self):
        self._engine = sqlalchemy.create_engine(self.url)
        _mind_savepoints(self._engine)

        @event.listens_for(self._engine, "connect")
        def connected(connection, record):
            connection.row_factory = by_column
            connection.text_factory = bytes

        self.source = self.make(self._engine)


class SQLModel(SqlAlchemySession):
    make = SQLModelSession


class ScopedSession(SqlAlchemySession):
    """As Flask-SQLAlchemy has it; its transaction begins by itself."""

    async def open(self):
        self._engine = sqlalchemy.create_engine(self.url)
        _mind_savepoints(self._engine)
        self.source = sqlalchemy.orm.scoped_session(sessionmaker(self._engine))


class SqlAlchemyConnection(SqlAlchemySession):
    tells = False

    async def open(self):
        self._engine = sqlalchemy.create_engine(self.url)
        _mind_savepoints(self._engine)
        self.source = self._engine.connect()
        self.source.begin()


NOT_STREAMED = {"yield_per": None, "stream_results": False}


class SqlAlchemyStreaming(SqlAlchemyConnection):
    """Set up to stream what is read, and to take statements without looking for parameters."""

    async def open(self):
        await super().open()
        self.source = self.source.execution_options(yield_per=2, no_parameters=True)

    async def run(self, sql):
        self.source.execute(sqlalchemy.text(sql), execution_options=NOT_STREAMED)

    async def savepoint(self):
        await self.run("SAVEPOINT a")

    async def release(self):
        await self.run("RELEASE SAVEPOINT a")

    async def roll_back_to_savepoint(self):
        await self.run("ROLLBACK TO SAVEPOINT a")


class SqlAlchemyAsyncSession(Way):
    blocking = False
    tells = True

    async def open(self):
        self._engine = create_async_engine(self.url)
        _mind_savepoints(self._engine.sync_engine)
        self.source = AsyncSession(self._engine)
        await self.source.begin()

    async def run(self, sql):
        await self.source.execute(sqlalchemy.text(sql))

    async def savepoint(self):
        self._nested = await self.source.begin_nested()

    async def release(self):
        await self._nested.commit()

    async def roll_back_to_savepoint(self):
        await self._nested.rollback()

    async def close(self):
        await self.source.close()
        await self._engine.dispose()


class SqlAlchemyAsyncConnection(SqlAlchemyAsyncSession):
    tells = False

    async def open(self):
        self._engine = create_async_engine(self.url)
        _mind_savepoints(self._engine.sync_engine)
        self.source = await self._engine.connect()
        await self.source.begin()


def _mind_savepoints(engine):
    """What SQLAlchemy's documentation says to do where savepoints are used on SQLite."""
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def connected(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN")


SQLITE = {
    "sqlite3": (Sqlite, "sqlite"),
    "sqlite3-odd": (SqliteOdd, "sqlite"),
    "aiosqlite": (Aiosqlite, "sqlite"),
    "aiosqlite-odd": (AiosqliteOdd, "sqlite"),
    "session-pysqlite": (SqlAlchemySession, "sqlite"),
    "session-pysqlite-odd": (SqlAlchemySessionOdd, "sqlite"),
    "sqlmodel-pysqlite": (SQLModel, "sqlite"),
    "connection-pysqlite": (SqlAlchemyConnection, "sqlite"),
    "session-aiosqlite": (SqlAlchemyAsyncSession, "sqlite+aiosqlite"),
    "connection-aiosqlite": (SqlAlchemyAsyncConnection, "sqlite+aiosqlite"),
}
POSTGRES = {
    "psycopg": (Psycopg, "postgresql"),
    "psycopg-ascii": (PsycopgAscii, "postgresql"),
    "psycopg-async": (PsycopgAsync, "postgresql"),
    "asyncpg": (Asyncpg, "postgresql"),
    "asyncpg-pool": (AsyncpgPool, "postgresql"),
    "session-psycopg": (SqlAlchemySession, "postgresql+psycopg"),
    "scoped-psycopg2": (ScopedSession, "postgresql+psycopg2"),
    "connection-psycopg": (SqlAlchemyConnection, "postgresql+psycopg"),
    "connection-psycopg2-streaming": (SqlAlchemyStreaming, "postgresql+psycopg2"),
    "session-asyncpg": (SqlAlchemyAsyncSession, "postgresql+asyncpg"),
    "connection-asyncpg": (SqlAlchemyAsyncConnection, "postgresql+asyncpg"),
    "session-psycopg-async": (SqlAlchemyAsyncSession, "postgresql+psycopg_async"),
}


def way(name: str, url: str) -> Way:
    """The way of that name, to the database at `url`."""
    kind, scheme = {**SQLITE, **POSTGRES}[name]
    return kind(f"{scheme}:{url.partition(':')[2]}")
