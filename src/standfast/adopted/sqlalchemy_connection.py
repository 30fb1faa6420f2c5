"""SQLAlchemy 2: statements through its connections, sync or async."""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy.exc import DBAPIError, MissingGreenlet, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from standfast.adopted.endings import StillOpen
from standfast.adopted.errors import of_postgres
from standfast.adopted.factories import AS_IT_IS, rows_as_tuples, text_as_str
from standfast.adopted.pipelines import refuse_pipeline
from standfast.adopted.placeholders import by_name
from standfast.adopted.places import check_file, check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.adopted.sqlite import writes
from standfast.backends.sqlite.driver import COUNT, WHICH_FILE, check_arguments, native
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.inside import inside_while
from standfast.ports.database import Database, Row, Script
from standfast.ports.providing import Dialect
from standfast.stepping import step

T = TypeVar("T")
Bind = Callable[[str, Sequence[Any]], tuple[str, Any]]

_PLAIN = {"stream_results": False, "yield_per": None, "no_parameters": False}
"""What the user's connection may be set up to do, and isn't to do with these statements."""

_FILE = "standfast_file"

TWO_PHASES = (
    "its commit is in two phases, which PostgreSQL refuses for a transaction that tells workers "
    "(NOTIFY), and SQLite doesn't have: adopt one whose commit is in one phase"
)


class SqlAlchemyRiding(RidingTransaction):
    """Runs statements through SQLAlchemy, so that its echo and its events see them."""

    blocking = True

    def __init__(self, dialect: str, database: Database) -> None:
        if dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(
                f"adopt(…): SQLAlchemy speaks {dialect} here, and Standfast keeps its data in "
                "PostgreSQL or SQLite: adopt a transaction of the app's own database"
            )
        self.dialect: Dialect = "sqlite" if dialect == "sqlite" else "postgresql"
        self._database = database
        self.place = database.url
        self._bind: Bind | None = None

    @abstractmethod
    def connection(self) -> sqlalchemy.Connection:
        """The connection with the open transaction. Raises `StoreError` once that is over."""

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        connection, driver, text, bound = self._prepared(sql, args, own=own)
        if self.dialect == "postgresql":
            return _run(connection, text, bound)
        with rows_as_tuples(driver), text_as_str(driver) if own else AS_IT_IS:
            before = driver.total_changes
            answer = _run(connection, text, bound)
            if answer.touched < 0 and driver.total_changes != before:  # see `touched` of sqlite3
                ((count,),) = _run(connection, COUNT, None).rows
                answer = answer._replace(touched=count)
            return answer

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """See `RidingTransaction.touch`: the library's own have no rows to be read."""
        if not own:
            return await super().touch(sql, args, own=own)
        connection, driver, text, bound = self._prepared(sql, args, own=own)
        before = driver.total_changes if self.dialect == "sqlite" else 0
        with connection.exec_driver_sql(text, bound, execution_options=_PLAIN) as result:
            count: int = result.rowcount
            if count <= 0 and self.dialect == "sqlite":  # it may be through a view
                count = driver.total_changes - before
        return max(count, 0)

    def _prepared(
        self, sql: str, args: Sequence[Any], *, own: bool
    ) -> tuple[sqlalchemy.Connection, Any, str, Any]:
        """Where a statement is run: SQLAlchemy's connection and its driver's, text, arguments."""
        connection = self.connection()
        if self._bind is None:
            self._bind = self._checked(connection)
        if not own:
            self.flush()
        driver: Any = connection.connection.driver_connection
        if self.dialect == "postgresql":
            refuse_pipeline(driver)
        elif not driver.in_transaction and writes(sql):
            _begin(connection)
        return connection, driver, *self._bind(sql, args)

    def flush(self) -> None:
        """Write what the user has yet to write, so that statements of theirs see it."""

    def begin_in(self, connection: sqlalchemy.Connection) -> None:
        """Begin what SQLite's driver would only begin with some later statement."""
        driver: Any = connection.connection.driver_connection
        if self.dialect == "sqlite" and not driver.in_transaction:
            _begin(connection)

    def _checked(self, connection: sqlalchemy.Connection) -> Bind:
        """How arguments are bound there, once it is seen that a transaction can be open.

        Raises `ConfigurationError`.
        """
        if isinstance(connection.get_transaction(), sqlalchemy.TwoPhaseTransaction):
            raise ConfigurationError(f"adopt(…): {TWO_PHASES}")
        driver: Any = connection.connection.dbapi_connection
        if self.dialect == "sqlite":
            begun: Any = connection.connection.driver_connection
            check_file(self._database, _file_of(connection))
            level = getattr(driver, "isolation_level", "")
            autocommit = level is None and not begun.in_transaction
        else:
            url = connection.engine.url
            check_server(self._database, url.host, url.port, url.database)
            autocommit = bool(getattr(driver, "autocommit", False))
        if autocommit:
            raise ConfigurationError(
                "adopt(…): the connection is in autocommit mode, so there is no transaction to "
                "ride: use an engine or a connection with another isolation_level"
            )
        style = connection.dialect.paramstyle
        if style == "qmark":
            return _by_mark
        if style == "numeric_dollar":
            return _as_it_is
        if style == "pyformat":
            return by_name
        raise ConfigurationError(
            f"adopt(…): SQLAlchemy's driver {connection.dialect.driver!r} isn't supported: use "
            "asyncpg, psycopg or psycopg2 for PostgreSQL, pysqlite or aiosqlite for SQLite"
        )

    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """See `RidingTransaction.translate`."""
        place = self.place
        if isinstance(error, MissingGreenlet):
            return ConfigurationError(
                "adopt(a Session): it belongs to an async engine, and this is sync code: adopt the "
                "AsyncSession, and await what its transaction does"
            )
        if isinstance(error, DBAPIError):
            origin = error.orig
            if origin is None:
                return StoreError(f"{place}: {error}")
            if self.dialect == "sqlite":
                return of_sqlite(origin, place)
            return of_postgres(origin, place, own=own)
        if isinstance(error, sqlite3.Error):
            return of_sqlite(error, place)
        if isinstance(error, SQLAlchemyError):
            return StoreError(f"{place}: {error}")
        return None


def _begin(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _run(connection: sqlalchemy.Connection, sql: str, bound: Any) -> Answer:
    with connection.exec_driver_sql(sql, bound, execution_options=_PLAIN) as result:
        touched = result.rowcount
        if not result.returns_rows:
            return Answer((), (), touched)
        if connection.dialect.name == "sqlite":
            touched = -1  # asked too early: its driver counts as the rows are read
        return Answer(tuple(result.keys()), result.fetchall(), touched)


def _file_of(connection: sqlalchemy.Connection) -> str:
    """The file of a connection of SQLite, "" for one in memory."""
    known = connection.info  # of the driver's connection, for as long as that lives
    if _FILE not in known:
        driver: Any = connection.connection.driver_connection
        with rows_as_tuples(driver), text_as_str(driver):
            known[_FILE] = _run(connection, WHICH_FILE, None).rows[0][2] or ""
    return str(known[_FILE])


def _by_mark(sql: str, args: Sequence[Any]) -> tuple[str, Any]:
    text, arrange, numbers = native(sql)
    check_arguments(sql, numbers, len(args))
    return text, tuple(args if arrange is None else arrange(args))


def _as_it_is(sql: str, args: Sequence[Any]) -> tuple[str, Any]:
    return sql, tuple(args)


class ConnectionRiding(SqlAlchemyRiding):
    """Rides the transaction of a ``Connection``."""

    def __init__(self, connection: sqlalchemy.Connection, database: Database) -> None:
        self._connection = connection
        self._root = connection.get_transaction()
        super().__init__(connection.dialect.name, database)
        if self._root is not None:
            self._joined(self._root)

    def connection(self) -> sqlalchemy.Connection:
        """See `SqlAlchemyRiding.connection`."""
        if self._root is None:
            if self._connection.closed:
                raise StoreError("this transaction is over: its connection was closed")
            # As SQLAlchemy begins one with the first statement.
            self._root = self._connection.get_transaction() or self._connection.begin()
            self._joined(self._root)
        elif self._connection.get_transaction() is not self._root:
            raise StoreError(
                "this transaction is over: its connection has committed it or rolled it back. "
                "Adopt the connection again in its next one"
            )
        inside_while(self._database, self._is_open)
        return self._connection

    def _joined(self, root: sqlalchemy.RootTransaction) -> None:
        self._is_open = StillOpen(self._connection, root)
        inside_while(self._database, self._is_open)


class AsyncRiding:
    """The same for async code: what blocks is run where SQLAlchemy waits for its driver."""

    blocking = False

    def __init__(self, store: SqlAlchemyRiding, source: AsyncSession | AsyncConnection) -> None:
        self.dialect: Dialect = store.dialect
        self.store: SqlAlchemyRiding = store
        self._source = source

    async def _run(self, act: Callable[[], Any]) -> Any:
        return await self._source.run_sync(lambda _: step(act()))

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        touched: int = await self._run(partial(self.store.execute, sql, *args))
        return touched

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        rows: Sequence[Row] = await self._run(partial(self.store.fetch, sql, *args))
        return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = await self._run(partial(self.store.fetch_one, sql, *args))
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        return await self._run(partial(self.store.fetch_value, sql, *args))

    async def run_script(self, script: Script[T]) -> T:
        """See `RunsScripts.run_script`."""
        result: T = await self._run(partial(self.store.run_script, script))
        return result
