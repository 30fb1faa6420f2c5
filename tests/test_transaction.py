"""What follows a commit, below all patterns."""

import logging

import pytest

from standfast import ConfigurationError, Standfast


@pytest.fixture
async def app(tmp_path):
    async with Standfast(f"sqlite:///{tmp_path}/app.db") as app:
        yield app


async def test_after_the_commit_in_order_and_not_before(app):
    told = []
    async with app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")
        tx.on_commit(lambda: told.append(1))
        tx.on_commit(lambda: told.append(2))
        assert told == []
    assert told == [1, 2]


async def test_never_after_a_rollback(app):
    told = []
    with pytest.raises(ZeroDivisionError):
        async with app.transaction() as tx:
            tx.on_commit(lambda: told.append(1))
            raise ZeroDivisionError
    assert told == []


async def test_one_that_raises_keeps_no_other_from_being_called(app, caplog):
    told = []
    async with app.transaction() as tx:
        tx.on_commit(lambda: 1 / 0)
        tx.on_commit(lambda: told.append(1))
    assert told == [1]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info


async def test_what_stops_the_process_comes_out_after_all_were_called(app):
    told = []

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with app.transaction() as tx:
            tx.on_commit(stop)
            tx.on_commit(lambda: told.append(1))
    assert told == [1]


async def test_one_that_is_given_while_they_are_called_is_called_too(app):
    told = []
    async with app.transaction() as tx:
        tx.on_commit(lambda: tx.on_commit(lambda: told.append(1)))
    assert told == [1]


@pytest.mark.parametrize("fails", [True, False])
async def test_after_the_end_it_is_refused(app, fails):
    try:
        async with app.transaction() as tx:
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    with pytest.raises(ConfigurationError, match="after the end of its transaction"):
        tx.on_commit(print)


async def test_what_nobody_would_call_or_await_is_refused(app):
    async def later():
        pass

    async with app.transaction() as tx:
        for wrong in (later, None, 5):
            with pytest.raises(ConfigurationError, match="give a plain function"):
                tx.on_commit(wrong)


async def test_a_script_rides_it(app):
    from standfast.ports.database import Statement, carry_out

    def script():
        yield Statement("CREATE TABLE rows (id int)")
        yield Statement("INSERT INTO rows VALUES ($1)", [(1,), (2,)], True)
        rows = yield Statement("SELECT id FROM rows WHERE id > $1", (1,))
        return [row[0] for row in rows]

    async with app.transaction() as tx:
        assert tx.dialect == "sqlite"
        assert await carry_out(tx, script()) == [2]
