"""Transactions of SQLAlchemy 2: of a ``Session`` or ``Connection``, and of their async twins.

SQLModel's sessions are SQLAlchemy's. A savepoint (``begin_nested``) takes with it what was written
since, if it is rolled back. Of a session's commit one learns by its events; of a connection's own,
SQLAlchemy tells before it and not after, so there workers learn of it from the database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, MissingGreenlet, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from standfast.adopted.endings import Unknown
from standfast.adopted.errors import of_postgres
from standfast.adopted.placeholders import by_name
from standfast.adopted.places import check_file, check_server
from standfast.adopted.riding import Answer, RidingTransaction
from standfast.adopted.sqlite import writes
from standfast.backends.sqlite.driver import WHICH_FILE, check_arguments, native
from standfast.backends.sqlite.errors import translate as of_sqlite
from standfast.errors import ConfigurationError, StandfastError, StoreError
from standfast.ports.database import Database, Row, Script
from standfast.ports.providing import Dialect
from standfast.stepping import step
from standfast.text import class_of
from standfast.transaction import Ending, OwnEnding

T = TypeVar("T")
Bind = Callable[[str, Sequence[Any]], tuple[str, Any]]


def adopt(source: Any, database: Database) -> tuple[RidingTransaction | AsyncRiding, Ending]:
    """See `standfast.adopted`."""
    if isinstance(source, scoped_session | async_scoped_session):
        source = source.registry()
    if isinstance(source, AsyncSession):
        store = SessionRiding(source.sync_session, database)
        return AsyncRiding(store, source), SessionEnding(store)
    if isinstance(source, AsyncConnection):
        return AsyncRiding(ConnectionRiding(_of(source), database), source), Unknown()
    if isinstance(source, Session):
        store = SessionRiding(source, database)
        return store, SessionEnding(store)
    if isinstance(source, sqlalchemy.Connection):
        return ConnectionRiding(source, database), Unknown()
    raise ConfigurationError(
        f"adopt({class_of(source)}): of SQLAlchemy, give a Session, an AsyncSession, a Connection "
        "or an AsyncConnection in which a transaction is open"
    )


def _of(source: AsyncConnection) -> sqlalchemy.Connection:
    if source.sync_connection is None:
        raise ConfigurationError(
            "adopt(an AsyncConnection): it isn't connected: use `async with engine.begin() as "
            "connection:`"
        )
    return source.sync_connection


class _Riding(RidingTransaction):
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
        self._bind: Bind | None = None

    def connection(self) -> sqlalchemy.Connection:
        """The connection with the open transaction. Raises `StoreError` once that is over."""
        raise NotImplementedError

    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """See `RidingTransaction.ask`."""
        connection = self.connection()
        if self._bind is None:
            self._bind = self._checked(connection)
        if writes(sql):
            self._begin(connection)
        text, bound = self._bind(sql, args)
        with connection.exec_driver_sql(text, bound) as result:
            touched = result.rowcount
            if not result.returns_rows:
                return Answer((), (), touched)
            return Answer(tuple(result.keys()), result.fetchall(), touched)

    def _begin(self, connection: sqlalchemy.Connection) -> None:
        """Begin what SQLite's driver would only begin with some later statement."""
        driver: Any = connection.connection.driver_connection
        if self.dialect == "sqlite" and not driver.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    def nested(self) -> SessionTransaction | sqlalchemy.NestedTransaction:
        """Set a savepoint as SQLAlchemy knows it, so that a session forgets what is undone."""
        connection = self.connection()
        self._begin(connection)
        return connection.begin_nested()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`."""
        with self.nested():
            yield

    def _checked(self, connection: sqlalchemy.Connection) -> Bind:
        """How arguments are bound there, once it is seen that a transaction can be open.

        Raises `ConfigurationError`.
        """
        driver: Any = connection.connection.dbapi_connection
        if self.dialect == "sqlite":
            path = connection.exec_driver_sql(WHICH_FILE).fetchall()[0][2]
            check_file(self._database, path or "")
            level = getattr(driver, "isolation_level", "")
            begun: Any = connection.connection.driver_connection
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
        place = self._database.url
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


def _by_mark(sql: str, args: Sequence[Any]) -> tuple[str, Any]:
    text, arrange, numbers = native(sql)
    check_arguments(sql, numbers, len(args))
    return text, tuple(args if arrange is None else arrange(args))


def _as_it_is(sql: str, args: Sequence[Any]) -> tuple[str, Any]:
    return sql, tuple(args)


class SessionRiding(_Riding):
    """Rides the transaction of a ``Session``."""

    def __init__(self, session: Session, database: Database) -> None:
        super().__init__(_dialect_of(session), database)
        self.session: Session = session
        if not session.in_transaction():
            if not session.autobegin:
                raise ConfigurationError(
                    "adopt(a Session): no transaction is open, and this session begins none by "
                    "itself (autobegin=False): adopt it after session.begin()"
                )
            session.begin()  # as it would itself with the next statement
        self._root = session.get_transaction()

    @property
    def over(self) -> bool:
        """Whether the transaction that was adopted is over."""
        return self.session.get_transaction() is not self._root

    def connection(self) -> sqlalchemy.Connection:
        """See `_Riding.connection`."""
        if self.over:
            raise StoreError(
                "this transaction is over: its session has committed, rolled back or closed it. "
                "Adopt the session again in its next one"
            )
        return self.session.connection()

    def nested(self) -> SessionTransaction:
        """See `_Riding.nested`."""
        self._begin(self.connection())
        return self.session.begin_nested()


def _dialect_of(session: Session) -> str:
    try:
        return session.get_bind().dialect.name
    except SQLAlchemyError as error:
        raise ConfigurationError(
            "adopt(a Session): it has no one engine or connection of its own: adopt "
            "session.connection(bind_arguments=…), of the app's own database"
        ) from error


class ConnectionRiding(_Riding):
    """Rides the transaction of a ``Connection``."""

    def __init__(self, connection: sqlalchemy.Connection, database: Database) -> None:
        self._connection = connection
        self._root = connection.get_transaction()
        super().__init__(connection.dialect.name, database)

    def connection(self) -> sqlalchemy.Connection:
        """See `_Riding.connection`."""
        if self._root is None:
            if self._connection.closed:
                raise ConfigurationError("adopt(a Connection): it is closed")
            # As SQLAlchemy begins one with the first statement.
            self._root = self._connection.get_transaction() or self._connection.begin()
        elif self._connection.get_transaction() is not self._root:
            raise StoreError(
                "this transaction is over: its connection has committed it or rolled it back. "
                "Adopt the connection again in its next one"
            )
        return self._connection


class AsyncRiding:
    """The same for async code: what blocks is run where SQLAlchemy waits for its driver."""

    blocking = False

    def __init__(self, store: _Riding, source: AsyncSession | AsyncConnection) -> None:
        self.dialect: Dialect = store.dialect
        self._store = store
        self._source = source

    async def _run(self, act: Callable[[], Any]) -> Any:
        return await self._source.run_sync(lambda _: step(act()))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`."""
        nested = await self._source.run_sync(lambda _: self._store.nested())
        try:
            yield
        except BaseException:
            await self._source.run_sync(lambda _: nested.rollback())
            raise
        await self._source.run_sync(lambda _: nested.commit())

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        touched: int = await self._run(partial(self._store.execute, sql, *args))
        return touched

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        rows: Sequence[Row] = await self._run(partial(self._store.fetch, sql, *args))
        return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = await self._run(partial(self._store.fetch_one, sql, *args))
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        return await self._run(partial(self._store.fetch_value, sql, *args))

    async def run_script(self, script: Script[T]) -> T:
        """See `RunsScripts.run_script`."""
        result: T = await self._run(partial(self._store.run_script, script))
        return result


class SessionEnding:
    """Follows the transactions of one session, by its events, and those of its savepoints."""

    known = True

    def __init__(self, store: SessionRiding) -> None:
        self._store = store

    @property
    def over(self) -> bool:
        """See `Ending.over`."""
        return self._store.over

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""
        session = self._store.session
        at = session.get_nested_transaction() or session.get_transaction()
        session.info.setdefault(_ACTS, []).append((at, act))


_ACTS = "standfast"
"""Where a session keeps what is to follow its commit, each with the savepoint it was given in."""


# Of all sessions: to listen to one takes longer than all the rest that is done for it.
@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    acts = session.info.get(_ACTS)
    if not acts:
        return
    nested = session.get_nested_transaction()
    if nested is not None:  # what was in it is now its parent's
        parent = nested.parent
        acts[:] = [(parent if at is nested else at, act) for at, act in acts]
        return
    ending, following = OwnEnding(), acts[:]
    acts.clear()
    for _, act in following:
        ending.add(act)
    ending.committed()


@event.listens_for(Session, "after_soft_rollback")
def _rolled_back(session: Session, ended: SessionTransaction) -> None:
    acts = session.info.get(_ACTS)
    if acts:
        acts[:] = [(at, act) for at, act in acts if not _is_inside(at, ended)]


def _is_inside(one: SessionTransaction | None, outer: SessionTransaction) -> bool:
    while one is not None:
        if one is outer:
            return True
        one = one.parent
    return False
