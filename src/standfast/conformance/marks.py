"""The contract of `MarkStore`, as tests."""

# ruff: noqa: PT012 - blocks that raise are what is tested

from __future__ import annotations

import asyncio
import time

import pytest

from standfast.conformance.samples import Suite, Undo, Wrap, marks
from standfast.errors import StoreError
from standfast.ports.database import Database
from standfast.ports.marks import Mark


class MarkSuite(Suite):
    """Override the fixture `database`, and `sql` where there is no SQL."""

    async def test_set(self, database: Database, wrap: Wrap) -> None:
        """None if new, else the one there with its reason and result; by (key, operation)."""
        async with database.transaction() as tx:
            writer = marks(database).within(wrap(tx))
            assert await writer.set("k", "do", "first", at=1.0) is None
            await writer.keep_result("k", "do", '{"text":"ü"}')
            assert await writer.set("k", "undo", "other", at=1.0) is None
        async with database.transaction() as tx:
            writer = marks(database).within(wrap(tx))
            assert await writer.set("k", "do", "again", at=2.0) == Mark("first", '{"text":"ü"}')
            assert await writer.set("k", "undo", "again", at=2.0) == Mark("other", None)
            assert await writer.set("k2", "do", "x", at=2.0) is None
            assert await writer.set("k2", "do", "y", at=2.0) == Mark("x", None)

    async def test_rollback(self, database: Database, wrap: Wrap) -> None:
        """If the block raises, no mark is set and no result is kept."""
        async with database.transaction() as tx:
            await marks(database).within(wrap(tx)).set("there", "do", "first", at=1.0)
        with pytest.raises(Undo):
            async with database.transaction() as tx:
                writer = marks(database).within(wrap(tx))
                await writer.set("k", "do", "lost", at=1.0)
                await writer.keep_result("k", "do", "1")
                await writer.keep_result("there", "do", "1")
                raise Undo
        async with database.transaction() as tx:
            writer = marks(database).within(wrap(tx))
            assert await writer.set("k", "do", "again", at=2.0) is None
            assert await writer.set("there", "do", "again", at=2.0) == Mark("first", None)

    async def test_keep_result_of_one_operation(self, database: Database, wrap: Wrap) -> None:
        """It is nothing to the other operations of the key, nor to other keys."""
        async with database.transaction() as tx:
            writer = marks(database).within(wrap(tx))
            for key, operation in (("k", "do"), ("k", "undo"), ("l", "do")):
                await writer.set(key, operation, "first", at=1.0)
            await writer.keep_result("k", "do", "1")
            with pytest.raises(StoreError):
                await writer.keep_result("l", "undo", "1")
            for key, operation, result in (
                ("k", "do", "1"),
                ("k", "undo", None),
                ("l", "do", None),
            ):
                assert await writer.set(key, operation, "again", at=2.0) == Mark("first", result)

    async def test_keep_result_later(self, database: Database, wrap: Wrap) -> None:
        """With a mark that another transaction set, and in place of another result."""
        async with database.transaction() as tx:
            await marks(database).within(wrap(tx)).set("k", "do", "first", at=1.0)
        for result in ("1", '{"two":2}'):
            async with database.transaction() as tx:
                await marks(database).within(wrap(tx)).keep_result("k", "do", result)
        async with database.transaction() as tx:
            there = await marks(database).within(wrap(tx)).set("k", "do", "again", at=2.0)
        assert there == Mark("first", '{"two":2}')

    @pytest.mark.parametrize("commits", [True, False])
    async def test_set_by_two_at_once(self, database: Database, wrap: Wrap, commits: bool) -> None:
        """The second waits for the first to end, and sees its mark if it committed."""
        marked, order = asyncio.Event(), []

        async def first() -> None:
            async with database.transaction() as tx:
                writer = marks(database).within(wrap(tx))
                assert await writer.set("k", "do", "first", at=1.0) is None
                marked.set()
                await asyncio.sleep(0.1)
                await writer.keep_result("k", "do", "1")
                order.append("first")
                if not commits:
                    raise Undo

        async def second() -> Mark | None:
            await marked.wait()
            async with database.transaction() as tx:
                mark = await marks(database).within(wrap(tx)).set("k", "do", "second", at=1.0)
                order.append("second")
                return mark

        _, mark = await asyncio.gather(first(), second(), return_exceptions=True)
        assert order == ["first", "second"]
        assert mark == (Mark("first", "1") if commits else None)

    async def test_keep_result_without_a_mark(self, database: Database, wrap: Wrap) -> None:
        """`StoreError`: there is nothing to keep it with."""
        with pytest.raises(StoreError):
            async with database.transaction() as tx:
                await marks(database).within(wrap(tx)).keep_result("nowhere", "do", "1")

    async def test_write_after_the_block(self, database: Database, wrap: Wrap) -> None:
        """A clear error, and nothing is written."""
        async with database.transaction() as tx:
            writer = marks(database).within(wrap(tx))
        with pytest.raises(StoreError):
            await writer.set("k", "do", "late", at=1.0)
        assert await marks(database).count(before=2.0) == 0

    async def test_purge(self, database: Database) -> None:
        """Up to `limit` of those set before that time; they can be counted first."""
        now = time.time()
        store = marks(database)
        async with database.transaction() as tx:
            for n in range(5):
                await store.within(tx).set(f"old-{n}", "do", "x", at=now - 100)
            await store.within(tx).set("new", "do", "x", at=now)
        assert await store.count(before=now - 50) == 5
        assert await store.purge(before=now - 50, limit=3) == 3
        assert await store.count(before=now - 50) == 2
        assert await store.purge(before=now - 50, limit=3) == 2
        assert await store.purge(before=now - 50, limit=3) == 0
        assert await store.count(before=now) == 0, "exclusive"
        assert await store.purge(before=now, limit=3) == 0, "as well"
        async with database.transaction() as tx:
            assert await store.within(tx).set("new", "do", "again", at=now) is not None
            assert await store.within(tx).set("old-0", "do", "again", at=now) is None
