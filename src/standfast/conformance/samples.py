"""What the suites have in common: sample instances, and fixtures to override."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Append, Change, Instance, Loaded, Mail, Start

KIND = ("saga", "order", 1)
OTHER_KIND = ("saga", "invoice", 2)
KINDS = (KIND, OTHER_KIND)
LONG = 600.0
"""A lease, in seconds, that doesn't run out while a test runs."""


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
    return Append(id, after, facts, Change("completed", finished_at=time.time()), release=True)


class Suite:
    """The fixtures of every suite. Override `database`."""

    @pytest.fixture
    async def database(self) -> AsyncIterator[Database]:
        """An open and migrated database that holds nothing; closed after the test."""
        raise NotImplementedError("override the fixture `database`")

    @pytest.fixture
    async def worker(self, database: Database) -> int:
        """The token of a registered worker."""
        return await register(database)

    @pytest.fixture
    async def stale(self, database: Database) -> int:
        """A token whose lease was ended by `expire`."""
        token = await register(database, ttl=0.001)
        await asyncio.sleep(0.01)
        assert await database.leases.expire() == [token]
        return token


def another(database: Database) -> Database:
    """A second connection to the same database, not yet open, as another process would make it."""
    if not database.capabilities.many_processes:
        pytest.skip("the backend is for one process")
    make: Any = type(database)
    second: Database = make(database.url)
    return second


async def register(database: Database, name: str = "worker", ttl: float = LONG) -> int:
    """Register a worker and answer its token."""
    token = await database.leases.register(name, KINDS, ttl=ttl)
    assert token is not None
    return token


async def owned(database: Database, worker: int, **changes: Any) -> UUID:
    """A new instance that `worker` owns."""
    (answer,) = await database.journal.start([start(**changes)], owner=worker)
    assert answer.created
    return answer.id


async def passive(database: Database, **changes: Any) -> UUID:
    """A new instance that nobody owns."""
    (answer,) = await database.journal.start([start(**changes)], owner=None)
    assert answer.created
    return answer.id


async def loaded(database: Database, id: UUID) -> Loaded:
    """The one instance, as stored."""
    (it,) = await database.journal.load([id])
    return it


async def facts(database: Database, id: UUID) -> list[str]:
    """Its journal."""
    return (await loaded(database, id)).facts


async def is_due(database: Database, worker: int, id: UUID, *, now: float | None = None) -> bool:
    """Whether a claim takes it (which it then is)."""
    when = time.time() if now is None else now
    claimed = await database.journal.claim(worker, KINDS, now=when, limit=100)
    return id in [it.instance.id for it in claimed]
