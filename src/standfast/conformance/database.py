"""The contract of `Database`, apart from its transactions, as tests."""

from __future__ import annotations

import asyncio
import time

import pytest

from standfast.clock import SYSTEM_CLOCK, SystemClock
from standfast.conformance.samples import (
    PORTS,
    another,
    facts,
    journal,
    owned,
    passive,
    register,
    start,
)
from standfast.conformance.schema import SchemaSuite
from standfast.errors import Unsupported
from standfast.ports.database import Database
from standfast.ports.journal import Append
from standfast.ports.leases import LeaseStore
from standfast.ports.providing import Provided, provide
from standfast.ports.schema import Schema, SchemaLine, SchemaMigration


class _Behind(SystemClock):
    """An hour behind."""

    @staticmethod
    def now() -> float:
        return time.time() - 3600


class _Unheard:
    """A port that no backend has."""


class _Own:
    """A port that this suite announces."""

    def __init__(self, database: Database) -> None:
        self.database = database


class DatabaseSuite(SchemaSuite):
    """Override the fixtures `database` and `empty`."""

    # ports

    async def test_ports(self, database: Database) -> None:
        """Always the same object for a kind, also after it was closed and opened."""
        made: list[object] = [database.port(kind) for kind in (*PORTS, Schema)]
        assert len({id(each) for each in made}) == 4
        assert [database.port(kind) for kind in (*PORTS, Schema)] == made
        await database.close()
        await database.open()
        again: list[object] = [database.port(kind) for kind in (*PORTS, Schema)]
        assert all(one is other for one, other in zip(again, made, strict=True))
        await passive(database)

    async def test_a_port_it_does_not_have(self, database: Database) -> None:
        """`Unsupported` names the database, the port, and what can be done."""
        for ask in (lambda: database.port(_Unheard), lambda: database.lines([_Unheard])):
            with pytest.raises(Unsupported, match=r"standfast\.ports\.provide") as caught:
                ask()
            assert "_Unheard" in str(caught.value)
            assert database.url in str(caught.value)

    async def test_a_port_of_your_own(self, database: Database) -> None:
        """Announced, it is made once, for this database; its line comes after what it needs."""
        line = SchemaLine("own", (SchemaMigration(1, "own", "CREATE TABLE x (id BIGINT);"),))
        provide(database.dialect, _Own, Provided(make=_Own, line=line, needs=(LeaseStore,)))
        own = database.port(_Own)
        assert own.database is database
        assert database.port(_Own) is own
        assert list(database.lines([_Own])) == [*database.lines([LeaseStore]), line]

    # the database itself

    async def test_dialect(self, database: Database) -> None:
        """The transaction's is the database's."""
        async with database.transaction() as tx:
            assert tx.dialect == database.dialect

    async def test_clock_offset(self, database: Database) -> None:
        """Tells by how much a clock is behind the store's own, or 0 where the store has none."""
        offset = await database.clock_offset(SYSTEM_CLOCK)
        assert offset is None or abs(offset) < 60
        offset = await database.clock_offset(_Behind())
        assert not offset or abs(offset - 3600) < 60

    async def test_close_and_open_again(self, database: Database) -> None:
        """Closing twice is fine; what was committed is there again."""
        token = await register(database)
        id = await owned(database, token)
        await journal(database).append(token, [Append(id, 0, ["1"])])
        await database.close()
        await database.close()
        await database.open()
        assert (await facts(database, id))[1:] == ["1"]

    async def test_close_finishes_what_was_accepted(self, database: Database) -> None:
        """Writes under way when it closes are done."""
        starts = [start() for _ in range(20)]
        writes = [
            asyncio.ensure_future(journal(database).start([one], owner=None)) for one in starts
        ]
        await asyncio.sleep(0)
        await database.close()
        answers = [answer for (answer,) in await asyncio.gather(*writes)]
        assert all(answer.created for answer in answers)
        await database.open()
        assert len(await journal(database).load([one.instance.id for one in starts])) == 20

    async def test_another_process_sees_what_is_committed(self, database: Database) -> None:
        """And writes beside it."""
        second = another(database)
        await second.open()
        try:
            mine, theirs = await passive(database), await passive(second)
            assert len(await facts(second, mine)) == 1
            assert len(await facts(database, theirs)) == 1
            answers = await asyncio.gather(
                *(journal(each).start([start("k")], owner=None) for each in (database, second) * 5)
            )
            assert sum(answer.created for (answer,) in answers) == 1
        finally:
            await second.close()
