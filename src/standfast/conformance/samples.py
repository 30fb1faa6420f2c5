"""What the suites have in common: sample instances, and fixtures to override."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

import pytest

from standfast.ids import new_id
from standfast.ports.database import Database, Row, StoreTransaction
from standfast.ports.journal import Append, Instance, JournalStore, Loaded, Mail, RowChange, Start
from standfast.ports.leases import Lease, LeaseStore
from standfast.ports.marks import MarkStore
from standfast.ports.providing import Dialect
from standfast.ports.schema import AppliedMigration, Schema

KIND = ("saga", "order", 1)
OTHER_KIND = ("saga", "invoice", 2)
KINDS = (KIND, OTHER_KIND)
LONG = 600.0
"""A lease, in seconds, that doesn't run out while a test runs."""
PORTS: tuple[type, ...] = (LeaseStore, JournalStore, MarkStore)
"""The ports whose tables the fixture `database` has."""

Wrap: TypeAlias = Callable[[StoreTransaction], StoreTransaction]


class Undo(Exception):
    """Raised in the block of a transaction to roll it back."""


class PlainTransaction:
    """A transaction that can run SQL and nothing else, as somebody's own would be."""

    def __init__(self, inner: StoreTransaction) -> None:
        self._inner = inner

    @property
    def dialect(self) -> Dialect:
        """See `StoreTransaction.dialect`."""
        return self._inner.dialect

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        return await self._inner.execute(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        return await self._inner.fetch(sql, *args)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        return await self._inner.fetch_one(sql, *args)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        return await self._inner.fetch_value(sql, *args)


def start(key: str = "", *, kind: tuple[str, str, int] = KIND, **changes: Any) -> Start:
    """A start with a key of its own unless one is given; `changes` are columns, or `fact`."""
    fact = changes.pop("fact", '{"type":"started"}')
    now = time.time()
    id = new_id()
    pattern, name, version = kind
    row = Instance(
        id=id,
        pattern=pattern,
        name=name,
        version=version,
        key=key or f"key-{id}",
        correlation_id="trace-1",
        input_hash="hash-1",
        status="running",
        step="",
        cause="",
        owner=None,
        wake_at=now,
        deadline_at=now + 3600,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )
    for column, value in changes.items():
        setattr(row, column, value)
    return Start(row, fact)


def mail(to: UUID, id: str = "", *, at: float | None = None, body: str = '{"ok":true}') -> Mail:
    """A mail with an id of its own unless one is given."""
    return Mail(to, id or str(new_id()), "signal", body, time.time() if at is None else at)


def finish(id: UUID, after: int, facts: Sequence[str] = ('{"type":"ended"}',)) -> Append:
    """The append that ends an instance."""
    return Append(id, after, facts, RowChange("completed", finished_at=time.time()), release=True)


class Suite:
    """The fixtures of every suite. Override `database`, and `sql` where there is no SQL."""

    sql: ClassVar[bool] = True

    @pytest.fixture
    async def database(self) -> AsyncIterator[Database]:
        """An open and migrated database that holds nothing; closed after the test."""
        raise NotImplementedError("override the fixture `database`")

    @pytest.fixture
    async def worker(self, database: Database) -> int:
        """The token of a worker's lease."""
        return await register(database)

    @pytest.fixture
    async def stale(self, database: Database) -> int:
        """A token whose lease was ended by `expire`."""
        token = await register(database, ttl=0.001)
        await asyncio.sleep(0.01)
        assert await leases(database).expire() == [token]
        return token

    @pytest.fixture(params=["its own", "plain"])
    def wrap(self, request: pytest.FixtureRequest) -> Wrap:
        """What a transaction goes through before a port writes in it: nothing, or a wrapper."""
        if request.param == "its own":
            return lambda tx: tx
        if not self.sql:
            pytest.skip("the backend has no SQL")
        return PlainTransaction

    @pytest.fixture
    async def table(self, database: Database) -> AsyncIterator[str]:
        """A user's table: (id, text, data)."""
        if not self.sql:
            pytest.skip("the backend has no SQL")
        name = "conformance_rows"
        async with database.transaction() as tx:
            await tx.execute(
                f"CREATE TABLE {name} (id BIGINT PRIMARY KEY, text TEXT, data BYTEA,"
                " CHECK (id <> 13))"
            )
        yield name
        async with database.transaction() as tx:
            await tx.execute(f"DROP TABLE {name}")


async def migrate(database: Database) -> list[AppliedMigration]:
    """Make the tables that the suites need; what was done."""
    return await database.port(Schema).migrate(database.lines(PORTS))


def journal(database: Database) -> JournalStore:
    """Its journal."""
    return database.port(JournalStore)


def leases(database: Database) -> LeaseStore:
    """Its leases."""
    return database.port(LeaseStore)


def marks(database: Database) -> MarkStore:
    """Its marks."""
    return database.port(MarkStore)


def another(database: Database) -> Database:
    """A second connection to the same database, not yet open, as another process would make it."""
    if not database.capabilities.many_processes:
        pytest.skip("the backend is for one process")
    make: Any = type(database)
    second: Database = make(database.url)
    return second


def note_of(*kinds: tuple[str, str, int]) -> str:
    """The note of the lease of a worker that has these kinds."""
    return json.dumps({"kinds": kinds})


async def register(
    database: Database,
    name: str = "worker",
    ttl: float = LONG,
    kinds: Sequence[tuple[str, str, int]] = KINDS,
) -> int:
    """Acquire the lease of a worker of that name, as each of its processes does; its token."""
    (token,) = await leases(database).acquire(
        [f"member:{new_id()}"], name, ttl=ttl, note=note_of(*kinds)
    )
    assert token is not None
    return token


async def acquire(database: Database, name: str, ttl: float = LONG) -> int | None:
    """Try for one lease."""
    (token,) = await leases(database).acquire([name], "holder", ttl=ttl)
    return token


async def only_lease(database: Database, prefix: str = "") -> Lease:
    """The one lease there is."""
    (lease,) = await leases(database).leases(prefix)
    return lease


async def owned(database: Database, worker: int, **changes: Any) -> UUID:
    """A new instance that `worker` owns."""
    (answer,) = await journal(database).start([start(**changes)], owner=worker)
    assert answer.created
    return answer.id


async def passive(database: Database, **changes: Any) -> UUID:
    """A new instance that nobody owns."""
    (answer,) = await journal(database).start([start(**changes)], owner=None)
    assert answer.created
    return answer.id


async def loaded(database: Database, id: UUID) -> Loaded:
    """The one instance, as stored."""
    (it,) = await journal(database).load([id])
    return it


async def facts(database: Database, id: UUID) -> list[str]:
    """Its journal."""
    return (await loaded(database, id)).facts


async def is_due(database: Database, worker: int, id: UUID, *, now: float | None = None) -> bool:
    """Whether a claim takes it (which it then is)."""
    when = time.time() if now is None else now
    claimed = await journal(database).claim(worker, KINDS, now=when, limit=100)
    return id in [it.instance.id for it in claimed]
