"""The memory backend against the contract of the ports, and what is its own."""

import asyncio
from contextlib import asynccontextmanager

import pytest

import standfast.backends.memory.leases
import standfast.backends.memory.marks

# Here, for Python 3.11 can't always compile in the middle of a fixture: "SystemError: AST
# constructor recursion depth mismatch".
import standfast.backends.memory.schema  # noqa: F401
from standfast.backends.memory import MemoryDatabase
from standfast.backends.memory.database import MemoryTransaction
from standfast.backends.memory.journal import JournalState, MemoryJournal
from standfast.conformance import (
    DatabaseSuite,
    JournalSuite,
    LeasesSuite,
    MarkSuite,
    TransactionSuite,
)
from standfast.conformance.samples import (
    facts,
    finish,
    journal,
    leases,
    migrate,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import ConfigurationError, StoreError, Unsupported
from standfast.ports.journal import Append, JournalStore
from standfast.ports.leases import LeaseStore
from standfast.ports.marks import MarkStore
from standfast.ports.schema import Schema, SchemaLine, SchemaMigration


class Memory:
    sql = False

    @pytest.fixture
    async def database(self):
        database = MemoryDatabase("memory://")
        await database.open()
        await migrate(database)
        yield database
        await database.close()

    @pytest.fixture
    async def empty(self):
        database = MemoryDatabase("memory://")
        await database.open()
        yield database
        await database.close()


class TestDatabase(Memory, DatabaseSuite): ...


class TestTransaction(Memory, TransactionSuite): ...


class TestJournal(Memory, JournalSuite): ...


class TestLeases(Memory, LeasesSuite): ...


class TestMarks(Memory, MarkSuite): ...


@pytest.fixture
async def database():
    database = MemoryDatabase()
    await database.open()
    yield database
    await database.close()


def test_a_wrong_url_is_refused():
    with pytest.raises(ConfigurationError, match="memory://"):
        MemoryDatabase("memory://shop")


async def test_there_are_no_tables(database):
    assert database.lines([JournalStore, MarkStore]) == []
    schema = database.port(Schema)
    migration = SchemaMigration(1, "own", "CREATE TABLE x (id BIGINT)")
    line = SchemaLine("own", (migration,))
    assert await schema.migrate([line]) == []
    with pytest.raises(Unsupported, match="sqlite"):
        schema.script(line, migration)


async def test_a_task_that_would_wait_for_itself_is_told(database):
    async with database.transaction():
        for call in (
            journal(database).start([], owner=None),
            leases(database).expire(),
            database.port(MarkStore).purge(before=0.0, limit=1),
        ):
            with pytest.raises(StoreError, match="transaction open"):
                await call
    assert await journal(database).start([], owner=None) == []


@pytest.mark.parametrize("port", [JournalStore, MarkStore])
async def test_a_transaction_of_another_database_is_refused(database, port):
    async with MemoryDatabase().transaction() as tx:
        with pytest.raises(Unsupported, match="memory://"):
            database.port(port).within(tx)
    with pytest.raises(Unsupported, match="memory://"):
        database.port(port).within(object())


async def test_hints_of_this_very_process(database):
    due, freed = [], []
    journal(database).on_due(due.append)
    leases(database).on_freed(lambda: freed.append(True))
    token = await register(database)
    mine = [await owned(database, token) for _ in range(2)]
    new = await passive(database)
    async with database.transaction() as tx:
        writer = journal(database).within(tx)
        (dropped,) = await writer.start([start()])
        assert dropped.created
        await asyncio.sleep(0)
        assert due == [new]
    await leases(database).release([token])
    assert await journal(database).reclaim() == 2
    await asyncio.sleep(0)
    assert due[:2] == [new, dropped.id]
    assert set(due[2:]) == set(mine)
    assert freed == [True]
    await database.close()
    await passive(database)
    await asyncio.sleep(0)
    assert len(due) == 4


async def test_what_is_rolled_back_gives_no_hints(database):
    due = []
    journal(database).on_due(due.append)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            await journal(database).within(tx).start([start()])
            raise ZeroDivisionError
    await asyncio.sleep(0)
    assert due == []


async def test_owners_leave_nothing_behind(database):
    token = await register(database)
    id = await owned(database, token)
    await journal(database).append(token, [finish(id, 0)])
    assert database.state(JournalState).owned == {}
    assert (await journal(database).purge("saga", finished_before=1e12, limit=1)).count == 1
    assert database.state(JournalState).records == {}


# Subclasses


class RecordingJournal(MemoryJournal):
    async def append(self, owner, appends):
        self._database.seen.append("append")
        return await super().append(owner, appends)

    async def set_aside(self, owner, id, *, status, cause):
        self._database.seen.append(f"aside: {cause}")
        await super().set_aside(owner, id, status=status, cause=cause)


class TransactionWithSql(MemoryTransaction):
    async def execute(self, sql, *args):
        self.database.seen.append(sql)
        return 1


class Recording(MemoryDatabase):
    makes = {JournalStore: RecordingJournal}  # noqa: RUF012 - so it is said in its docstring

    def __init__(self):
        super().__init__()
        self.seen = []
        self.fails = False

    def begin(self):
        return TransactionWithSql(self)

    @asynccontextmanager
    async def transaction(self):
        async with super().transaction() as tx:
            yield tx
            self.seen.append("before")
            if self.fails:
                raise StoreError("as if the disk had failed")
        self.seen.append("after")


async def test_a_subclass_puts_a_port_of_its_own_in_the_place():
    database = Recording()
    assert database.port(JournalStore) is database.port(JournalStore)
    due = []
    journal(database).on_due(due.append)
    token = await register(database)
    id = await owned(database, token)
    assert list(await journal(database).append(token, [Append(id, 0, ["1"])])) == [None]
    await journal(database).set_aside(token, id, status="stuck", cause="unreadable")
    assert database.seen == ["append", "aside: unreadable"]
    await database.close()
    await passive(database)
    await asyncio.sleep(0)
    assert due == []


async def test_a_subclass_acts_before_and_after_each_commit():
    database = Recording()
    token = await register(database)
    id = await owned(database, token)
    async with database.transaction() as tx:
        assert await tx.execute("INSERT") == 1
        await journal(database).within(tx).append(token, Append(id, 0, ["1"]))
        database.seen.append("block")
    assert database.seen == ["INSERT", "block", "before", "after"]
    database.fails = True
    with pytest.raises(StoreError, match="disk"):
        async with database.transaction() as tx:
            await journal(database).within(tx).append(token, Append(id, 1, ["2"]))
    assert (await facts(database, id))[1:] == ["1"]


async def test_staged_changes_of_all_ports_commit_together(database):
    class Counter:
        def __init__(self):
            self.count = 0

    class StagedCount:
        def __init__(self, state):
            self.state = state
            self.added = 0

        def commit(self):
            self.state.count += self.added

    state = database.state(Counter)
    assert database.state(Counter) is state
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as tx:
            database.mine(tx).staged(StagedCount, state).added += 1
            raise ZeroDivisionError
    async with database.transaction() as tx:
        database.mine(tx).staged(StagedCount, state).added += 1
        database.mine(tx).staged(StagedCount, state).added += 1
        await journal(database).within(tx).start([start("k")])
        assert state.count == 0
    assert state.count == 2
    assert await journal(database).by_key("saga", "order", "k") is not None
    with pytest.raises(StoreError, match="over"):
        database.mine(tx).staged(StagedCount, state)


async def test_memory_closed_tells_of_no_freed_lease():
    """Who had subscribed was told by a database that was closed."""
    database, told = MemoryDatabase(), []
    leases = database.port(LeaseStore)
    leases.on_freed(lambda: told.append("freed"))
    await database.close()
    (token,) = await leases.acquire(["x"], "me", ttl=60.0)
    await leases.release([token])
    await asyncio.sleep(0.01)
    assert told == []
