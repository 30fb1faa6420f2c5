"""The contract of `Database`, apart from its transactions, as tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from standfast.clock import SYSTEM_CLOCK, SystemClock
from standfast.conformance.samples import (
    KINDS,
    Suite,
    another,
    facts,
    mail,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import MigrationNeeded
from standfast.ports.database import Database
from standfast.ports.journal import Append, Filter


class _Behind(SystemClock):
    """An hour behind."""

    @staticmethod
    def now() -> float:
        return time.time() - 3600


class DatabaseSuite(Suite):
    """Override the fixtures `database` and `empty`."""

    @pytest.fixture
    async def empty(self) -> AsyncIterator[Database]:
        """A database that is open but was never migrated; closed after the test."""
        raise NotImplementedError("override the fixture `empty`")

    async def test_migrate(self, empty: Database) -> None:
        """Applies everything once, in order, and tells what."""
        if not empty.migrations:
            pytest.skip("the backend has no tables")
        numbers = [migration.number for migration in empty.migrations]
        assert numbers == list(range(1, len(numbers) + 1))
        assert await empty.schema_version() == 0
        assert await empty.migrate() == list(empty.migrations)
        assert await empty.schema_version() == numbers[-1]
        assert await empty.migrate() == []
        token = await register(empty)
        id = await owned(empty, token)
        assert list(await empty.journal.append(token, [Append(id, 0, ["1"])])) == [None]

    async def test_clock_offset(self, database: Database) -> None:
        """Tells by how much a clock is behind the store's own, or 0 where the store has none."""
        assert abs(await database.clock_offset(SYSTEM_CLOCK)) < 60
        offset = await database.clock_offset(_Behind())
        assert offset == 0.0 or abs(offset - 3600) < 60

    async def test_migrate_keeps_what_is_there(self, database: Database) -> None:
        """Migrating again loses nothing."""
        id = await passive(database)
        assert await database.migrate() == []
        assert len(await facts(database, id)) == 1

    async def test_migrate_at_once(self, empty: Database) -> None:
        """Safe beside others who do the same: each migration is applied by one of them."""
        if not empty.migrations:
            pytest.skip("the backend has no tables")
        others = [another(empty) for _ in range(3)]
        await asyncio.gather(*(other.open() for other in others))
        try:
            done = await asyncio.gather(*(each.migrate() for each in (empty, *others, empty)))
            applied = [migration for some in done for migration in some]
            assert sorted(applied, key=lambda m: m.number) == list(empty.migrations)
            versions = [await each.schema_version() for each in (empty, *others)]
            assert set(versions) == {len(empty.migrations)}
        finally:
            await asyncio.gather(*(other.close() for other in others))

    async def test_missing_tables(self, empty: Database) -> None:
        """`MigrationNeeded`, which names the remedy, whatever is called first."""
        if not empty.migrations:
            pytest.skip("the backend has no tables")
        id = start().instance.id
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: empty.journal.start([start()], owner=None),
            lambda: empty.journal.append(1, [Append(id, 0, ["1"])]),
            lambda: empty.journal.claim(1, KINDS, now=0.0, limit=1),
            lambda: empty.journal.load([id]),
            lambda: empty.journal.find(Filter(), limit=1),
            lambda: empty.journal.send([mail(id)]),
            lambda: empty.leases.register("w", KINDS, ttl=1),
            lambda: empty.leases.workers(),
            lambda: empty.count_marks(before=0.0),
            lambda: empty.purge_marks(before=0.0, limit=1),
        ]
        for call in calls:
            with pytest.raises(MigrationNeeded, match="standfast migrate"):
                await call()
        with pytest.raises(MigrationNeeded, match="standfast migrate"):
            async with empty.transaction() as tx:
                await tx.mark("k", "do", "x", at=0.0)

    async def test_close_and_open_again(self, database: Database) -> None:
        """Closing twice is fine; what was committed is there again."""
        token = await register(database)
        id = await owned(database, token)
        await database.journal.append(token, [Append(id, 0, ["1"])])
        await database.close()
        await database.close()
        await database.open()
        assert (await facts(database, id))[1:] == ["1"]

    async def test_close_finishes_what_was_accepted(self, database: Database) -> None:
        """Writes under way when it closes are done."""
        starts = [start() for _ in range(20)]
        writes = [
            asyncio.ensure_future(database.journal.start([one], owner=None)) for one in starts
        ]
        await asyncio.sleep(0)
        await database.close()
        answers = [answer for (answer,) in await asyncio.gather(*writes)]
        assert all(answer.created for answer in answers)
        await database.open()
        assert len(await database.journal.load([one.instance.id for one in starts])) == 20

    async def test_another_process_sees_what_is_committed(self, database: Database) -> None:
        """And writes beside it."""
        second = another(database)
        await second.open()
        try:
            mine, theirs = await passive(database), await passive(second)
            assert len(await facts(second, mine)) == 1
            assert len(await facts(database, theirs)) == 1
            answers = await asyncio.gather(
                *(each.journal.start([start("k")], owner=None) for each in (database, second) * 5)
            )
            assert sum(answer.created for (answer,) in answers) == 1
        finally:
            await second.close()

    async def test_purge_marks(self, database: Database) -> None:
        """Up to `limit` of those set before that time; they can be counted first."""
        now = time.time()
        async with database.transaction() as tx:
            for n in range(5):
                await tx.mark(f"old-{n}", "do", "x", at=now - 100)
            await tx.mark("new", "do", "x", at=now)
        assert await database.count_marks(before=now - 50) == 5
        assert await database.purge_marks(before=now - 50, limit=3) == 3
        assert await database.count_marks(before=now - 50) == 2
        assert await database.purge_marks(before=now - 50, limit=3) == 2
        assert await database.purge_marks(before=now - 50, limit=3) == 0
        async with database.transaction() as tx:
            assert await tx.mark("new", "do", "again", at=now) is not None
            assert await tx.mark("old-0", "do", "again", at=now) is None
