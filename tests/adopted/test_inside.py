"""While an adopted transaction is open, what would wait for it, or wouldn't see it, says so."""

import asyncio
import contextvars
import gc

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.orm import Session

from standfast import ConfigurationError, SagaNotFound
from tests.adopted.conftest import Order, Place, Ship
from tests.adopted.ways import done

KNOWING = ("session", "scoped", "sqlmodel", "connection")
"""How the names of those ways begin whose end is known."""

INSIDE = r"inside its own transaction: use tx\.start"


@pytest.fixture
async def way(opened, app, name):
    return await opened(name)


@pytest.fixture
async def opened_app(app):
    async with app:
        yield app


def called(handle, method, *args):
    """A method of an async or of a blocking handle, which belongs into another thread."""
    function = getattr(handle, method)
    return function(*args) if asyncio.iscoroutinefunction(function) else _in_thread(function, *args)


def _in_thread(function, *args):
    return asyncio.to_thread(function, *args)


async def test_until_its_end_it_counts_where_that_is_known(opened_app, way, name):
    app = opened_app
    handle = await done(app.adopt(way.source).start(Place, Order("a"), key="a"))
    if name.startswith(KNOWING):
        with pytest.raises(ConfigurationError, match=INSIDE):
            await app.start(Place, Order("a"), key="a")
        with pytest.raises(ConfigurationError, match=INSIDE):
            await asyncio.to_thread(app.blocking.start, Place, Order("a"), key="a")
        for method, args in (("signal", ("paid", 1)), ("cancel", ())):
            with pytest.raises(ConfigurationError, match=r"tx\.signal\(handle, …\) or tx\.cancel"):
                await called(handle, method, *args)
        for method in ("status", "timeline", "result"):
            with pytest.raises(SagaNotFound, match="its transaction hasn't committed yet"):
                await called(handle, method)
    await way.commit()
    assert not (await app.start(Place, Order("a"), key="a")).created
    await called(handle, "signal", "paid", 1)


async def test_it_ends_with_a_rollback(opened_app, way):
    await done(opened_app.adopt(way.source).start(Ship, Order("a"), key="a"))
    await way.rollback()
    assert (await opened_app.start(Ship, Order("a"), key="a")).created


async def test_the_next_transaction_is_not_taken_for_it(opened_app, way):
    await done(opened_app.adopt(way.source).start(Ship, Order("a"), key="a"))
    await way.commit()
    await way.begin()
    await way.run("SELECT 1")
    assert (await opened_app.start(Ship, Order("b"), key="b")).created


@pytest.mark.parametrize("backend", ["postgres"])  # SQLite's one writer would be waited for
async def test_other_tasks_are_not_inside(opened_app, opened):
    way = await opened("session-psycopg")
    go_on = asyncio.Event()

    async def other():
        await go_on.wait()
        return await opened_app.start(Ship, Order("b"), key="b")

    task = asyncio.create_task(other())
    await done(opened_app.adopt(way.source).start(Ship, Order("a"), key="a"))
    go_on.set()
    assert (await task).created


def a_session(app):
    engine = sqlalchemy.create_engine(app.database.url)
    return engine, Session(engine)


async def test_what_is_adopted_and_not_used_is_inside_nothing(opened_app):
    engine, session = a_session(opened_app)
    opened_app.adopt(session)
    assert (await opened_app.start(Ship, Order("a"), key="a")).created
    session.close()
    engine.dispose()


async def test_a_session_that_is_let_go_is_over(opened_app):
    engine, session = a_session(opened_app)
    with session.begin():
        session.execute(sqlalchemy.text("SELECT 1"))
        opened_app.adopt(session)
        session.rollback()
    opened_app.adopt(session).fetch("SELECT 1")
    del session
    gc.collect()
    assert (await opened_app.start(Ship, Order("a"), key="a")).created
    engine.dispose()


async def test_after_the_commit_its_followers_are_outside(opened_app):
    engine, session = a_session(opened_app)
    started = []

    @event.listens_for(session, "after_commit")
    def follow(_):
        started.append(asyncio.create_task(opened_app.start(Ship, Order("b"), key="b")))

    opened_app.adopt(session).start(Ship, Order("a"), key="a")
    session.commit()
    assert (await started[0]).created
    session.close()
    engine.dispose()


def test_so_is_what_is_called_after_it(app):
    engine, session = a_session(app)
    started = []
    tx = app.adopt(session)
    tx.start(Ship, Order("a"), key="a")
    tx.on_commit(lambda: started.append(app.blocking.start(Ship, Order("b"), key="b")))
    session.commit()
    app.blocking.close()
    assert [handle.created for handle in started] == [True]
    session.close()
    engine.dispose()


async def test_one_writer_is_not_waited_for_inside_what_has_it(opened_app):
    engine, session = a_session(opened_app)
    opened_app.adopt(session).start(Ship, Order("a"), key="a")
    with pytest.raises(ConfigurationError, match="the database has one writer"):
        async with opened_app.transaction():
            pytest.fail("entered")
    with pytest.raises(ConfigurationError, match="the database has one writer"):
        await asyncio.to_thread(opened_app.blocking.transaction().__enter__)
    session.commit()
    async with opened_app.transaction() as tx:
        assert await tx.fetch_value("SELECT 1") == 1
    session.close()
    engine.dispose()


async def test_whoever_uses_it_is_inside_in_whichever_context(opened_app, way, name):
    app, tx = opened_app, opened_app.adopt(way.source)

    async def elsewhere():
        await done(tx.start(Ship, Order("a"), key="a"))
        if name.startswith(KNOWING):
            with pytest.raises(ConfigurationError, match=INSIDE):
                await app.start(Ship, Order("a"), key="a")

    await asyncio.create_task(elsewhere(), context=contextvars.Context())
    await way.rollback()
    assert (await app.start(Ship, Order("a"), key="a")).created


async def test_none_is_adopted_inside_one_that_the_app_has_opened(opened_app, way):
    """They would be two: one may be rolled back alone, or wait for the other's key for ever."""
    async with opened_app.transaction():
        with pytest.raises(ConfigurationError, match="adopt yours without opening another"):
            opened_app.adopt(way.source)
        with pytest.raises(ConfigurationError, match="adopt yours without opening another"):
            await asyncio.to_thread(opened_app.adopt, way.source)
    await done(opened_app.adopt(way.source).fetch("SELECT 1"))
