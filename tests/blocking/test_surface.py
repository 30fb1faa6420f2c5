"""All that sync code can do, on SQLite and PostgreSQL."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from standfast import (
    ConfigurationError,
    Context,
    Retry,
    Saga,
    SagaCompensated,
    SagaConflict,
    SagaNotFound,
    Standfast,
    StoreError,
    step,
)
from standfast.blocking import BlockingSagaHandle, BlockingTransaction
from tests.blocking.sagas import Ask, Visit, app_on


def test_starts_and_waits_for_the_result(app: Standfast) -> None:
    handle = app.blocking.start(Visit, "lamp", key="1")
    assert isinstance(handle, BlockingSagaHandle)
    assert handle.created
    with pytest.raises(TimeoutError):
        handle.result(timeout=0.05)
    with app.blocking.running():
        assert handle.result(timeout=20)[Visit.note] == "lamp"
    assert handle.status() == "completed"
    assert app.blocking.start(Visit, "lamp", key="1").id == handle.id
    with pytest.raises(SagaConflict):
        app.blocking.start(Visit, "another", key="1")
    assert app.blocking.saga(Visit, "1").id == handle.id
    assert app.blocking.handle(str(handle.id)).story().state is not None
    with pytest.raises(SagaNotFound):
        app.blocking.saga(Visit, "2")


def test_signals_cancels_and_tells(app: Standfast) -> None:
    with app.blocking, app.blocking.running():
        asked = app.blocking.start(Ask, "tea?")
        asked.signal("answered", "yes", id="once")
        assert asked.result(20)["note"] == "tea?: yes"
        assert [entry for entry in asked.timeline().entries if "answered" in str(entry)]
        given_up = app.blocking.start(Ask, "coffee?")
        given_up.cancel("nobody is here")
        with pytest.raises(SagaCompensated):
            given_up.result(20)


def test_a_transaction_commits_all_or_nothing(app: Standfast) -> None:
    with app.blocking.transaction() as tx:
        tx.execute("CREATE TABLE words (word TEXT)")
        assert tx.dialect in ("sqlite", "postgresql")
    with app.blocking.transaction() as tx:
        assert tx.execute("INSERT INTO words VALUES ($1)", "lamp") == 1
        kept = tx.start(Visit, "lamp", key="kept")
        assert [row["word"] for row in tx.fetch("SELECT word FROM words")] == ["lamp"]
        row = tx.fetch_one("SELECT word FROM words")
        assert row is not None
        assert row["word"] == "lamp"
    assert isinstance(kept, BlockingSagaHandle)
    assert kept.status() in ("running", "pending")
    with pytest.raises(ZeroDivisionError), app.blocking.transaction() as tx:
        tx.execute("INSERT INTO words VALUES ($1)", "gone")
        tx.start(Visit, "gone", key="gone")
        raise ZeroDivisionError
    with app.blocking.transaction() as tx:
        assert tx.fetch_value("SELECT count(*) FROM words") == 1
    with pytest.raises(SagaNotFound):
        app.blocking.saga(Visit, "gone")
    with pytest.raises(StoreError, match=r"over|isn't open"):
        tx.execute("INSERT INTO words VALUES ($1)", "late")


def test_a_transaction_signals_and_cancels(app: Standfast) -> None:
    with app.blocking.running():
        asked, other = app.blocking.start(Ask, "tea?"), app.blocking.start(Ask, "milk?")
        with app.blocking.transaction() as tx:
            tx.signal(asked, "answered", "yes")
            tx.cancel(other.id, "no milk", by="cook")
        assert asked.result(20)["note"] == "tea?: yes"
        with pytest.raises(SagaCompensated, match="no milk"):
            other.result(20)


def test_what_follows_a_commit_is_called_in_the_callers_thread(app: Standfast) -> None:
    called: list[str] = []

    def note(word: str) -> None:
        called.append(f"{word} in {threading.current_thread().name}")

    with app.blocking.transaction() as tx:
        tx.on_commit(lambda: note("first"))
        tx.on_commit(lambda: tx.on_commit(lambda: note("third")))
        tx.on_commit(lambda: note("second"))
        assert called == []
    name = threading.current_thread().name
    assert called == [f"{word} in {name}" for word in ("first", "second", "third")]
    with pytest.raises(ConfigurationError, match="after the end"):
        tx.on_commit(lambda: note("late"))
    with pytest.raises(ZeroDivisionError), app.blocking.transaction() as tx:
        tx.on_commit(lambda: note("never"))
        raise ZeroDivisionError
    with pytest.raises(ConfigurationError, match="after the end"):
        tx.on_commit(lambda: note("late"))
    assert len(called) == 3


def test_inside_a_transaction_the_app_is_refused(app: Standfast) -> None:
    """Else SQLite's one writer would be waited for by who has it."""
    handle = app.blocking.start(Ask, "tea?")
    with app.blocking.transaction() as tx:
        tx.start(Visit, "inside")
        with pytest.raises(ConfigurationError, match=r"tx\.start"):
            app.blocking.start(Visit, "outside")
        with pytest.raises(ConfigurationError, match=r"tx\.signal"):
            handle.signal("answered", "yes")
    app.blocking.start(Visit, "after")


def test_so_is_whoever_uses_one_that_was_opened_in_another_context(app: Standfast) -> None:
    """FastAPI enters a dependency, calls the endpoint and leaves it each in a copy of a context."""
    block = app.blocking.transaction()
    tx = copy_context().run(block.__enter__)

    def endpoint(use: Callable[[], object]) -> None:
        use()
        with pytest.raises(ConfigurationError, match=r"tx\.start"):
            app.blocking.start(Visit, "outside")
        with pytest.raises(ConfigurationError, match=r"can't adopt a transaction inside"):
            app.adopt(sqlite3.connect(":memory:"))

    uses: list[Callable[[], object]] = [
        lambda: tx.start(Visit, "lamp", key="lamp"),
        lambda: tx.fetch_value("SELECT 1"),
        lambda: tx.savepoint().__enter__(),
    ]
    for use in uses:
        copy_context().run(endpoint, use)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(endpoint, uses[1]).result(20)
        copy_context().run(block.__exit__, None, None, None)
        assert (
            pool.submit(app.blocking.start, Visit, "lamp", key="lamp").result(20).created is False
        )


def acts_that_write(app: Standfast, handle: Any) -> list[Callable[[], object]]:
    operations = app.blocking.operations

    def another() -> None:
        with app.blocking.transaction() as tx:
            tx.start(Visit, "another")

    def runs() -> None:
        with app.blocking.running():
            raise AssertionError

    return [
        another,
        runs,
        lambda: operations.cancel([handle]),
        lambda: operations.signal(handle, "answered", '"yes"'),
        lambda: list(operations.purge(finished_for="1d")),
    ]


@pytest.mark.parametrize("url", ["sqlite", "memory"], indirect=True)
def test_what_needs_the_one_writer_is_refused_inside_a_transaction(app: Standfast) -> None:
    """As in async code: it would wait for whoever waits for it."""
    handle = app.blocking.start(Ask, "tea?")
    for act in acts_that_write(app, handle):
        with app.blocking.transaction() as tx:
            tx.start(Visit, "inside")
            with pytest.raises(StoreError, match="one writer: use that transaction"):
                act()
            assert handle.status() == "running"
    assert app.blocking.operations.cancel([handle]) == 1


@pytest.mark.parametrize("url", ["sqlite", "memory"], indirect=True)
async def test_so_it_is_inside_a_transactional_def_step_and_an_async_block(url: str) -> None:
    told: list[object] = []

    class Nests(Saga[str]):
        @step(transactional=True, no_compensation="only rows", retry=Retry(attempts=1))
        def nest(self, word: str, ctx: Context, tx: BlockingTransaction) -> None:
            nests(tx.start(Visit, word))

    def nests(handle: object) -> None:
        for act in acts_that_write(app, handle)[:1]:
            with pytest.raises(StoreError, match="one writer: use that transaction") as error:
                act()
            told.append(error.value)

    app = app_on(url).add(Nests())
    async with app.running():
        await (await app.start(Nests, "lamp")).result(20)
        async with app.transaction() as tx:
            await asyncio.to_thread(nests, await tx.start(Visit, "rug"))
    assert len(told) == 2


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_where_there_are_many_writers_transactions_may_stand_in_each_other(app: Standfast) -> None:
    with app.blocking.transaction() as outer:
        outer.start(Visit, "outer", key="outer")
        with app.blocking.transaction() as inner:
            inner.start(Visit, "inner", key="inner")
        assert app.blocking.saga(Visit, "inner").status() == "running"
    assert app.blocking.saga(Visit, "outer").status() == "running"


def test_operators_find_and_act(app: Standfast) -> None:
    operations = app.blocking.operations
    handles = [app.blocking.start(Ask, "tea?", key=f"{number}") for number in range(5)]
    found = operations.each(operations.select(name=Ask))
    assert {one.id for one in found} == {handle.id for handle in handles}
    assert operations.locate(f"{Ask.saga_name()}/3").id == handles[3].id
    assert operations.page(operations.select(), limit=2).next is not None
    assert operations.ids_of([handles[0], handles[1].id]) == [handles[0].id, handles[1].id]
    assert operations.timeline(handles[0]).id == handles[0].id
    assert operations.signal(handles, "answered", '"yes"') == 5
    started = operations.start(Visit, '"lamp"', key="json")
    forked = operations.fork(started, key="again")
    assert isinstance(forked, BlockingSagaHandle)
    with app.blocking.running():
        assert [handle.result(20)["note"] for handle in handles] == ["tea?: yes"] * 5
        assert forked.result(20)["note"] == "lamp"
    assert sum(operations.counts().values()) == 7
    assert len(list(operations.export(operations.select(name=Visit)))) >= 1
    assert operations.stuck() == []
    waiting = [app.blocking.start(Ask, "tea?") for _ in range(3)]
    told = [progress.done for progress in operations.tell(_cancelled(), waiting, batch=2)]
    assert told == [2, 3]


def _cancelled() -> object:
    from standfast.saga import events as ev

    return ev.CancelAsked("enough", "", False)


def test_an_iterator_may_be_left_early(app: Standfast) -> None:
    for number in range(3):
        app.blocking.start(Visit, "lamp", key=f"{number}")
    operations = app.blocking.operations
    for one in operations.each(operations.select()):
        assert one.key == "2"
        break
    assert len(list(operations.each(operations.select()))) == 3


def test_an_iterator_whose_loop_has_ended_says_so(app: Standfast) -> None:
    """It has told a part, which must not be taken for all."""
    handles = [app.blocking.start(Visit, "lamp", key=f"{number}") for number in range(3)]
    operations = app.blocking.operations
    half_read = [
        operations.each(operations.select()),
        operations.export(operations.select()),
        operations.tell(_cancelled(), handles, batch=1),
        app.blocking.progress(handles[0]),
    ]
    for iterator in half_read:
        assert next(iterator)
    app.blocking.close()
    for iterator in half_read:
        with pytest.raises(ConfigurationError, match="what was to follow is missing"):
            next(iterator)
    assert len(list(operations.each(operations.select()))) == 3


def test_wrong_options_of_an_iterator_are_refused_at_once(app: Standfast) -> None:
    handle = app.blocking.start(Visit, "lamp")
    with pytest.raises(ConfigurationError, match="timeout="):
        app.blocking.progress(handle, timeout="abc")
    with pytest.raises(ConfigurationError, match="after="):
        app.blocking.progress(handle, after=-1)
    with pytest.raises(ConfigurationError, match="isn't the id"):
        app.blocking.progress("nonsense")


def test_errors_come_as_they_are(app: Standfast) -> None:
    with pytest.raises(ConfigurationError, match="another-saga"):
        app.blocking.start("another-saga", 1)
    with pytest.raises(ConfigurationError, match="isn't the id"):
        app.blocking.handle("nonsense")
    with pytest.raises(StoreError), app.blocking.transaction() as tx:
        tx.execute("SELEC 1")


def test_what_is_undone_to_a_savepoint_leaves_the_rest(app: Standfast) -> None:
    called: list[str] = []
    with app.blocking.transaction() as tx:
        tx.start(Visit, "kept", key="kept")
        tx.on_commit(lambda: called.append("kept"))
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.start(Visit, "undone", key="undone")
            tx.on_commit(lambda: called.append("undone"))
            raise ZeroDivisionError
    assert app.blocking.saga(Visit, "kept").created is False
    with pytest.raises(SagaNotFound):
        app.blocking.saga(Visit, "undone")
    assert called == ["kept"]


def test_a_saga_is_followed(app: Standfast) -> None:
    with app.blocking.running():
        handle = app.blocking.start(Visit, "lamp")
        changes = list(app.blocking.progress(handle, timeout=20))
    assert changes[-1].status == "completed"
