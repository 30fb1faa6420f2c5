"""Sessions of SQLAlchemy 2: the transaction of one, and what is to follow its commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from standfast.adopted.endings import StillOpen
from standfast.adopted.sqlalchemy_connection import TWO_PHASES, AsyncRiding, SqlAlchemyRiding
from standfast.errors import ConfigurationError, StoreError
from standfast.inside import inside_while
from standfast.ports.database import Database
from standfast.transaction import OwnEnding


class SessionRiding(SqlAlchemyRiding):
    """Rides the transaction of a ``Session``, which begins with the first use if none is open."""

    def __init__(self, session: Session, database: Database) -> None:
        if session.twophase:
            raise ConfigurationError(f"adopt(a Session): {TWO_PHASES}")
        bind = _bind_of(session)
        super().__init__(bind.dialect.name, database)
        self.session: Session = session
        # What somebody else began there may be rolled back after the session's own commit.
        self.tells: bool = not isinstance(bind, sqlalchemy.Connection)
        self._root = session.get_transaction()
        # Another once it is closed, and that nothing else tells while no transaction was begun.
        self._life: object = session.identity_map
        if self._root is not None:
            self._joined(self._root)

    @property
    def over(self) -> bool:
        """Whether the transaction that was adopted is over."""
        if self._root is None:
            return self.session.identity_map is not self._life
        return self.session.get_transaction() is not self._root

    def root(self) -> SessionTransaction:
        """The transaction, begun if none is open. Raises `StoreError` once it is over."""
        if self.over:
            raise StoreError(
                "this transaction is over: its session has committed, rolled back or closed it. "
                "Adopt the session again in its next one"
            )
        if self._root is None:
            self._root = self.session.get_transaction() or self._begun()
            self._joined(self._root)
        inside_while(self._database, self._is_open)
        return self._root

    def _joined(self, root: SessionTransaction) -> None:
        self._is_open = StillOpen(self.session, root)
        inside_while(self._database, self._is_open)

    def _begun(self) -> SessionTransaction:
        if not self.session.autobegin:
            raise ConfigurationError(
                "adopt(a Session): no transaction is open, and this session begins none by itself "
                "(autobegin=False): use it inside session.begin()"
            )
        return self.session.begin()  # as it would itself with its next statement

    def connection(self) -> sqlalchemy.Connection:
        """See `SqlAlchemyRiding.connection`."""
        root = self.root()
        connection = self.session.connection()
        followed = _followed(self.session)
        if followed.connection is None:
            if any(other is not connection for other in _connections(root)):
                raise ConfigurationError(_SEVERAL)
            followed.connection = connection
        return connection

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`: by the session, which forgets what is undone."""
        self.begin()
        with self.session.begin_nested():
            yield

    def begin(self) -> None:
        """Begin the transaction, in the database too. Raises `StoreError` once it is over."""
        try:
            self.begin_in(self.connection())
        except Exception as error:  # noqa: BLE001 - raised anew
            self.tell(error, own=True)

    def flush(self) -> None:
        """See `SqlAlchemyRiding.flush`: as the session does before statements of its own."""
        if not self.session.autoflush:
            return
        try:
            self.session.flush()
        except InvalidRequestError as error:
            if "already flushing" not in str(error):  # as in its own hooks
                raise
        except Exception as error:
            self.of_user = error
            raise


class AsyncSessionRiding(AsyncRiding):
    """Rides the transaction of an ``AsyncSession``."""

    def __init__(self, store: SessionRiding, source: AsyncSession) -> None:
        super().__init__(store, source)
        self._begin = store.begin
        self._session = source

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`."""
        await self._session.run_sync(lambda _: self._begin())
        async with self._session.begin_nested():
            yield


def _bind_of(session: Session) -> sqlalchemy.Engine | sqlalchemy.Connection:
    try:
        return session.get_bind()
    except SQLAlchemyError as error:
        raise ConfigurationError(
            "adopt(a Session): it has no one engine or connection of its own: adopt "
            "session.connection(bind_arguments=…), of the app's own database"
        ) from error


def _connections(root: SessionTransaction) -> Iterable[Any]:
    """All connections that take part in a session's transaction."""
    known: Iterable[Any] | None = getattr(root, "connections", None)
    if known is None:  # SQLAlchemy before 2.1.7 has no other way to ask
        keys: Iterable[Any] = getattr(root, "_connections", ())
        known = [key for key in keys if isinstance(key, sqlalchemy.Connection)]
    return known


_SEVERAL = (
    "adopt(a Session): its transaction has connections of several engines, which commit one after "
    "the other, and one of them may fail: adopt the one on which your rows are written, "
    "session.connection(bind_arguments={'bind': engine})"
)


class SessionEnding:
    """Follows the transactions of one session, by its events, and those of its savepoints."""

    def __init__(self, store: SessionRiding) -> None:
        self._store = store
        self.known: bool = store.tells

    @property
    def over(self) -> bool:
        """See `Ending.over`."""
        return self._store.over

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""
        session, root = self._store.session, self._store.root()
        at = session.get_nested_transaction() or root
        _followed(session).acts.append((at, act))


class _Followed:
    """What is known of a session's transaction, from its first use by an app until its end.

    `connection` is the one that is adopted, `acts` are to follow the commit, each with the
    savepoint that it was given in.
    """

    __slots__ = ("acts", "connection")

    def __init__(self) -> None:
        self.connection: sqlalchemy.Connection | None = None
        self.acts: list[tuple[SessionTransaction, Callable[[], None]]] = []


_PLACE = "standfast"
"""Where a session keeps it: in its ``info``."""


def _followed(session: Session) -> _Followed:
    found: _Followed | None = session.info.get(_PLACE)
    if found is None:
        found = session.info[_PLACE] = _Followed()
    return found


# Of all sessions: to listen to one takes longer than all the rest that is done for it.
@event.listens_for(Session, "after_begin")
def _joined(
    session: Session, _transaction: SessionTransaction, connection: sqlalchemy.Connection
) -> None:
    followed: _Followed | None = session.info.get(_PLACE)
    if followed is None or followed.connection is None or followed.connection is connection:
        return
    raise ConfigurationError(_SEVERAL)


@event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    followed: _Followed | None = session.info.get(_PLACE)
    if followed is None:
        return
    acts, nested = followed.acts, session.get_nested_transaction()
    if nested is not None and nested.parent is not None:  # what was in it is now its parent's
        acts[:] = [(nested.parent if at is nested else at, act) for at, act in acts]
        return
    ending = OwnEnding()
    while acts:  # one that is given meanwhile too
        for _, act in acts:
            ending.add(act)
        acts.clear()
        ending.committed()


@event.listens_for(Session, "after_transaction_end")
def _ended(session: Session, ended: SessionTransaction) -> None:
    followed: _Followed | None = session.info.get(_PLACE)
    if followed is None:
        return
    if ended.parent is None:
        del session.info[_PLACE]
    elif ended.nested:
        followed.acts[:] = [(at, act) for at, act in followed.acts if at is not ended]
