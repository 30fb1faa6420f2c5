"""What every adopted transaction does, whoever opened it, by every driver."""

import asyncio
import contextlib
import logging

import pytest
import sqlalchemy

from standfast import BranchKey, ConfigurationError, SagaConflict, SagaNotFound, barrier
from standfast.doors import Transaction
from standfast.doors.blocking import BlockingTransaction
from standfast.errors import (
    ConstraintViolated,
    MigrationNeeded,
    StandfastError,
    StoreError,
    Unsupported,
)
from standfast.ports.journal import Filter
from tests.adopted.conftest import Order, Place, Ship
from tests.adopted.ways import done

ODD = 'it\'s 100% "odd" \\ $1 %s %(p1)s ?'


@pytest.fixture
async def way(opened, app, name):
    return await opened(name)


async def orders(app):
    async with app, app.transaction() as tx:
        return [row["id"] for row in await tx.fetch("SELECT id FROM orders ORDER BY id")]


async def keys(app, saga):
    async with app:
        found = await app.sagas.store.find(Filter(name=saga.saga_name()), limit=100)
        return sorted(one.key for one in found)


def test_sync_code_gets_a_transaction_without_await(app, way):
    tx = app.adopt(way.source)
    assert tx.dialect == app.database.dialect
    assert isinstance(tx, BlockingTransaction if way.blocking else Transaction)


async def test_what_is_written_commits_with_the_users_own_rows(app, way):
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    tx = app.adopt(way.source)
    handle = await done(tx.start(Ship, Order("a"), key="a"))
    await way.run("INSERT INTO orders (id) VALUES ('b')")
    assert handle.created
    await way.commit()
    assert await orders(app) == ["a", "b"]
    async with app.running():
        assert (await app.handle(handle.id).result(20))["ship"] == "shipped a"


async def test_and_is_rolled_back_with_them(app, way):
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    await done(app.adopt(way.source).start(Ship, Order("a"), key="a"))
    await way.rollback()
    assert await orders(app) == []
    assert await keys(app, Ship) == []


async def test_a_savepoint_takes_with_it_what_was_written_since(app, way):
    tx = app.adopt(way.source)
    await done(tx.start(Ship, Order("before"), key="before"))
    await way.savepoint()
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    await done(tx.start(Ship, Order("inside"), key="inside"))
    await way.roll_back_to_savepoint()
    await done(tx.start(Ship, Order("after"), key="after"))
    await way.commit()
    assert await orders(app) == []
    assert await keys(app, Ship) == ["after", "before"]


async def test_adopted_inside_a_savepoint_that_is_released(app, way):
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    await way.savepoint()
    tx = app.adopt(way.source)
    await done(tx.start(Ship, Order("a"), key="a"))
    await way.release()
    await done(tx.start(Ship, Order("b"), key="b"))
    await way.commit()
    assert await keys(app, Ship) == ["a", "b"]


async def test_signals_and_cancels(app, way):
    async with app:
        paid = await app.start(Place, Order("paid"))
        dropped = await app.start(Place, Order("dropped"))
    tx = app.adopt(way.source)
    await done(tx.signal(paid.id, "paid", 12))
    await done(tx.cancel(dropped.id, "changed my mind"))
    await way.commit()
    async with app.running():
        assert (await app.handle(paid.id).result(20)).as_dict() == {
            "paid": 12,
            "ship": "shipped paid",
        }
        with pytest.raises(Exception, match="changed my mind"):
            await app.handle(dropped.id).result(20)


async def test_signals_what_it_has_started_itself(app, way):
    tx = app.adopt(way.source)
    handle = await done(tx.start(Place, Order("a"), key="a"))
    await done(tx.signal(str(handle.id), "paid", 12))
    await way.commit()
    async with app.running():
        assert (await app.handle(handle.id).result(20))["paid"] == 12


async def test_finds_by_its_key_what_was_started_here_or_before(app, way):
    async with app:
        before = await app.start(Place, Order("a"), key="before")
    tx = app.adopt(way.source)
    own = await done(tx.start(Place, Order("a"), key="own"))
    for handle, key in ((before, "before"), (own, "own")):
        found = await done(tx.saga(Place, key))
        assert found.id == handle.id
        await done(tx.signal(found, Place.paid, 1))
        await done(tx.cancel(await done(tx.saga("place", key))))
    with pytest.raises(SagaNotFound, match=r"no saga 'place' has the key 'other'$"):
        await done(tx.saga(Place, "other"))
    await way.rollback()


async def test_what_nobody_has_started_is_told(app, way):
    tx = app.adopt(way.source)
    with pytest.raises(SagaNotFound):
        await done(tx.cancel("01a21da2-d326-73a9-9d17-f189e7b595c7"))


async def test_a_start_is_idempotent_by_its_key(app, way):
    tx = app.adopt(way.source)
    first = await done(tx.start(Ship, Order("a"), key="a"))
    again = await done(tx.start(Ship, Order("a"), key="a"))
    assert again.id == first.id
    assert not again.created
    with pytest.raises(SagaConflict, match="another input"):
        await done(tx.start(Ship, Order("b"), key="a"))
    await way.commit()
    assert await keys(app, Ship) == ["a"]


async def test_the_barrier_lets_a_branch_through_once(app, way):
    tx, key = app.adopt(way.source), BranchKey("1/pay", "action")

    async def act():
        block = barrier(tx, key)
        if way.blocking:
            with block as gate:
                if gate.first:
                    gate.result = {"n": 1}
        else:
            async with block as gate:
                if gate.first:
                    gate.result = {"n": 1}
        return gate

    assert (await act()).first
    second = await act()
    assert (second.first, second.why, second.result) == (False, "duplicate", {"n": 1})
    await way.commit()


async def test_an_error_inside_the_barrier_comes_out(app, way):
    tx = app.adopt(way.source)
    with pytest.raises(ZeroDivisionError):
        if way.blocking:
            with barrier(tx, BranchKey("1/pay", "action")):
                raise ZeroDivisionError
        else:
            async with barrier(tx, BranchKey("1/pay", "action")):
                raise ZeroDivisionError


def text(value):
    """Text, also of a connection that is set to answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value


async def test_what_a_barriers_body_wrote_before_its_error_is_undone_though_it_is_caught(app, way):
    key = BranchKey("1/pay", "action")
    insert = "INSERT INTO orders (id) VALUES ('inside')"
    tx = app.adopt(way.source)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            if way.blocking:
                with barrier(tx, key) as gate:
                    tx.execute(insert)
                    tx.start(Ship, Order("inside"), key="inside")
                    raise ZeroDivisionError
            else:
                async with barrier(tx, key) as gate:
                    await tx.execute(insert)
                    await tx.start(Ship, Order("inside"), key="inside")
                    raise ZeroDivisionError
        assert gate.first
    await done(tx.execute("INSERT INTO orders (id) VALUES ('after')"))
    await way.commit()
    assert await orders(app) == ["after"]
    assert await keys(app, Ship) == []


async def test_sql_as_everywhere_else(app, way):
    tx = app.adopt(way.source)
    insert = "INSERT INTO orders (id, note) VALUES ($1, $2)"
    assert await done(tx.execute(insert, "a", ODD)) == 1
    assert await done(tx.execute(insert, "b", None)) == 1
    rows = await done(tx.fetch("SELECT id, note FROM orders ORDER BY id"))
    assert [(text(row["id"]), text(row[1])) for row in rows] == [("a", ODD), ("b", None)]
    assert list(rows[0].keys()) == ["id", "note"]
    with pytest.raises(KeyError):
        rows[0]["other"]
    twice = "SELECT id FROM orders WHERE id = $2 OR id = $2 OR note = $1"
    assert {text(row[0]) for row in await done(tx.fetch(twice, ODD, "b"))} == {"a", "b"}
    one = await done(tx.fetch_one("SELECT id FROM orders WHERE id LIKE 'a%'"))
    assert one is not None
    assert text(one["id"]) == "a"
    assert await done(tx.fetch_one("SELECT id FROM orders WHERE id = $1", "c")) is None
    assert await done(tx.fetch_value("SELECT count(*) FROM orders")) == 2
    assert await done(tx.fetch_value("SELECT id FROM orders WHERE id = $1", "c")) is None
    assert text(await done(tx.fetch_value("SELECT '$1 % ' || '--' || $1", "x"))) == "$1 % --x"
    told = "SELECT id FROM orders -- it isn't $3, and not 100 %\nWHERE id = $1 /* nor $4's */"
    assert text(await done(tx.fetch_value(told, "a"))) == "a"
    assert await done(tx.execute("UPDATE orders SET note = $1", "z")) == 2
    await way.commit()
    assert await orders(app) == ["a", "b"]


async def test_touched_rows_are_counted_for_all_statements(app, way):
    tx = app.adopt(way.source)
    chosen, where = "WITH chosen AS (SELECT 'a' AS one)", "WHERE id IN (SELECT one FROM chosen)"
    insert = "INSERT INTO orders (id) VALUES ($1), ($2) RETURNING id"
    assert await done(tx.execute(insert, "a", "b")) == 2
    assert await done(tx.execute("UPDATE orders SET note = 'a' RETURNING id")) == 2
    assert await done(tx.execute(f"{chosen} UPDATE orders SET note = 'b' {where}")) == 1
    assert await done(tx.execute(f"{chosen} DELETE FROM orders {where} RETURNING id")) == 1
    assert await done(tx.execute(f"{chosen} DELETE FROM orders {where}")) == 0
    assert await done(tx.execute(f"-- all\n{chosen} DELETE FROM orders")) == 1


async def test_arguments_that_do_not_fit_are_told(app, way):
    tx = app.adopt(way.source)
    with pytest.raises(StoreError):
        await done(tx.execute("INSERT INTO orders (id, note) VALUES ($1, $2)", "a"))


async def test_a_violated_constraint_is_told_as_one(app, way):
    tx = app.adopt(way.source)
    await done(tx.execute("INSERT INTO orders (id) VALUES ($1)", "a"))
    with pytest.raises(ConstraintViolated):
        await done(tx.execute("INSERT INTO orders (id) VALUES ($1)", "a"))
    await way.rollback()


async def test_other_errors_of_the_driver_are_store_errors(app, way):
    tx = app.adopt(way.source)
    with pytest.raises(StoreError, match="nowhere"):
        await done(tx.fetch("SELECT * FROM nowhere"))
    await way.rollback()


@pytest.mark.parametrize("value", [2**70, "\ud800", "a\0b", object(), {1}])
async def test_so_are_those_that_python_raises_for_what_cannot_be_sent(app, way, value):
    with contextlib.suppress(StoreError):  # what one driver can't send another can
        await done(app.adopt(way.source).execute("INSERT INTO orders (id) VALUES ($1)", value))
    await way.rollback()


async def test_an_error_of_ours_is_told_once(app, way):
    tx = app.adopt(way.source)
    with pytest.raises(StoreError) as refused:
        await done(tx.execute("COMMIT"))
    await done(tx.execute("INSERT INTO orders (id) VALUES ($1)", "a"))
    with pytest.raises(ConstraintViolated) as violated:
        await done(tx.execute("INSERT INTO orders (id) VALUES ($1)", "a"))
    await way.rollback()
    await way.close()
    with pytest.raises(StandfastError) as over:
        await done(tx.execute("SELECT 1"))
    for error in (refused.value, violated.value, over.value):
        assert not isinstance(error.__cause__, StandfastError)
    assert str(violated.value).count("(id)=(a)") <= 1


async def test_it_leaves_the_end_of_the_transaction_to_its_owner(app, way):
    tx = app.adopt(way.source)
    for method in (tx.execute, tx.fetch, tx.fetch_one, tx.fetch_value):
        with pytest.raises(StoreError, match="COMMIT in a transaction"):
            await done(method("COMMIT"))


async def test_missing_tables_are_told_with_the_remedy(app, way):
    async with app, app.transaction() as tx:
        schema = "standfast." if app.database.dialect == "postgresql" else "standfast_"
        await tx.execute(f"DROP TABLE {schema}instances")
    with pytest.raises(MigrationNeeded, match="standfast migrate"):
        await done(app.adopt(way.source).start(Ship, Order("a")))
    await way.rollback()


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_it_is_of_no_use_after_the_end(app, way, end):
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    tx = app.adopt(way.source)
    await done(tx.start(Ship, Order("a"), key="a"))
    await getattr(way, end)()
    with pytest.raises(StoreError, match="is over"):
        await done(tx.start(Ship, Order("b"), key="b"))
    for method in (tx.execute, tx.fetch):  # in autocommit it would be written
        with pytest.raises(StoreError, match="is over"):
            await done(method("INSERT INTO orders (id) VALUES ($1)", "b"))
    kept = ["a"] if end == "commit" else []
    assert (await keys(app, Ship), await orders(app)) == (kept, kept)


async def test_nor_once_its_connection_is_closed(app, way):
    tx = app.adopt(way.source)
    await done(tx.start(Ship, Order("a"), key="a"))
    await way.close()
    with pytest.raises(StoreError, match="is over"):
        await done(tx.start(Ship, Order("b"), key="b"))


@pytest.mark.parametrize("backend", ["postgres"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg-async", "asyncpg", "connection-asyncpg"])
async def test_a_savepoint_that_is_refused_at_its_end_is_undone(app, opened, driver, backend):
    """As after a statement that failed, whose error the block kept to itself."""
    way = await opened(driver)
    tx, insert = app.adopt(way.source), "INSERT INTO orders (id) VALUES ($1)"
    await done(tx.execute(insert, "before"))
    with pytest.raises(StoreError, match="rolled the transaction back"):
        if way.blocking:
            with tx.savepoint():
                for _ in range(2):
                    with contextlib.suppress(ConstraintViolated):
                        tx.execute(insert, "inside")
        else:
            async with tx.savepoint():
                for _ in range(2):
                    with contextlib.suppress(ConstraintViolated):
                        await tx.execute(insert, "inside")
    await done(tx.execute(insert, "later"))
    await way.commit()
    assert await orders(app) == ["before", "later"]


async def test_where_commits_are_not_told_of_nothing_can_follow_them(app, way):
    if not way.tells:
        with pytest.raises(Unsupported, match="after your commit"):
            app.adopt(way.source).on_commit(lambda: None)
    else:
        app.adopt(way.source).on_commit(lambda: None)


async def test_what_follows_the_commit(app, way, telling):
    tx, told = app.adopt(way.source), []
    await done(tx.start(Ship, Order("a"), key="a"))
    tx.on_commit(lambda: told.append("first"))
    await way.savepoint()
    tx.on_commit(lambda: told.append("released"))
    await way.release()
    await way.savepoint()
    tx.on_commit(lambda: told.append("undone"))
    await way.roll_back_to_savepoint()
    tx.on_commit(lambda: told.append("last"))
    assert told == []
    await way.commit()
    assert told == ["first", "released", "last"]
    with pytest.raises(ConfigurationError, match="after the end"):
        tx.on_commit(lambda: told.append("late"))


async def test_nothing_follows_a_rollback(app, way, telling):
    tx, told = app.adopt(way.source), []
    tx.on_commit(lambda: told.append("wrong"))
    await done(tx.start(Ship, Order("a"), key="a"))
    await way.rollback()
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    await way.commit()
    assert told == []


async def test_one_that_raises_keeps_no_other_from_being_called(app, way, telling, caplog):
    tx, told = app.adopt(way.source), []
    await way.run("INSERT INTO orders (id) VALUES ('a')")
    tx.on_commit(lambda: 1 / 0)
    tx.on_commit(lambda: told.append(1))
    with caplog.at_level(logging.ERROR):
        await way.commit()
    assert told == [1]
    assert "what was to follow a commit failed" in caplog.text


async def test_a_worker_of_this_process_hears_of_it_without_a_poll(app, way):
    async with app.running(poll="600s"):
        await way.run("INSERT INTO orders (id) VALUES ('a')")
        handle = await done(app.adopt(way.source).start(Ship, Order("a"), key="a"))
        await way.commit()
        assert (await app.handle(handle.id).result(60))["ship"] == "shipped a"


async def test_nor_does_it_need_the_store_to_tell_it_of_those_that_are_told_of(
    app, way, telling, looked
):
    async with app.running(poll="600s"):
        await looked.wait()
        tx = app.adopt(way.source)
        handle = await done(tx.start(Place, Order("a"), key="a"))
        await way.commit()
        while await app.handle(handle.id).status() != "waiting":
            await asyncio.sleep(0.01)
        await way.begin()
        await done(app.adopt(way.source).signal(handle.id, "paid", 12))
        await way.commit()
        assert (await app.handle(handle.id).result(60))["ship"] == "shipped a"


async def test_a_worker_is_told_of_what_was_committed_and_of_nothing_else(
    app, way, telling, monkeypatch
):
    told = []
    monkeypatch.setattr(
        app.sagas.executor, "begun", lambda prepared: told.append(prepared.start.instance.key)
    )
    monkeypatch.setattr(app.sagas.executor, "sent", told.append)
    tx = app.adopt(way.source)
    handle = await done(tx.start(Place, Order("a"), key="a"))
    await way.savepoint()
    await done(tx.start(Place, Order("b"), key="b"))
    await way.roll_back_to_savepoint()
    await done(tx.signal(handle.id, "paid", 12))
    assert told == []
    await way.commit()
    assert told == ["a", handle.id]
    await way.begin()
    tx = app.adopt(way.source)
    await done(tx.start(Place, Order("c"), key="c"))
    await done(tx.cancel(handle.id))
    await way.rollback()
    assert told == ["a", handle.id]


async def test_the_next_transaction_is_adopted_anew(app, way):
    for key in ("a", "b"):
        await done(app.adopt(way.source).start(Ship, Order(key), key=key))
        await way.commit()
        await way.begin()
    assert await keys(app, Ship) == ["a", "b"]


async def test_nor_is_one_that_began_with_what_was_written_through_it(app, way):
    tx = app.adopt(way.source)
    await done(tx.start(Ship, Order("a"), key="a"))
    await way.commit()
    with pytest.raises(StoreError, match="is over"):
        await done(tx.start(Ship, Order("b"), key="b"))
    assert await keys(app, Ship) == ["a"]


def test_a_savepoint_that_comes_first_commits_nothing(app, url):
    # Where pysqlite has its own way to begin transactions: not before a savepoint.
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        tx = app.adopt(connection)
        with tx.savepoint():
            tx.execute("INSERT INTO orders (id) VALUES ('a')")
        connection.rollback()
        assert connection.exec_driver_sql("SELECT id FROM orders").fetchall() == []
    engine.dispose()


@pytest.mark.parametrize(
    ("sql", "begins"),
    [
        ("SELECT id FROM orders", False),
        ("WITH it AS (SELECT id FROM orders) SELECT * FROM it", False),
        ("/* it */ with it(n) AS (VALUES (1)) SELECT n FROM it", False),
        ("WITH it AS (SELECT 'a' AS n) INSERT INTO orders (id) SELECT n FROM it", True),
        ("WITH it AS (SELECT 'a' AS n)\nDELETE FROM orders WHERE id IN (SELECT n FROM it)", True),
    ],
)
async def test_what_only_reads_takes_no_writers_place(app, opened, sql, begins):
    way = await opened("sqlite3")
    app.adopt(way.source).fetch(sql)
    assert way.source.in_transaction is begins


async def test_a_connection_of_sqlite3_stays_as_its_owner_set_it_up(app, opened):
    way = await opened("sqlite3-odd")
    rows, texts = way.source.row_factory, way.source.text_factory
    app.adopt(way.source).start(Ship, Order("a"), key="a")
    assert way.source.row_factory is rows
    assert way.source.text_factory is texts is bytes
