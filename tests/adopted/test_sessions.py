"""What only sessions of SQLAlchemy have: several engines, hooks, rows yet to be written."""

import asyncio
import threading

import pytest
import sqlalchemy
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from standfast import BranchKey, ConfigurationError, StandfastError, StoreError, barrier
from standfast.affinity import BLOCKING_THREAD
from standfast.errors import Unsupported
from tests.adopted.conftest import Order, Ship

COUNT = "SELECT count(*) FROM orders WHERE id = $1"


class Rows(DeclarativeBase):
    pass


class Row(Rows):
    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)


def sqlite_engine(url):
    engine = sqlalchemy.create_engine(url)

    @event.listens_for(engine, "connect")
    def connected(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture
def engine(app, url):
    engine = sqlite_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine):
    with Session(engine) as session:
        yield session


def started(engine):
    with engine.connect() as connection:
        return (
            connection.exec_driver_sql("SELECT key FROM standfast_instances ORDER BY key")
            .scalars()
            .all()
        )


class TestSeveralEngines:
    """Their commits come one after the other, so nothing would be written as one."""

    @pytest.fixture
    def routed(self, engine, url):
        """A session whose mapped rows are elsewhere than its statements."""
        other = sqlalchemy.create_engine(url)

        class Routed(Session):
            def get_bind(self, mapper=None, **kwargs):
                return other if mapper is not None else engine

        with Routed() as session:
            yield session
        other.dispose()

    def test_one_that_was_there(self, app, routed):
        routed.get(Row, "a")
        with pytest.raises(ConfigurationError, match="connections of several engines"):
            app.adopt(routed).start(Ship, Order("a"))

    def test_one_that_joins_later(self, app, routed, engine):
        app.adopt(routed).start(Ship, Order("a"), key="a")
        with pytest.raises(ConfigurationError, match="connections of several engines"):
            routed.get(Row, "a")
        routed.rollback()
        assert started(engine) == []

    def test_one_that_joins_in_a_savepoint(self, app, routed):
        app.adopt(routed).start(Ship, Order("a"), key="a")
        with (
            pytest.raises(ConfigurationError, match="connections of several engines"),
            routed.begin_nested(),
        ):
            routed.get(Row, "a")

    def test_the_user_may_choose(self, app, routed, engine):
        routed.get(Row, "a")
        chosen = routed.connection(bind_arguments={"bind": engine})
        app.adopt(chosen).start(Ship, Order("a"), key="a")
        routed.commit()
        assert started(engine) == ["a"]

    def test_the_next_transaction_may_have_others(self, app, routed):
        app.adopt(routed).start(Ship, Order("a"), key="a")
        routed.commit()
        assert routed.get(Row, "a") is None


class TestWhatIsToFollowTheCommit:
    @pytest.mark.parametrize("end", ["close", "reset", "invalidate", "rollback"])
    def test_it_is_dropped_with_its_transaction(self, app, session, end):
        told = []
        tx = app.adopt(session)
        tx.start(Ship, Order("a"), key="a")
        tx.on_commit(lambda: told.append("gone"))
        getattr(session, end)()
        app.adopt(session).on_commit(lambda: told.append("next"))
        session.execute(text("SELECT 1"))
        session.commit()
        assert told == ["next"]

    def test_and_with_its_savepoint_however_that_ends(self, app, session):
        told = []
        session.begin()
        nested = session.begin_nested()
        app.adopt(session).on_commit(lambda: told.append("gone"))
        nested.close()
        session.commit()
        assert told == []

    def test_what_is_given_meanwhile_follows_too(self, app, session):
        told = []
        tx = app.adopt(session)
        tx.on_commit(lambda: tx.on_commit(lambda: told.append("second")))
        session.commit()
        assert told == ["second"]

    def test_workers_are_told_in_the_thread_of_their_loop(self, app, session):
        told = []

        async def hints(tx):
            tx.hint(lambda: told.append(threading.current_thread().name))

        with app.blocking:
            app.adopt(session).complete(hints)
            session.commit()
            app.blocking.complete(asyncio.sleep(0))  # by then its loop has come to it
        assert told == [BLOCKING_THREAD]

    def test_nothing_stays_in_the_session(self, app, session):
        for number in range(3):
            app.adopt(session).start(Ship, Order("a"), key=f"{number}")
            session.close()
        assert session.info == {}

    @pytest.mark.parametrize(
        "mode", ["conditional_savepoint", "create_savepoint", "rollback_only", "control_fully"]
    )
    def test_nobody_knows_it_in_what_somebody_else_began(self, app, engine, mode):
        with engine.connect() as connection:
            outer = connection.begin()
            session = Session(bind=connection, join_transaction_mode=mode)
            tx = app.adopt(session)
            tx.start(Ship, Order("a"), key="a")
            with pytest.raises(Unsupported, match="after your commit"):
                tx.on_commit(lambda: None)
            session.commit()
            if outer.is_active:
                outer.rollback()
        assert started(engine) == (["a"] if mode == "control_fully" else [])


class TestRowsThatAreYetToBeWritten:
    def test_the_users_statements_see_them(self, app, session):
        session.add(Row(id="a"))
        tx = app.adopt(session)
        assert tx.fetch_value(COUNT, "a") == 1
        session.add(Row(id="b"))
        assert tx.execute("UPDATE orders SET note = 'n' WHERE id = $1", "b") == 1

    def test_a_start_leaves_them_to_the_session(self, app, session):
        session.add(Row(id="a"))
        app.adopt(session).start(Ship, Order("a"))
        assert len(session.new) == 1

    def test_a_session_without_autoflush_leaves_them_too(self, app, engine):
        with Session(engine, autoflush=False) as session:
            session.add(Row(id="a"))
            assert app.adopt(session).fetch_value(COUNT, "a") == 0

    def test_in_the_hooks_of_a_flush(self, app, session):
        seen = []

        @event.listens_for(session, "after_flush")
        def flushed(session, context):
            seen.append(app.adopt(session).fetch_value(COUNT, "a"))

        session.add(Row(id="a"))
        session.commit()
        assert seen == [1]


def test_what_a_hook_of_the_users_raises_comes_out_as_it_is(app, session):
    @event.listens_for(session, "before_flush")
    def flushed(*_):
        raise ValueError("no such order")

    session.add(Row(id="a"))
    with pytest.raises(ValueError, match="no such order"):
        app.adopt(session).fetch_value(COUNT, "a")


def test_a_session_that_was_adopted_can_still_be_begun(app, session, engine):
    tx = app.adopt(session)
    with session.begin():
        tx.start(Ship, Order("a"), key="a")
    assert started(engine) == ["a"]


class TestClosedBeforeItsFirstStatement:
    """Else it would begin a transaction that nobody ends."""

    def closed(self, app, tx):
        for use in (
            lambda: tx.start(Ship, Order("a"), key="a"),
            lambda: tx.execute("SELECT 1"),
            lambda: tx.savepoint().__enter__(),
            lambda: tx.on_commit(print),
        ):
            with pytest.raises(StandfastError, match=r"over|after the end"):
                use()
        assert app.blocking.start(Ship, Order("a"), key="a").created
        app.blocking.close()

    def test_a_session(self, app, engine):
        with Session(engine) as session:
            tx = app.adopt(session)
        self.closed(app, tx)

    def test_one_that_goes_on_with_another_transaction(self, app, engine):
        session = Session(engine)
        session.add(Row(id="a"))
        session.commit()
        tx = app.adopt(session)
        session.close()
        self.closed(app, tx)
        with session.begin():
            assert app.adopt(session).fetch_value(COUNT, "a") == 1
            with pytest.raises(StoreError, match="over"):
                tx.execute("SELECT 1")

    def test_a_scoped_session(self, app, engine):
        scoped = scoped_session(sessionmaker(engine))
        tx = app.adopt(scoped)
        scoped.remove()
        self.closed(app, tx)

    def test_a_connection(self, app, engine):
        with engine.connect() as connection:
            tx = app.adopt(connection)
        with pytest.raises(StoreError, match="over"):
            tx.start(Ship, Order("a"), key="a")

    async def test_an_async_session(self, app, url):
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        async with AsyncSession(engine) as session:
            tx = app.adopt(session)
        with pytest.raises(StoreError, match="over"):
            await tx.start(Ship, Order("a"), key="a")
        with pytest.raises(StoreError, match="over"):
            await tx.fetch("SELECT 1")
        await engine.dispose()
        async with app:
            assert (await app.start(Ship, Order("a"), key="a")).created


class TestTwoPhases:
    def test_of_a_session(self, app, engine):
        with (
            Session(engine, twophase=True) as session,
            pytest.raises(ConfigurationError, match="in two phases"),
        ):
            app.adopt(session)

    @pytest.mark.parametrize("backend", ["postgres"])
    def test_of_a_connection(self, url, app, backend):
        engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
        with (
            engine.connect() as connection,
            connection.begin_twophase(),
            pytest.raises(ConfigurationError, match="in two phases"),
        ):
            app.adopt(connection).start(Ship, Order("a"))
        engine.dispose()


class TestSavepointsOfAsyncSessions:
    @pytest.fixture
    async def session(self, app, url):
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
        event.listen(
            engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN")
        )
        event.listen(
            engine.sync_engine, "connect", lambda one, _: setattr(one, "isolation_level", None)
        )
        async with AsyncSession(engine) as session:
            yield session
        await engine.dispose()

    @pytest.mark.parametrize("way", ["savepoint", "barrier"])
    async def test_one_whose_rows_are_refused_at_its_end_is_undone(self, app, session, way):
        session.add(Row(id="a"))
        tx = app.adopt(session)
        block = tx.savepoint() if way == "savepoint" else barrier(tx, BranchKey("1/pay", "action"))
        with pytest.raises(IntegrityError):
            async with block:
                session.add(Row(id="a"))
                await tx.start(Ship, Order("inside"), key="inside")
        await tx.start(Ship, Order("outside"), key="outside")
        await session.commit()
        assert await session.get(Row, "a") is not None
        keys = await session.execute(text("SELECT key FROM standfast_instances"))
        assert keys.scalars().all() == ["outside"]

    async def test_the_users_error_comes_out_though_all_was_rolled_back(self, app, session):
        tx = app.adopt(session)
        with pytest.raises(ZeroDivisionError):
            async with tx.savepoint():
                await session.rollback()
                raise ZeroDivisionError


async def test_streamed_rows_each_start_a_saga(app, engine):
    with engine.connect().execution_options(stream_results=True) as connection, connection.begin():
        tx = app.adopt(connection)
        for (number,) in connection.execute(text("VALUES (1), (2), (3)")):
            tx.start(Ship, Order("a"), key=f"{number}")
    assert started(engine) == ["1", "2", "3"]
