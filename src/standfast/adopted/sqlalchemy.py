"""Transactions of SQLAlchemy 2: of a ``Session`` or ``Connection``, and of their async twins.

SQLModel's sessions are SQLAlchemy's. A savepoint (``begin_nested``) takes with it what was written
since, if it is rolled back. Of a session's commit one learns by its events; of a connection's own,
SQLAlchemy tells before it and not after, so there workers learn of it from the database.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from standfast.adopted.endings import Unknown
from standfast.adopted.riding import RidingTransaction
from standfast.adopted.sqlalchemy_connection import AsyncRiding, ConnectionRiding
from standfast.adopted.sqlalchemy_session import (
    AsyncSessionRiding,
    SessionEnding,
    SessionRiding,
)
from standfast.errors import ConfigurationError
from standfast.ports.database import Database
from standfast.text import class_of
from standfast.transaction import Ending


def adopt(source: Any, database: Database) -> tuple[RidingTransaction | AsyncRiding, Ending]:
    """See `standfast.adopted`."""
    if isinstance(source, scoped_session | async_scoped_session):
        source = source.registry()
    if isinstance(source, AsyncSession):
        store = SessionRiding(source.sync_session, database)
        return AsyncSessionRiding(store, source), SessionEnding(store)
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
