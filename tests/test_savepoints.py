"""Savepoints stand in each other: in two threads or tasks, one would undo the other's rows."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from standfast import ConfigurationError, Context, Retry, Saga, Standfast, step
from standfast.blocking import BlockingTransaction
from standfast.errors import StoreUnavailable


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/app.db"


async def rows(tx: Any) -> list[int]:
    return [row[0] for row in await tx.fetch("SELECT id FROM rows ORDER BY id")]


async def test_two_tasks_are_not_in_one_each(url: str) -> None:
    told: list[str] = []
    begun, tried = asyncio.Event(), asyncio.Event()
    async with Standfast(url) as app, app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")

        async def fails() -> None:
            with pytest.raises(ZeroDivisionError):
                async with tx.savepoint():
                    await tx.execute("INSERT INTO rows VALUES (1)")
                    begun.set()
                    await tried.wait()
                    raise ZeroDivisionError

        async def writes() -> None:
            await begun.wait()
            with pytest.raises(ConfigurationError, match="another thread or task"):
                async with tx.savepoint():
                    raise AssertionError
            tried.set()
            await failing
            async with tx.savepoint():
                await tx.execute("INSERT INTO rows VALUES (2)")
                tx.on_commit(lambda: told.append("kept"))

        failing = asyncio.create_task(fails())
        await writes()
        assert await rows(tx) == [2]
    assert told == ["kept"]


async def test_a_task_that_was_begun_inside_one_may_have_its_own(url: str) -> None:
    async with Standfast(url) as app, app.transaction() as tx:
        await tx.execute("CREATE TABLE rows (id int)")

        async def writes(id: int) -> None:
            async with tx.savepoint():
                await tx.execute("INSERT INTO rows VALUES ($1)", id)
                await asyncio.sleep(0)

        async with tx.savepoint():
            await asyncio.create_task(writes(1))
            first, second = await asyncio.gather(writes(2), writes(3), return_exceptions=True)
        assert first is None
        assert isinstance(second, ConfigurationError)
        assert await rows(tx) == [1, 2]


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
async def test_one_that_is_left_before_those_in_it_undoes_nothing_of_theirs(
    url: str, error: Exception | None
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()
    async with Standfast(url) as app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE rows (id int)")

        async def inner(tx: Any) -> None:
            async with tx.savepoint():
                await tx.execute("INSERT INTO rows VALUES (1)")
                begun.set()
                await end.wait()

        with pytest.raises(ConfigurationError, match="is left while one inside it is open"):
            async with app.transaction() as tx:
                try:
                    async with tx.savepoint():
                        task = asyncio.create_task(inner(tx))
                        await begun.wait()
                        if error is not None:
                            raise error
                finally:
                    end.set()
                    await task
                    assert await rows(tx) == [1]
        async with app.transaction() as tx:
            assert await rows(tx) == []


@contextmanager
def adopted(app: Standfast, path: Path) -> Iterator[BlockingTransaction]:
    connection = sqlite3.connect(path / "app.db", check_same_thread=False)
    with connection:
        connection.execute("BEGIN")
        yield app.adopt(connection)
    connection.close()


@pytest.mark.parametrize("is_adopted", [False, True])
def test_two_threads_are_not_in_one_each(url: str, tmp_path: Path, is_adopted: bool) -> None:
    app = Standfast(url)
    opened = adopted(app, tmp_path) if is_adopted else app.blocking.transaction()
    with app.blocking, opened as tx:
        tx.execute("CREATE TABLE rows (id int)")
        tries_threads(tx)
        assert tx.fetch_value("SELECT count(*) FROM rows") == 2


def tries_threads(tx: BlockingTransaction) -> None:
    """Two rows stay."""
    begun, tried = threading.Event(), threading.Event()

    def fails() -> None:
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.execute("INSERT INTO rows VALUES (1)")
            begun.set()
            assert tried.wait(20)
            raise ZeroDivisionError

    def writes() -> None:
        with tx.savepoint():
            tx.execute("INSERT INTO rows VALUES (2)")

    def part(act: Callable[[], None]) -> Callable[[], None]:
        context = copy_context()
        return lambda: context.run(act)

    with ThreadPoolExecutor() as pool:
        failing = pool.submit(fails)
        assert begun.wait(20)
        with pytest.raises(ConfigurationError, match="another thread or task"):
            writes()
        tried.set()
        failing.result(20)
        writes()
        with tx.savepoint():
            with pytest.raises(ConfigurationError, match="another thread or task"):
                pool.submit(writes).result(20)
            pool.submit(part(writes)).result(20)


def test_one_that_could_not_be_begun_is_not_open(url: str, tmp_path: Path) -> None:
    app = Standfast(url)
    with (
        closing(sqlite3.connect(tmp_path / "app.db")) as other,
        closing(sqlite3.connect(tmp_path / "app.db", timeout=0)) as own,
    ):
        other.execute("CREATE TABLE rows (id int)")
        other.execute("BEGIN IMMEDIATE")
        tx = app.adopt(own)
        with pytest.raises(StoreUnavailable), tx.savepoint():
            raise AssertionError
        other.rollback()
        with tx.savepoint():
            tx.execute("INSERT INTO rows VALUES (1)")
        own.commit()
        assert other.execute("SELECT id FROM rows").fetchall() == [(1,)]


async def test_two_threads_of_a_step_are_not_in_one_each(url: str) -> None:
    class Writes(Saga[str]):
        @step(transactional=True, no_compensation="only rows", retry=Retry(attempts=1))
        def write(self, word: str, ctx: Context, tx: BlockingTransaction) -> int:
            tx.execute("CREATE TABLE rows (id int)")
            tries_threads(tx)
            count: int = tx.fetch_value("SELECT count(*) FROM rows")
            return count

    app = Standfast(url).add(Writes())
    async with app.running():
        assert (await (await app.start(Writes, "lamp")).result(20))["write"] == 2
