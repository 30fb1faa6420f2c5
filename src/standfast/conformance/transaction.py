"""The contract of `Database.transaction`, and of the journal inside one, as tests."""

# ruff: noqa: S608, PT012 - names of the tests' own tables; blocks that raise are what is tested

from __future__ import annotations

import asyncio
import time

import pytest

from standfast.conformance.samples import (
    KINDS,
    Undo,
    Wrap,
    facts,
    finish,
    is_due,
    journal,
    leases,
    loaded,
    mail,
    marks,
    owned,
    passive,
    register,
    start,
)
from standfast.conformance.sql import SqlSuite
from standfast.errors import ConstraintViolated, StaleWriter, StoreError
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Append, RowChange


class TransactionSuite(SqlSuite):
    """Override the fixture `database`, and `sql` where there is no SQL."""

    # the block

    async def test_commit(self, database: Database, worker: int, wrap: Wrap) -> None:
        """Everything done in the block is there after it, none of it before."""
        waiting, mine = await passive(database, wake_at=None), await owned(database, worker)
        new = start()
        async with database.transaction() as own:
            writer = journal(database).within(tx := wrap(own))
            (answer,) = await writer.start([new])
            assert answer.created
            await writer.append(worker, Append(mine, 0, ["1"]))
            assert await writer.send([mail(waiting, "m")]) == [True]
            assert await marks(database).within(tx).set("k", "do", "step", at=1.0) is None
            assert await journal(database).load([new.instance.id]) == []
            assert len(await facts(database, mine)) == 1
            assert (await loaded(database, waiting)).mails == []
        assert await facts(database, new.instance.id) == [new.fact]
        assert (await facts(database, mine))[1:] == ["1"]
        assert [one.id for one in (await loaded(database, waiting)).mails] == ["m"]
        assert await is_due(database, worker, waiting)

    async def test_rollback(self, database: Database, worker: int, wrap: Wrap) -> None:
        """If the block raises, nothing happened, and the exception comes out."""
        waiting, mine = await passive(database, wake_at=None), await owned(database, worker)
        new = start("k")
        with pytest.raises(Undo):
            async with database.transaction() as own:
                writer = journal(database).within(tx := wrap(own))
                await writer.start([new])
                await writer.append(worker, finish(mine, 0))
                await writer.send([mail(waiting)])
                await marks(database).within(tx).set("k", "do", "step", at=1.0)
                raise Undo
        assert await journal(database).by_key("saga", "order", "k") is None
        stored = await loaded(database, mine)
        assert (len(stored.facts), stored.instance.owner) == (1, worker)
        assert (await loaded(database, waiting)).mails == []
        async with database.transaction() as tx:
            assert await marks(database).within(tx).set("k", "do", "step", at=1.0) is None

    async def test_cancellation(self, database: Database, wrap: Wrap) -> None:
        """It rolls back, and the database goes on."""
        inside = asyncio.Event()

        async def block() -> None:
            async with database.transaction() as tx:
                await journal(database).within(wrap(tx)).start([start("k")])
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(block())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await journal(database).by_key("saga", "order", "k") is None
        await passive(database, key="k")

    async def test_empty_block(self, database: Database) -> None:
        """Nothing to commit is fine."""
        async with database.transaction():
            pass
        with pytest.raises(Undo):
            async with database.transaction():
                raise Undo

    async def test_many_at_once(self, database: Database, wrap: Wrap) -> None:
        """Transactions and plain writes take turns; all get done."""

        async def one(n: int) -> None:
            async with database.transaction() as tx:
                await journal(database).within(wrap(tx)).start([start(f"tx-{n}")])
                await asyncio.sleep(0)
                await journal(database).within(wrap(tx)).start([start(f"tx-{n}-b")])

        await asyncio.gather(*(one(n) for n in range(10)), *(passive(database) for _ in range(10)))
        assert await journal(database).count("saga") == {("order", "running"): 30}

    async def test_write_after_the_block(self, database: Database, wrap: Wrap) -> None:
        """A clear error, and nothing is written, whenever the writer was made."""
        id = await passive(database, wake_at=None)
        async with database.transaction() as tx:
            writer = journal(database).within(wrap(tx))
        with pytest.raises(StoreError):
            await writer.start([start("k")])
        with pytest.raises(StoreError):
            await writer.send([mail(id)])
        with pytest.raises(StoreError):
            await writer.instance(id)
        with pytest.raises(StoreError):
            await journal(database).within(wrap(tx)).start([start("k")])
        assert await journal(database).by_key("saga", "order", "k") is None
        assert (await loaded(database, id)).mails == []

    # the journal inside

    async def test_instance(self, database: Database, worker: int, wrap: Wrap) -> None:
        """The row as the transaction sees it: its own writes too; None where there is none."""
        there, new = await owned(database, worker, key="there"), start(key="new")
        async with database.transaction() as tx:
            writer = journal(database).within(wrap(tx))
            row = await writer.instance(there)
            assert row == (await loaded(database, there)).instance
            assert await writer.by_key("saga", "order", "there") == row
            assert await writer.instance(new.instance.id) is None
            assert await writer.by_key("saga", "order", "new") is None
            await writer.start([new])
            row = await writer.instance(new.instance.id)
            assert row is not None
            assert await writer.by_key("saga", "order", "new") == row
            assert await writer.by_key("saga", "other", "new") is None
            assert (row.id, row.key, row.owner) == (new.instance.id, "new", None)
            await writer.append(worker, Append(there, 0, ["1"], RowChange("parked", "pay")))
            row = await writer.instance(there)
            assert row is not None
            assert (row.status, row.step, row.owner) == ("parked", "pay", worker)

    async def test_start_stores_all(self, database: Database, worker: int, wrap: Wrap) -> None:
        """As `JournalStore.start`: every column, passive, and due at its `wake_at`."""
        now = time.time()
        it = start(fact='{"text":"Grüße 🚚 \\u0000"}', cause='it\'s "odd" $1 ?', wake_at=now + 50)
        async with database.transaction() as tx:
            await journal(database).within(wrap(tx)).start([it, start(), start()])
        stored = await loaded(database, it.instance.id)
        assert stored.instance == it.instance
        assert stored.facts == [it.fact]
        assert not await is_due(database, worker, it.instance.id, now=now + 49.9)
        assert await is_due(database, worker, it.instance.id, now=now + 50)

    async def test_start_sees_its_own(self, database: Database, wrap: Wrap) -> None:
        """Equal keys in one transaction, or of another before, answer with the first."""
        first = start("k", input_hash="1")
        async with database.transaction() as tx:
            await journal(database).within(wrap(tx)).start([first])
            (answer,) = await journal(database).within(wrap(tx)).start([start("k", input_hash="2")])
        assert (answer.id, answer.created, answer.input_hash) == (first.instance.id, False, "1")
        new = start("l")
        async with database.transaction() as tx:
            writer = journal(database).within(wrap(tx))
            answers = await writer.start([start("k"), new, start("l")])
            assert await writer.start([]) == []
        assert [(it.id, it.created) for it in answers] == [
            (first.instance.id, False),
            (new.instance.id, True),
            (new.instance.id, False),
        ]

    async def test_a_whole_life_in_one(self, database: Database, worker: int, wrap: Wrap) -> None:
        """Appends see those before them, and carry all that they may."""
        id, friend = await owned(database, worker), await passive(database, wake_at=None)
        await journal(database).send([mail(id, "folded"), mail(id, "left")])
        numbers = {it.id: it.number for it in (await loaded(database, id)).mails}
        child = start("child")
        async with database.transaction() as tx:
            writer = journal(database).within(wrap(tx))
            await writer.append(worker, Append(id, 0, ["1"], consumed=[numbers["folded"]]))
            await writer.append(worker, Append(id, 1, ["2", "3"], starts=[child]))
            last = finish(id, 3)
            last.mails = [mail(friend, "bye")]
            await writer.append(worker, last)
        stored = await loaded(database, id)
        assert (stored.facts[1:4], len(stored.facts)) == (["1", "2", "3"], 5)
        assert (stored.instance.status, stored.instance.owner) == ("completed", None)
        assert [it.id for it in stored.mails] == ["left"]
        assert await facts(database, child.instance.id) == [child.fact]
        assert [it.id for it in (await loaded(database, friend)).mails] == ["bye"]
        for due in (id, friend, child.instance.id):
            await journal(database).release(worker)
            assert await is_due(database, worker, due)

    async def test_send(self, database: Database, worker: int, wrap: Wrap) -> None:
        """As `JournalStore.send`: by id once, False for the unknown, the passive are woken."""
        asleep, mine = await passive(database, wake_at=None), await owned(database, worker)
        new = start(wake_at=None)
        async with database.transaction() as tx:
            writer = journal(database).within(wrap(tx))
            await writer.start([new])
            mails = [mail(asleep, "a"), mail(new_id()), mail(mine, "b"), mail(asleep, "a")]
            assert await writer.send(mails) == [True, False, True, True]
            assert await writer.send([mail(new.instance.id, "c")]) == [True]
            assert await writer.send([]) == []
        assert [it.id for it in (await loaded(database, asleep)).mails] == ["a"]
        assert [it.id for it in await journal(database).collect(worker, [mine])] == ["b"]
        claimed = await journal(database).claim(worker, KINDS, now=time.time(), limit=10)
        assert {it.instance.id for it in claimed} == {asleep, new.instance.id}

    @pytest.mark.parametrize("freed", [False, True])
    async def test_a_lost_lease_is_refused(
        self, database: Database, wrap: Wrap, freed: bool
    ) -> None:
        """`StaleWriter`, as outside, and nothing of the block is left."""
        token = await register(database, ttl=0.001)
        id = await owned(database, token)
        await asyncio.sleep(0.01)
        assert await leases(database).expire() == [token]
        if freed:
            assert await journal(database).reclaim() == 1
        for append in (
            Append(id, 0, ["late"], RowChange("failed")),
            Append(id, 0, [], release=True),
            Append(id, 0, []),
        ):
            with pytest.raises(StaleWriter):
                async with database.transaction() as own:
                    await marks(database).within(tx := wrap(own)).set("k", "do", "x", at=1.0)
                    await journal(database).within(tx).start([start("other")])
                    await journal(database).within(tx).append(token, append)
        stored = await loaded(database, id)
        assert (len(stored.facts), stored.instance.status) == (1, "running")
        assert stored.instance.owner == (None if freed else token)
        assert await journal(database).by_key("saga", "order", "other") is None
        assert await marks(database).count(before=2.0) == 0

    @pytest.mark.parametrize("after", [-1, 0])
    async def test_a_taken_number_is_refused(
        self, database: Database, worker: int, wrap: Wrap, after: int
    ) -> None:
        """`StaleWriter`, and rolling back leaves nothing of the block."""
        id, other = await owned(database, worker), start("other")
        await journal(database).append(worker, [Append(id, 0, ["taken"])])
        with pytest.raises(StaleWriter):
            async with database.transaction() as tx:
                writer = journal(database).within(wrap(tx))
                await writer.start([other])
                await writer.append(worker, Append(id, after, ["again", "2"], RowChange("failed")))
        assert await journal(database).by_key("saga", "order", "other") is None
        stored = await loaded(database, id)
        assert stored.facts[1:] == ["taken"]
        assert stored.instance.status == "running"

    async def test_what_it_does_not_own_is_refused(
        self, database: Database, worker: int, wrap: Wrap
    ) -> None:
        """`StaleWriter` for passive, unknown and others' instances, with or without facts."""
        other = await register(database)
        asleep, theirs = await passive(database), await owned(database, other)
        for id in (asleep, theirs, new_id()):
            for append in (Append(id, 0, ["x"]), Append(id, 0, [], RowChange("failed"))):
                with pytest.raises(StaleWriter):
                    async with database.transaction() as tx:
                        await journal(database).within(wrap(tx)).append(worker, append)
        for id in (asleep, theirs):
            stored = await loaded(database, id)
            assert (len(stored.facts), stored.instance.status) == (1, "running")

    async def test_a_broken_constraint(self, database: Database, worker: int, wrap: Wrap) -> None:
        """`ConstraintViolated` comes out, of `start` and of `append`, and nothing is left."""
        id, taken = await owned(database, worker), await passive(database)
        with pytest.raises(ConstraintViolated):
            async with database.transaction() as tx:
                await journal(database).within(wrap(tx)).start([start("a"), start("b", id=taken)])
        append = Append(id, 0, ["1"], starts=[start("c", id=taken)])
        with pytest.raises(ConstraintViolated):
            async with database.transaction() as tx:
                await journal(database).within(wrap(tx)).append(worker, append)
        assert len(await facts(database, id)) == len(await facts(database, taken)) == 1
        for key in "abc":
            assert await journal(database).by_key("saga", "order", key) is None

    async def test_expiry_waits_or_refuses(self, database: Database, wrap: Wrap) -> None:
        """An append in a transaction that commits came before the expiry."""
        token = await register(database, ttl=0.05)
        id = await owned(database, token)
        appended = asyncio.Event()

        async def write() -> None:
            async with database.transaction() as tx:
                await journal(database).within(wrap(tx)).append(token, Append(id, 0, ["in time"]))
                appended.set()
                await asyncio.sleep(0.1)

        async def end() -> int:
            await appended.wait()
            await asyncio.sleep(0.06)
            while await leases(database).expire() != [token]:  # noqa: ASYNC110 - it is the check
                await asyncio.sleep(0.01)
            return len(await facts(database, id))

        _, seen = await asyncio.gather(write(), end())
        assert seen == len(await facts(database, id)) == 2

    async def test_claims_take_turns_with_it(
        self, database: Database, worker: int, wrap: Wrap
    ) -> None:
        """What a transaction starts is claimed only once it is committed."""
        new = start(wake_at=time.time() - 1)
        async with database.transaction() as tx:
            await journal(database).within(wrap(tx)).start([new])
            claiming = asyncio.create_task(
                journal(database).claim(worker, KINDS, now=time.time(), limit=10)
            )
            await asyncio.sleep(0.02)
        claimed = await claiming
        if not claimed:  # it ran before the commit, where reading doesn't wait for writing
            claimed = await journal(database).claim(worker, KINDS, now=time.time(), limit=10)
        assert [it.instance.id for it in claimed] == [new.instance.id]

    # with rows of the user's own

    async def test_rows_commit_with_the_journal(
        self, database: Database, table: str, worker: int, wrap: Wrap
    ) -> None:
        """Together or not at all."""
        insert = f"INSERT INTO {table} (id) VALUES ($1)"
        id, friend = await owned(database, worker), await passive(database, wake_at=None)

        async def write(number: int, key: str) -> None:
            async with database.transaction() as own:
                writer = journal(database).within(tx := wrap(own))
                await tx.execute(insert, number)
                await writer.start([start(key)])
                await writer.append(worker, Append(id, number - 1, [key]))
                await writer.send([mail(friend, key)])
                await marks(database).within(tx).set(key, "do", "x", at=1.0)
                row = await writer.instance(friend)
                assert row is not None
                assert row.wake_at is not None
                if key == "b":
                    raise Undo

        await write(1, "a")
        with pytest.raises(Undo):
            await write(2, "b")
        async with database.transaction() as tx:
            rows = await tx.fetch(f"SELECT id FROM {table}")
        assert [row["id"] for row in rows] == [1]
        assert await journal(database).by_key("saga", "order", "a") is not None
        assert await journal(database).by_key("saga", "order", "b") is None
        assert (await facts(database, id))[1:] == ["a"]
        assert [it.id for it in (await loaded(database, friend)).mails] == ["a"]
        assert await marks(database).count(before=2.0) == 1
