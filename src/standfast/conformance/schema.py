"""The contract of `Schema`, and of ports on missing tables, as tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import pytest

from standfast.conformance.samples import (
    KINDS,
    LONG,
    PORTS,
    Suite,
    Wrap,
    another,
    facts,
    journal,
    leases,
    mail,
    marks,
    migrate,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import ConfigurationError, MigrationNeeded, StoreError
from standfast.ports.database import Database
from standfast.ports.journal import Append, Filter, JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore
from standfast.ports.schema import AppliedMigration, Schema, SchemaLine, SchemaMigration

Call: TypeAlias = Callable[[], Awaitable[object]]

_FIRST = SchemaMigration(1, "first", "CREATE TABLE conformance_one (id BIGINT PRIMARY KEY);\n")
_SECOND = SchemaMigration(
    2,
    "second",
    "CREATE TABLE conformance_two (id BIGINT PRIMARY KEY);\n"
    "INSERT INTO conformance_two (id) SELECT id + 1 FROM conformance_one;\n",
)
_BROKEN = SchemaMigration(3, "broken", "INSERT INTO conformance_nowhere (id) VALUES (1);\n")


def _line(*migrations: SchemaMigration, name: str = "conformance") -> SchemaLine:
    return SchemaLine(name, migrations)


def _all_of(lines: Sequence[SchemaLine]) -> list[AppliedMigration]:
    return [AppliedMigration(line.name, each) for line in lines for each in line.migrations]


def _numbers(lines: Sequence[SchemaLine]) -> Mapping[str, frozenset[int]]:
    return {line.name: frozenset(range(1, line.newest + 1)) for line in lines}


class SchemaSuite(Suite):
    """Override the fixtures `database` and `empty`."""

    @pytest.fixture
    async def empty(self) -> AsyncIterator[Database]:
        """A database that is open but was never migrated; closed after the test."""
        raise NotImplementedError("override the fixture `empty`")

    @pytest.fixture
    def tables(self, empty: Database) -> Sequence[SchemaLine]:
        """The lines of all ports of the suites; skips where there are no tables."""
        lines = empty.lines(PORTS)
        if not lines:
            pytest.skip("the backend has no tables")
        return lines

    # lines

    async def test_lines(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """Each is numbered from 1 and comes once, after those that it needs."""
        for line in tables:
            numbers = [migration.number for migration in line.migrations]
            assert numbers == list(range(1, len(numbers) + 1))
            assert line.newest == len(numbers)
        (coordination,) = empty.lines([LeaseStore])
        (own,) = empty.lines([MarkStore])
        needed = list(empty.lines([JournalStore]))
        assert needed[0] == coordination
        assert own not in needed
        assert list(empty.lines([JournalStore, LeaseStore, JournalStore])) == needed
        assert list(empty.lines([MarkStore, JournalStore])) == [own, *needed]
        assert list(empty.lines([])) == []
        assert len({line.name for line in tables}) == len(tables)

    # migrate, applied

    async def test_migrate(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """Applies everything once, in order, and tells what."""
        schema = empty.port(Schema)
        assert await schema.applied() == {}
        assert await migrate(empty) == _all_of(tables)
        assert await schema.applied() == _numbers(tables)
        assert await migrate(empty) == []
        assert await schema.applied() == _numbers(tables)
        token = await register(empty)
        id = await owned(empty, token)
        assert list(await journal(empty).append(token, [Append(id, 0, ["1"])])) == [None]

    async def test_migrate_nothing(self, empty: Database) -> None:
        """Without lines there is nothing to do, and nothing is done."""
        assert await empty.port(Schema).migrate([]) == []
        assert await empty.port(Schema).applied() == {}

    async def test_migrate_keeps_what_is_there(self, database: Database) -> None:
        """Migrating again loses nothing."""
        id = await passive(database)
        assert await migrate(database) == []
        assert len(await facts(database, id)) == 1

    async def test_migrate_chosen_lines(
        self, empty: Database, tables: Sequence[SchemaLine]
    ) -> None:
        """Makes their tables and no others; others may come later, in any order."""
        schema = empty.port(Schema)
        chosen = empty.lines([MarkStore])
        assert await schema.migrate(chosen) == _all_of(chosen)
        assert await schema.applied() == _numbers(chosen)
        assert await marks(empty).count(before=0.0) == 0
        with pytest.raises(MigrationNeeded):
            await leases(empty).leases()
        with pytest.raises(MigrationNeeded):
            await journal(empty).count("saga")
        coordination = empty.lines([LeaseStore])
        assert await schema.migrate(coordination) == _all_of(coordination)
        assert await leases(empty).leases() == []
        with pytest.raises(MigrationNeeded):
            await journal(empty).start([start()], owner=None)
        done = await migrate(empty)
        assert done == [each for each in _all_of(tables)
                        if each not in _all_of([*chosen, *coordination])]  # fmt: skip
        await passive(empty)
        assert await schema.applied() == _numbers(tables)

    async def test_migrate_at_once(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """Safe beside others who do the same: each migration is applied by one of them."""
        others = [another(empty) for _ in range(3)]
        await asyncio.gather(*(other.open() for other in others))
        try:
            done = await asyncio.gather(*(migrate(each) for each in (empty, *others, empty)))
            assert [each for some in done for each in some] == _all_of(tables)
            for each in (empty, *others):
                assert await each.port(Schema).applied() == _numbers(tables)
        finally:
            await asyncio.gather(*(other.close() for other in others))

    async def test_migrate_onwards(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """A line that has grown gets what is new, and keeps what is there."""
        schema = empty.port(Schema)
        assert await schema.migrate([_line(_FIRST)]) == [AppliedMigration("conformance", _FIRST)]
        assert await schema.applied() == {"conformance": {1}}
        async with empty.transaction() as tx:
            await tx.execute("INSERT INTO conformance_one (id) VALUES ($1)", 6)
        grown = _line(_FIRST, _SECOND)
        assert await schema.migrate([grown]) == [AppliedMigration("conformance", _SECOND)]
        assert await schema.applied() == {"conformance": {1, 2}}
        async with empty.transaction() as tx:
            assert await tx.fetch_value("SELECT id FROM conformance_two") == 7
        assert await schema.migrate([_line(_FIRST)]) == [], "an older process beside it"
        assert await schema.applied() == {"conformance": {1, 2}}

    async def test_migrate_all_or_nothing(
        self, empty: Database, tables: Sequence[SchemaLine]
    ) -> None:
        """A migration that fails leaves no trace of any, and the next try begins where it was."""
        schema = empty.port(Schema)
        await schema.migrate([_line(_FIRST)])
        other = _line(SchemaMigration(1, "x", "CREATE TABLE conformance_x (id BIGINT);"), name="x")
        with pytest.raises(StoreError):
            await schema.migrate([other, _line(_FIRST, _SECOND, _BROKEN)])
        assert await schema.applied() == {"conformance": {1}}
        for table in ("conformance_two", "conformance_x"):
            with pytest.raises(StoreError):
                async with empty.transaction() as tx:
                    await tx.fetch(f"SELECT id FROM {table}")  # noqa: S608 - the test's own table
        done = await schema.migrate([other, _line(_FIRST, _SECOND)])
        assert [(each.line, each.migration.number) for each in done] == [
            ("x", 1),
            ("conformance", 2),
        ]

    @pytest.mark.parametrize(
        "sql",
        [
            "CREATE TABLE conformance_x (id BIGINT); INSERT INTO conformance_x VALUES ('oops);",
            "CREATE TABLE conformance_x (id BIGINT); /* not closed",
            'CREATE TABLE conformance_x (id BIGINT); CREATE TABLE "not closed (id BIGINT);',
            "CREATE TABLE conformance_x (id BIGINT); CREATE TABLE conformance_y (id BIGINT",
            "CREATE TABLE conformance_x (id BIGINT); CREATE TRIGGER t BEGIN SELECT 1;",
        ],
        ids=["string", "comment", "name", "bracket", "trigger"],
    )
    async def test_migrate_unfinished(
        self, empty: Database, tables: Sequence[SchemaLine], sql: str
    ) -> None:
        """SQL that ends in the middle is refused: nothing is applied, and nothing noted."""
        schema = empty.port(Schema)
        slip = _line(_FIRST, SchemaMigration(2, "it's a slip", sql))
        with pytest.raises((StoreError, ConfigurationError)):
            await schema.migrate([slip])
        assert await schema.applied() == {}
        for table in ("conformance_one", "conformance_x"):
            with pytest.raises(StoreError):
                async with empty.transaction() as tx:
                    await tx.fetch(f"SELECT id FROM {table}")  # noqa: S608 - the test's own table
        await schema.migrate([_line(_FIRST, _SECOND)])
        assert await schema.applied() == {"conformance": {1, 2}}

    async def test_migrate_a_gap(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """What was left out before others is applied, however high the numbers are."""
        schema = empty.port(Schema)
        third = SchemaMigration(3, "third", "CREATE TABLE conformance_three (id BIGINT);")
        line = _line(_FIRST, _SECOND, third)
        noted = SchemaMigration(2, "left out", "INSERT INTO conformance_one (id) VALUES (6);")
        await schema.migrate([_line(_FIRST, noted, third)])
        async with empty.transaction() as tx:
            where = "standfast_" if empty.dialect == "sqlite" else "standfast."
            await tx.execute(f"DELETE FROM {where}schema_migrations WHERE number = 2")  # noqa: S608
        assert await schema.applied() == {"conformance": {1, 3}}
        assert await schema.migrate([line]) == [AppliedMigration("conformance", _SECOND)]
        assert await schema.applied() == {"conformance": {1, 2, 3}}
        async with empty.transaction() as tx:
            assert await tx.fetch_value("SELECT id FROM conformance_two") == 7

    async def test_migrate_two_lines_of_one_name(self, empty: Database) -> None:
        """Refused if they differ, for which of them was applied couldn't be told."""
        schema = empty.port(Schema)
        with pytest.raises(ConfigurationError, match="'conformance'"):
            await schema.migrate([_line(_FIRST), _line(_FIRST, _SECOND)])
        assert await schema.applied() == {}

    async def test_migrate_a_line_twice(
        self, empty: Database, tables: Sequence[SchemaLine]
    ) -> None:
        """The same line is applied once."""
        done = await empty.port(Schema).migrate([_line(_FIRST), _line(_FIRST)])
        assert done == [AppliedMigration("conformance", _FIRST)]

    @pytest.mark.parametrize("numbers", [(), (0,), (2,), (1, 3), (2, 1), (1, 1), (0, 1)])
    def test_numbers_of_a_line(self, numbers: Sequence[int]) -> None:
        """They are 1, 2, 3 …; any others are refused when the line is made."""
        with pytest.raises(ConfigurationError, match="must be numbered 1, 2, 3"):
            _line(*(SchemaMigration(number, "x", "") for number in numbers))

    async def test_to_take_over(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """Only what an older version made is taken over."""
        schema = empty.port(Schema)
        assert await schema.to_take_over() == {}
        await migrate(empty)
        assert await schema.to_take_over() == {}

    async def test_script(self, empty: Database, tables: Sequence[SchemaLine]) -> None:
        """The migration's SQL, and a note of it under the line's name."""
        for line in tables:
            for migration in line.migrations:
                script = empty.port(Schema).script(line, migration)
                assert migration.sql.strip() in script
                assert f"'{line.name}'" in script
                assert migration.name in script
                *_, noted = empty.port(Schema).statements(line, migration)
                assert f"'{line.name}'" in noted
        assert empty.port(Schema).taking_over()
        assert await empty.port(Schema).applied() == {}, "nothing was run"

    # missing tables

    @pytest.mark.parametrize("lacking", ["everything", "the port's own"])
    async def test_missing_tables(
        self, empty: Database, tables: Sequence[SchemaLine], wrap: Wrap, lacking: str
    ) -> None:
        """`MigrationNeeded`, which names the remedy, whatever is called first."""
        calls = {
            LeaseStore: self._lease_calls(empty),
            JournalStore: [*self._journal_calls(empty), *self._writer_calls(empty, wrap)],
            MarkStore: self._mark_calls(empty, wrap),
        }
        if lacking != "everything":
            del calls[LeaseStore]
            await empty.port(Schema).migrate(empty.lines([LeaseStore]))
        for port, of_port in calls.items():
            for number, call in enumerate(of_port):
                with pytest.raises(StoreError, match="standfast migrate") as caught:
                    await call()
                assert type(caught.value) is MigrationNeeded, (port, number)

    def _lease_calls(self, empty: Database) -> list[Call]:
        store = leases(empty)
        return [
            lambda: store.acquire(["w"], "w", ttl=LONG),
            lambda: store.renew([1], ttl=LONG),
            lambda: store.annotate(1, "{}"),
            lambda: store.release([1]),
            lambda: store.expire(),
            lambda: store.leases(),
            lambda: store.leases("w"),
        ]

    def _journal_calls(self, empty: Database) -> list[Call]:
        store, id = journal(empty), start().instance.id
        return [
            lambda: store.start([start()], owner=None),
            lambda: store.start([start()], owner=1),
            lambda: store.append(1, [Append(id, 0, ["1"])]),
            lambda: store.claim(1, KINDS, now=0.0, limit=1),
            lambda: store.next_wake(KINDS),
            lambda: store.collect(1, [id]),
            lambda: store.send([mail(id)]),
            lambda: store.set_aside(1, id, status="stuck", cause=""),
            lambda: store.reassign([id], version=2),
            lambda: store.flag_unclaimable("saga", due_before=0.0, status="x", cause=""),
            lambda: store.release(1),
            lambda: store.reclaim(),
            lambda: store.owned(),
            lambda: store.load([id]),
            lambda: store.find(Filter(), limit=1),
            lambda: store.by_key("saga", "order", "k"),
            lambda: store.count("saga"),
            lambda: store.purge("saga", finished_before=0.0, limit=1),
            lambda: store.count_finished("saga", finished_before=0.0),
        ]

    def _writer_calls(self, empty: Database, wrap: Wrap) -> list[Call]:
        id = start().instance.id

        async def start_one() -> None:
            async with empty.transaction() as tx:
                await journal(empty).within(wrap(tx)).start([start()])

        async def append() -> None:
            async with empty.transaction() as tx:
                await journal(empty).within(wrap(tx)).append(1, Append(id, 0, ["1"]))

        async def send() -> None:
            async with empty.transaction() as tx:
                await journal(empty).within(wrap(tx)).send([mail(id)])

        async def instance() -> None:
            async with empty.transaction() as tx:
                await journal(empty).within(wrap(tx)).instance(id)

        return [start_one, append, send, instance]

    def _mark_calls(self, empty: Database, wrap: Wrap) -> list[Call]:
        store = marks(empty)

        async def mark() -> None:
            async with empty.transaction() as tx:
                await store.within(wrap(tx)).set("k", "do", "x", at=0.0)

        async def keep_result() -> None:
            async with empty.transaction() as tx:
                await store.within(wrap(tx)).keep_result("k", "do", "1")

        return [
            lambda: store.count(before=0.0),
            lambda: store.purge(before=0.0, limit=1),
            mark,
            keep_result,
        ]
