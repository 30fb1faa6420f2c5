"""The contract of `StoreTransaction`, as tests."""

# ruff: noqa: S608, PT012 - names of the tests' own tables; blocks that raise are what is tested

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from standfast.conformance.samples import (
    KINDS,
    Suite,
    facts,
    finish,
    is_due,
    loaded,
    mail,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import ConstraintViolated, StaleWriter, StoreError, Unsupported
from standfast.ports.database import Database, Mark
from standfast.ports.journal import Append, Change


class _Undo(Exception):
    """Raised in a block to roll it back."""


class TransactionSuite(Suite):
    """Override the fixture `database`, and `sql` where there is no SQL."""

    sql: ClassVar[bool] = True

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

    async def test_instance(self, database: Database, worker: int) -> None:
        """The row as the transaction sees it: its own writes too; None where there is none."""
        there, new = await owned(database, worker, key="there"), start(key="new")
        async with database.transaction() as tx:
            row = await tx.instance(there)
            assert row is not None
            assert (row.id, row.key, row.owner) == (there, "there", worker)
            assert await tx.instance(new.instance.id) is None
            await tx.start([new], owner=None)
            row = await tx.instance(new.instance.id)
            assert row is not None
            assert (row.id, row.key) == (new.instance.id, "new")

    # the block

    async def test_commit(self, database: Database, worker: int) -> None:
        """Everything done in the block is there after it, none of it before."""
        waiting, mine = await passive(database, wake_at=None), await owned(database, worker)
        new = start()
        async with database.transaction() as tx:
            (answer,) = await tx.start([new], owner=None)
            assert answer.created
            assert await tx.append(worker, Append(mine, 0, ["1"])) is None
            assert await tx.send([mail(waiting, "m")]) == [True]
            assert await tx.mark("k", "do", "step", at=1.0) is None
            assert await database.journal.load([new.instance.id]) == []
            assert len(await facts(database, mine)) == 1
        assert await facts(database, new.instance.id) == [new.fact]
        assert (await facts(database, mine))[1:] == ["1"]
        assert await is_due(database, worker, waiting)

    async def test_rollback(self, database: Database, worker: int) -> None:
        """If the block raises, nothing happened, and the exception comes out."""
        waiting, mine = await passive(database, wake_at=None), await owned(database, worker)
        new = start("k")
        with pytest.raises(_Undo):
            async with database.transaction() as tx:
                await tx.start([new], owner=worker)
                await tx.append(worker, finish(mine, 0))
                await tx.send([mail(waiting)])
                await tx.mark("k", "do", "step", at=1.0)
                raise _Undo
        assert await database.journal.by_key("saga", "order", "k") is None
        stored = await loaded(database, mine)
        assert (len(stored.facts), stored.instance.owner) == (1, worker)
        assert (await loaded(database, waiting)).mails == []
        async with database.transaction() as tx:
            assert await tx.mark("k", "do", "step", at=1.0) is None

    async def test_cancellation(self, database: Database) -> None:
        """It rolls back, and the database goes on."""
        inside = asyncio.Event()

        async def block() -> None:
            async with database.transaction() as tx:
                await tx.start([start("k")], owner=None)
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await database.journal.by_key("saga", "order", "k") is None
        await passive(database, key="k")

    async def test_empty_block(self, database: Database) -> None:
        """Nothing to commit is fine."""
        async with database.transaction():
            pass
        with pytest.raises(_Undo):
            async with database.transaction():
                raise _Undo

    async def test_many_at_once(self, database: Database) -> None:
        """Transactions and plain writes take turns; all get done."""

        async def one(n: int) -> None:
            async with database.transaction() as tx:
                await tx.start([start(f"tx-{n}")], owner=None)
                await asyncio.sleep(0)
                await tx.start([start(f"tx-{n}-b")], owner=None)

        await asyncio.gather(*(one(n) for n in range(10)), *(passive(database) for _ in range(10)))
        assert await database.journal.count("saga") == {("order", "running"): 30}

    async def test_use_after_the_block(self, database: Database) -> None:
        """A clear error, and nothing is written."""
        async with database.transaction() as tx:
            pass
        with pytest.raises(StoreError):
            await tx.start([start("k")], owner=None)
        assert await database.journal.by_key("saga", "order", "k") is None

    # the journal inside

    async def test_start_sees_its_own(self, database: Database) -> None:
        """Equal keys in one transaction answer with the first."""
        first = start("k", input_hash="1")
        async with database.transaction() as tx:
            await tx.start([first], owner=None)
            (answer,) = await tx.start([start("k", input_hash="2")], owner=None)
        assert (answer.id, answer.created, answer.input_hash) == (first.instance.id, False, "1")

    async def test_start_and_append_in_one(self, database: Database, worker: int) -> None:
        """A whole life in one commit."""
        new = start()
        async with database.transaction() as tx:
            await tx.start([new], owner=worker)
            assert await tx.append(worker, Append(new.instance.id, 0, ["1"])) is None
            assert await tx.append(worker, finish(new.instance.id, 1)) is None
        stored = await loaded(database, new.instance.id)
        assert (len(stored.facts), stored.instance.status) == (3, "completed")

    async def test_a_lost_lease_is_refused(self, database: Database) -> None:
        """`StaleWriter` from append and start, as outside."""
        token = await register(database, ttl=0.001)
        id = await owned(database, token)
        await asyncio.sleep(0.01)
        assert await database.leases.expire() == [token]
        with pytest.raises(StaleWriter):
            async with database.transaction() as tx:
                await tx.mark("k", "do", "x", at=1.0)
                answer = await tx.append(token, Append(id, 0, ["late"], Change("failed")))
                assert isinstance(answer, StaleWriter)
                raise answer
        with pytest.raises(StaleWriter):
            async with database.transaction() as tx:
                await tx.start([start("late")], owner=token)
        stored = await loaded(database, id)
        assert (len(stored.facts), stored.instance.status) == (1, "running")
        assert await database.journal.by_key("saga", "order", "late") is None

    async def test_a_taken_number_is_refused(self, database: Database, worker: int) -> None:
        """`StaleWriter` is answered, and rolling back leaves nothing of the block."""
        id, other = await owned(database, worker), start("other")
        with pytest.raises(StaleWriter):
            async with database.transaction() as tx:
                await tx.start([other], owner=None)
                answer = await tx.append(worker, Append(id, -1, ["again", "2"], Change("failed")))
                assert isinstance(answer, StaleWriter)
                raise answer
        assert await database.journal.by_key("saga", "order", "other") is None
        stored = await loaded(database, id)
        assert (len(stored.facts), stored.instance.status) == (1, "running")

    async def test_expiry_waits_or_refuses(self, database: Database) -> None:
        """An append in a transaction that commits came before the expiry."""
        token = await register(database, ttl=0.05)
        id = await owned(database, token)
        appended = asyncio.Event()

        async def write() -> None:
            async with database.transaction() as tx:
                assert await tx.append(token, Append(id, 0, ["in time"])) is None
                appended.set()
                await asyncio.sleep(0.1)

        async def end() -> int:
            await appended.wait()
            await asyncio.sleep(0.06)
            while await database.leases.expire() != [token]:  # noqa: ASYNC110 - it is the check
                await asyncio.sleep(0.01)
            return len(await facts(database, id))

        _, seen = await asyncio.gather(write(), end())
        assert seen == len(await facts(database, id)) == 2

    # marks

    async def test_mark(self, database: Database) -> None:
        """None if new, else the one there with its reason and result; by (key, operation)."""
        async with database.transaction() as tx:
            assert await tx.mark("k", "do", "first", at=1.0) is None
            await tx.keep_result("k", "do", '{"text":"ü"}')
            assert await tx.mark("k", "undo", "other", at=1.0) is None
        async with database.transaction() as tx:
            assert await tx.mark("k", "do", "again", at=2.0) == Mark("first", '{"text":"ü"}')
            assert await tx.mark("k", "undo", "again", at=2.0) == Mark("other", None)
            assert await tx.mark("k2", "do", "x", at=2.0) is None
            assert await tx.mark("k2", "do", "y", at=2.0) == Mark("x", None)

    @pytest.mark.parametrize("commits", [True, False])
    async def test_mark_by_two_at_once(self, database: Database, commits: bool) -> None:
        """The second waits for the first to end, and sees its mark if it committed."""
        marked, order = asyncio.Event(), []

        async def first() -> None:
            async with database.transaction() as tx:
                assert await tx.mark("k", "do", "first", at=1.0) is None
                marked.set()
                await asyncio.sleep(0.1)
                await tx.keep_result("k", "do", "1")
                order.append("first")
                if not commits:
                    raise _Undo

        async def second() -> Mark | None:
            await marked.wait()
            async with database.transaction() as tx:
                mark = await tx.mark("k", "do", "second", at=1.0)
                order.append("second")
                return mark

        _, mark = await asyncio.gather(first(), second(), return_exceptions=True)
        assert order == ["first", "second"]
        assert mark == (Mark("first", "1") if commits else None)

    async def test_keep_result_without_a_mark(self, database: Database) -> None:
        """`StoreError`: there is nothing to keep it with."""
        with pytest.raises(StoreError):
            async with database.transaction() as tx:
                await tx.keep_result("nowhere", "do", "1")

    # SQL

    async def test_no_sql(self, database: Database) -> None:
        """Where there is no SQL, `Unsupported` says what to use."""
        if self.sql:
            pytest.skip("the backend has SQL")
        async with database.transaction() as tx:
            for call in (tx.execute, tx.fetch, tx.fetch_one, tx.fetch_value):
                with pytest.raises(Unsupported, match="sqlite"):
                    await call("SELECT 1")

    async def test_rows(self, database: Database, table: str) -> None:
        """How many were touched; rows by name and position; first row, first value, or None."""
        async with database.transaction() as tx:
            insert = f"INSERT INTO {table} (id, text) VALUES ($1, $2)"
            assert await tx.execute(insert, 1, "one") == 1
            assert await tx.execute(insert, 2, "two") == 1
            assert await tx.execute(f"UPDATE {table} SET text = text") == 2
            assert await tx.execute(f"DELETE FROM {table} WHERE id = $1", 9) == 0
            rows = await tx.fetch(f"SELECT id, text FROM {table} ORDER BY id")
            assert [(row[0], row["text"]) for row in rows] == [(1, "one"), (2, "two")]
            assert list(rows[0].keys()) == ["id", "text"]
            one = f"SELECT text, id FROM {table} WHERE id = $1"
            row = await tx.fetch_one(one, 2)
            assert row is not None
            assert row["id"] == 2
            assert await tx.fetch_value(one, 1) == "one"
            assert await tx.fetch_one(one, 9) is None
            assert await tx.fetch_value(one, 9) is None
            assert list(await tx.fetch(one, 9)) == []

    async def test_rows_commit_with_the_journal(self, database: Database, table: str) -> None:
        """Together or not at all."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        async with database.transaction() as tx:
            await tx.execute(insert, 1)
            await tx.start([start("a")], owner=None)
        with pytest.raises(_Undo):
            async with database.transaction() as tx:
                await tx.execute(insert, 2)
                await tx.start([start("b")], owner=None)
                raise _Undo
        async with database.transaction() as tx:
            rows = await tx.fetch(f"SELECT id FROM {table}")
        assert [row["id"] for row in rows] == [1]
        assert await database.journal.by_key("saga", "order", "a") is not None
        assert await database.journal.by_key("saga", "order", "b") is None

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("text", None),
            ("text", ""),
            ("text", "Grüße 🚚 '\"; -- $1 ? %s"),
            ("data", b"\x00\xff$1"),
            ("data", b""),
            ("data", None),
            ("id", 2**63 - 1),
            ("id", -(2**63)),
        ],
    )
    async def test_values(self, database: Database, table: str, column: str, value: Any) -> None:
        """Come back as they went in."""
        async with database.transaction() as tx:
            row = {"id": 1, "text": None, "data": None, column: value}
            await tx.execute(
                f"INSERT INTO {table} (id, text, data) VALUES ($1, $2, $3)",
                row["id"],
                row["text"],
                row["data"],
            )
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT {column} FROM {table}") == value

    async def test_placeholders(self, database: Database, table: str) -> None:
        """Repeated, out of order, and more than nine."""
        async with database.transaction() as tx:
            await tx.execute(f"INSERT INTO {table} (text, id) VALUES ($2, $1)", 1, "one")
            found = f"SELECT id FROM {table} WHERE text = $1 OR (id = $2 AND text = $1)"
            assert await tx.fetch_value(found, "one", 1) == 1
            numbers = ", ".join(f"CAST(${n} AS BIGINT)" for n in range(12, 0, -1))
            row = await tx.fetch_one(f"SELECT {numbers}", *range(1, 13))
            assert row is not None
            assert [row[n] for n in range(12)] == list(range(12, 0, -1))

    async def test_wrong_number_of_arguments(self, database: Database, table: str) -> None:
        """`StoreError` for too few and too many."""
        for args in ((), (1, 2)):
            with pytest.raises(StoreError):
                async with database.transaction() as tx:
                    await tx.fetch(f"SELECT text FROM {table} WHERE id = $1", *args)

    async def test_constraints(self, database: Database, table: str) -> None:
        """`ConstraintViolated`, and the block rolls back."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        for bad in (1, 13):
            with pytest.raises(ConstraintViolated) as caught:
                async with database.transaction() as tx:
                    await tx.execute(f"DELETE FROM {table}")
                    await tx.execute(insert, 1)
                    await tx.execute(insert, bad)
            assert caught.value.__cause__ is not None
        async with database.transaction() as tx:
            assert await tx.fetch_value(f"SELECT count(*) FROM {table}") == 0

    async def test_foreign_keys(self, database: Database, table: str) -> None:
        """Are enforced."""
        async with database.transaction() as tx:
            await tx.execute(
                f"CREATE TABLE conformance_children (id BIGINT REFERENCES {table} (id))"
            )
        try:
            with pytest.raises(ConstraintViolated):
                async with database.transaction() as tx:
                    await tx.execute("INSERT INTO conformance_children (id) VALUES ($1)", 5)
        finally:
            async with database.transaction() as tx:
                await tx.execute("DROP TABLE conformance_children")

    async def test_bad_sql(self, database: Database, table: str) -> None:
        """`StoreError` with the driver's error as its cause; the database goes on."""
        for sql in ("SELEKT 1", "SELECT * FROM conformance_missing", f"SELECT no FROM {table}"):
            with pytest.raises(StoreError) as caught:
                async with database.transaction() as tx:
                    await tx.fetch(sql)
            assert type(caught.value) is StoreError
            assert caught.value.__cause__ is not None
        async with database.transaction() as tx:
            assert await tx.fetch_value("SELECT 1") == 1

    async def test_bad_argument(self, database: Database, table: str) -> None:
        """A value that the engine can't store is a `StoreError`, whatever the driver calls it."""
        for value in (2**63, object()):
            with pytest.raises(StoreError):
                async with database.transaction() as tx:
                    await tx.execute(f"INSERT INTO {table} (id) VALUES ($1)", value)

    async def test_claims_take_turns_with_it(self, database: Database, worker: int) -> None:
        """What a transaction starts is claimed only once it is committed."""
        new = start(wake_at=time.time() - 1)
        async with database.transaction() as tx:
            await tx.start([new], owner=None)
            claiming = asyncio.create_task(
                database.journal.claim(worker, KINDS, now=time.time(), limit=10)
            )
            await asyncio.sleep(0.02)
        claimed = await claiming
        if not claimed:  # it ran before the commit, where reading doesn't wait for writing
            claimed = await database.journal.claim(worker, KINDS, now=time.time(), limit=10)
        assert [it.instance.id for it in claimed] == [new.instance.id]
