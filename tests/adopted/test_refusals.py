"""What can't be adopted is told loudly, with what to do."""

import asyncio
import sqlite3
import sys

import aiosqlite
import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from standfast import ConfigurationError, Standfast
from standfast.adopted.places import check_server
from standfast.errors import StoreError
from tests.adopted.conftest import Order, Ship
from tests.adopted.ways import POSTGRES, done, way


def sqlite_file(app):
    return app.database.url.removeprefix("sqlite:///")


@pytest.mark.parametrize(
    ("source", "shown"),
    [(5, "int"), ({}, "dict"), (sqlite3, "module"), (None, "None"), ("postgresql://", "'postgres")],
)
def test_what_is_no_transaction(app, source, shown, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    with pytest.raises(ConfigurationError, match=rf"adopt\(.*{shown}.*can't be adopted: give"):
        app.adopt(source)


def test_without_a_source_it_takes_django(app, monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    with pytest.raises(ConfigurationError, match=r"adopt\(\) without .* Django isn't set up.*give"):
        app.adopt()


def test_a_cursor_is_told_from_its_connection(app):
    with (
        sqlite3.connect(sqlite_file(app)) as connection,
        pytest.raises(ConfigurationError, match="give a Connection"),
    ):
        app.adopt(connection.cursor())
    connection.close()


def test_an_engine_is_told_from_its_connection(app):
    with pytest.raises(ConfigurationError, match="give a Session"):
        app.adopt(sqlalchemy.create_engine(app.database.url))


def test_memory_has_no_rows_to_commit_with():
    app = Standfast("memory://").add(Ship())
    connection = sqlite3.connect(":memory:")
    with pytest.raises(ConfigurationError, match=r"transaction of sqlite, and the app .*memory"):
        app.adopt(connection)
    connection.close()


class TestNothingIsOpen:
    def test_sqlite3(self, app):
        connection = sqlite3.connect(sqlite_file(app), isolation_level=None)
        with pytest.raises(ConfigurationError, match="no transaction is open"):
            app.adopt(connection)
        connection.execute("BEGIN")
        app.adopt(connection).start(Ship, Order("a"))
        connection.close()
        with pytest.raises(ConfigurationError, match="closed"):
            app.adopt(connection)

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has `autocommit` since 3.12")
    def test_sqlite3_with_autocommit(self, app):
        connection = sqlite3.connect(sqlite_file(app), autocommit=True)
        with pytest.raises(ConfigurationError, match="no transaction is open"):
            app.adopt(connection)
        connection.close()
        connection = sqlite3.connect(sqlite_file(app), autocommit=False)
        app.adopt(connection).start(Ship, Order("a"), key="a")
        connection.commit()
        connection.close()

    async def test_aiosqlite(self, app):
        async with aiosqlite.connect(sqlite_file(app), isolation_level=None) as connection:
            with pytest.raises(ConfigurationError, match="no transaction is open"):
                app.adopt(connection)
        with pytest.raises(ConfigurationError, match="aiosqlite"):
            app.adopt(connection)

    def test_sqlalchemy_in_autocommit(self, app):
        engine = sqlalchemy.create_engine(app.database.url, isolation_level="AUTOCOMMIT")
        with Session(engine) as session, pytest.raises(ConfigurationError, match="autocommit"):
            app.adopt(session).start(Ship, Order("a"))
        with engine.connect() as connection, pytest.raises(ConfigurationError, match="autocommit"):
            app.adopt(connection).start(Ship, Order("a"))
        engine.dispose()

    def test_a_session_that_begins_nothing_by_itself(self, app):
        engine = sqlalchemy.create_engine(app.database.url)
        with (
            Session(engine, autobegin=False) as session,
            pytest.raises(
                ConfigurationError, match=r"autobegin=False\): use it inside session.begin"
            ),
        ):
            app.adopt(session).start(Ship, Order("a"))
        engine.dispose()

    def test_a_session_without_an_engine_of_its_own(self, app):
        with pytest.raises(ConfigurationError, match="bind_arguments"):
            app.adopt(Session())

    def test_a_closed_connection(self, app):
        engine = sqlalchemy.create_engine(app.database.url)
        connection = engine.connect()
        connection.close()
        with pytest.raises((ConfigurationError, StoreError), match="closed"):
            app.adopt(connection).start(Ship, Order("a"))
        engine.dispose()

    async def test_an_async_connection_that_is_not_connected(self, app):
        engine = create_async_engine(f"sqlite+aiosqlite:///{sqlite_file(app)}")
        with pytest.raises(ConfigurationError, match="isn't connected"):
            app.adopt(engine.connect())
        await engine.dispose()

    @pytest.mark.parametrize("backend", ["postgres"])
    async def test_asyncpg(self, app, url, backend):
        connection = await asyncpg.connect(url)
        with pytest.raises(ConfigurationError, match="no transaction is open"):
            app.adopt(connection)
        async with connection.transaction():
            over = app.adopt(connection)
        await connection.close()
        with pytest.raises(ConfigurationError, match="it is closed"):
            app.adopt(connection)
        with pytest.raises(StoreError, match="its connection was closed"):
            await over.fetch("SELECT 1")
        pool = await asyncpg.create_pool(url, min_size=1, max_size=1)
        with pytest.raises(ConfigurationError, match="give the connection"):
            app.adopt(pool)
        async with pool.acquire() as lent:
            pass
        with pytest.raises(ConfigurationError, match="released back"):
            app.adopt(lent)
        await pool.close()

    @pytest.mark.parametrize("backend", ["postgres"])
    def test_psycopg2(self, app, url, backend):
        connection = psycopg2.connect(url)
        with pytest.raises(ConfigurationError, match=r"of psycopg2.*the session of SQLAlchemy"):
            app.adopt(connection)
        connection.close()

    @pytest.mark.parametrize("backend", ["postgres"])
    def test_psycopg(self, app, url, backend):
        with psycopg.connect(url, autocommit=True) as connection:
            with pytest.raises(ConfigurationError, match="in autocommit mode"):
                app.adopt(connection)
            with connection.transaction():
                app.adopt(connection).start(Ship, Order("a"), key="a")
            with pytest.raises(ConfigurationError, match="not its cursor"):
                app.adopt(connection.cursor())
        with pytest.raises(ConfigurationError, match="closed"):
            app.adopt(connection)


class TestAnotherDatabase:
    def test_another_file(self, app, tmp_path):
        other = sqlite3.connect(tmp_path / "other.db")
        with pytest.raises(ConfigurationError, match=r"other\.db, and the app keeps its data in"):
            app.adopt(other)
        other.close()

    def test_one_in_memory(self, app):
        other = sqlite3.connect(":memory:")
        with pytest.raises(ConfigurationError, match="a database in memory"):
            app.adopt(other)
        other.close()

    def test_the_same_file_by_another_path(self, app, tmp_path):
        (tmp_path / "link.db").symlink_to(sqlite_file(app))
        same = sqlite3.connect(tmp_path / "link.db")
        app.adopt(same).start(Ship, Order("a"), key="a")
        same.commit()
        same.close()

    async def test_another_file_of_sqlalchemy_and_aiosqlite(self, app, tmp_path):
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/other.db")
        with Session(engine) as session, pytest.raises(ConfigurationError, match=r"other\.db"):
            app.adopt(session).start(Ship, Order("a"))
        engine.dispose()
        async with aiosqlite.connect(tmp_path / "other.db") as other:
            with pytest.raises(ConfigurationError, match=r"other\.db"):
                await app.adopt(other).start(Ship, Order("a"))

    @pytest.mark.parametrize("backend", ["postgres"])
    @pytest.mark.parametrize("options", ["", "?max_size=5&sslmode=prefer"])
    @pytest.mark.parametrize("driver", POSTGRES)
    async def test_another_database_of_the_same_server(self, app, url, backend, driver, options):
        app, other = Standfast(url + options).add(Ship()), url.rpartition("/")[0] + "/postgres"
        theirs = way(driver, other)
        await theirs.open()
        told = "of the database 'postgres', and the app keeps its data in"
        with pytest.raises(ConfigurationError, match=told):
            await done(app.adopt(theirs.source).start(Ship, Order("a")))
        await theirs.close()

    def test_another_database_of_the_servers_default_port(self):
        for url in ("postgresql://u@db/app", "postgresql://u@db:5432/app"):
            database = Standfast(url).database
            for port in (None, 5432, "5432"):
                with pytest.raises(ConfigurationError, match="of the database 'other'"):
                    check_server(database, "db", port, "other")
                check_server(database, "db", port, "app")
            check_server(database, "db", 6432, "other")  # a pooler, maybe, of the same

    @pytest.mark.parametrize(
        "options",
        ["host=%2Frun", "port=6432", "dbname=other", "service=s", "a,b", "b:5433,db"],
    )
    def test_an_address_whose_options_lead_elsewhere_is_not_compared(self, options):
        url = (
            f"postgresql://u@db/app?{options}" if "=" in options else f"postgresql://{options}/app"
        )
        check_server(Standfast(url).database, "db", 5432, "other")

    @pytest.mark.parametrize("backend", ["postgres"])
    def test_another_dialect(self, app, tmp_path, backend):
        connection = sqlite3.connect(tmp_path / "other.db")
        with pytest.raises(ConfigurationError, match="transaction of sqlite, and the app"):
            app.adopt(connection)
        connection.close()

    def test_one_that_is_neither_postgresql_nor_sqlite(self, app):
        engine = sqlalchemy.create_mock_engine("mysql://", lambda *args: None)
        session = Session(engine)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="speaks mysql"):
            app.adopt(session)


async def test_the_session_of_an_async_engine_is_refused_in_sync_code(app):
    engine = create_async_engine(f"sqlite+aiosqlite:///{sqlite_file(app)}")
    async with AsyncSession(engine) as session:
        with pytest.raises(ConfigurationError, match="adopt the AsyncSession"):
            app.adopt(session.sync_session).start(Ship, Order("a"))
    await engine.dispose()


async def test_another_thread_tells_the_app_where_it_is_open(app, looked):
    """A hint goes to the event loop of the app, whichever thread commits."""
    engine = sqlalchemy.create_engine(app.database.url)

    def work():
        with Session(engine) as session, session.begin():
            return app.adopt(session).start(Ship, Order("a"), key="a").id

    async with app.running(poll="600s"):
        await looked.wait()
        id = await asyncio.to_thread(work)
        assert (await app.handle(id).result(60))["ship"] == "shipped a"
    engine.dispose()


def test_one_statement_for_a_start(app):
    """And not one more for its hint, its check, or its savepoint."""
    connection, seen = sqlite3.connect(sqlite_file(app)), []
    tx = app.adopt(connection)
    connection.execute("INSERT INTO orders (id) VALUES ('a')")
    connection.set_trace_callback(seen.append)
    tx.start(Ship, Order("a"), key="a")
    assert len(set(seen)) == 1, seen  # those of a trigger are told as what it belongs to
    connection.close()


@pytest.mark.parametrize("backend", ["postgres"])
def test_one_round_trip_for_a_start(app, url, backend):
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    seen = []
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    with Session(engine) as session, session.begin():
        app.adopt(session).start(Ship, Order("a"), key="a")
    assert len(seen) == 1, seen
    engine.dispose()
