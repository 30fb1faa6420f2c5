"""The contract of `JournalStore`, as tests."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from standfast.conformance.samples import (
    KIND,
    KINDS,
    OTHER_KIND,
    another,
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
from standfast.conformance.writing import WritingSuite
from standfast.errors import StaleWriter
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Append, Filter


class JournalSuite(WritingSuite):
    """Override the fixture `database`."""

    # claim, next_wake

    async def test_claim_takes_the_longest_due_first(self, database: Database, worker: int) -> None:
        """Across kinds, up to `limit`; with journals, owned by the claimer."""
        now = time.time()
        ids = {}
        for age, kind in ((10, KIND), (30, OTHER_KIND), (20, KIND), (40, KIND)):
            ids[age] = await passive(database, kind=kind, wake_at=now - age)
        first = await database.journal.claim(worker, KINDS, now=now, limit=3)
        assert [it.instance.id for it in first] == [ids[40], ids[30], ids[20]]
        assert all(len(it.facts) == 1 for it in first)
        assert {(it.instance.owner, it.instance.wake_at) for it in first} == {(worker, None)}
        second = await database.journal.claim(worker, KINDS, now=now, limit=3)
        assert [it.instance.id for it in second] == [ids[10]]
        assert await database.journal.claim(worker, KINDS, now=now, limit=3) == []
        stored = (await loaded(database, ids[40])).instance
        assert (stored.owner, stored.wake_at) == (worker, None)

    async def test_claim_takes_the_given_kinds_only(self, database: Database, worker: int) -> None:
        """Pattern, name and version must all be the same."""
        now = time.time()
        for change in ({"pattern": "tcc"}, {"name": "invoice"}, {"version": 2}):
            await passive(database, **change)
        id = await passive(database)
        claimed = await database.journal.claim(worker, [KIND], now=now + 1, limit=10)
        assert [it.instance.id for it in claimed] == [id]
        assert await database.journal.claim(worker, [], now=now + 1, limit=10) == []

    async def test_claim_by_many_is_disjoint(self, database: Database) -> None:
        """Two workers never get the same one, and together they get all."""
        tokens = [await register(database)]
        if database.capabilities.many_workers:
            tokens += [await register(database) for _ in range(3)]
        ids = {await passive(database) for _ in range(60)}
        now = time.time() + 1
        rounds = [database.journal.claim(tokens[n % len(tokens)], KINDS, now=now, limit=7)
                  for n in range(40)]  # fmt: skip
        claimed = [it.instance.id for batch in await asyncio.gather(*rounds) for it in batch]
        assert len(claimed) == len(set(claimed))
        while rest := await database.journal.claim(tokens[0], KINDS, now=now, limit=7):
            claimed += [it.instance.id for it in rest]
        assert sorted(claimed) == sorted(ids)

    async def test_claim_by_a_lost_lease(self, database: Database, stale: int) -> None:
        """`StaleWriter`: what it took would belong to nobody for ever."""
        id = await passive(database)
        with pytest.raises(StaleWriter):
            await database.journal.claim(stale, KINDS, now=time.time() + 1, limit=10)
        assert (await loaded(database, id)).instance.owner is None

    async def test_next_wake(self, database: Database, worker: int) -> None:
        """The earliest of the passive ones of these kinds; owned and finished ones don't count."""
        now = time.time()
        assert await database.journal.next_wake(KINDS) is None
        await owned(database, worker, wake_at=now - 9)
        assert await database.journal.next_wake(KINDS) is None
        await passive(database, wake_at=now + 60)
        await passive(database, wake_at=now + 30, kind=OTHER_KIND)
        await passive(database, wake_at=now + 10, name="unknown")
        assert await database.journal.next_wake(KINDS) == now + 30
        assert await database.journal.next_wake([KIND]) == now + 60
        assert await database.journal.next_wake([]) is None

    # mail

    async def test_send_keeps_the_order_of_arrival(self, database: Database, worker: int) -> None:
        """Numbers grow, in one batch and over several; all fields come back."""
        id = await owned(database, worker)
        sent = [mail(id, f"m{n}", at=1000.5 - n, body=f'"ü{n}"') for n in range(6)]
        await database.journal.send(sent[:3])
        for one in sent[3:]:
            await database.journal.send([one])
        mails = await database.journal.collect(worker, [id])
        assert [(m.to, m.id, m.kind, m.body, m.at) for m in mails] == [
            (m.to, m.id, m.kind, m.body, m.at) for m in sent
        ]
        numbers = [m.number for m in mails]
        assert numbers == sorted(set(numbers))
        assert (await loaded(database, id)).mails == mails

    async def test_send_numbers_are_never_used_again(self, database: Database, worker: int) -> None:
        """Not even when the mail with the highest number was consumed."""
        id = await owned(database, worker)
        await database.journal.send([mail(id)])
        (first,) = await database.journal.collect(worker, [id])
        await database.journal.append(worker, [Append(id, 0, ["1"], consumed=[first.number])])
        await database.journal.send([mail(id)])
        (second,) = await database.journal.collect(worker, [id])
        assert second.number > first.number

    async def test_send_is_idempotent_by_id(self, database: Database, worker: int) -> None:
        """A second one with the id is dropped, in one batch too: True, as the instance is known."""
        id = await owned(database, worker)
        first = mail(id, "same", body='"first"')
        assert await database.journal.send([first, mail(id, "same", body='"2"')]) == [True, True]
        assert await database.journal.send([mail(id, "same", body='"3"')]) == [True]
        (kept,) = await database.journal.collect(worker, [id])
        assert kept.body == '"first"'
        await database.journal.append(worker, [Append(id, 0, ["1"], consumed=[kept.number])])
        assert await database.journal.send([mail(id, "same", body='"4"')]) == [True]
        assert await database.journal.collect(worker, [id]) == []

    async def test_send_to_the_unknown(self, database: Database, worker: int) -> None:
        """False there; the others are delivered."""
        id = await owned(database, worker)
        assert await database.journal.send([mail(new_id()), mail(id, "x")]) == [False, True]
        assert [m.id for m in await database.journal.collect(worker, [id])] == ["x"]
        assert await database.journal.send([]) == []

    async def test_send_wakes_the_passive_at_once(self, database: Database, worker: int) -> None:
        """Also one that would wake later, and one whose sender's clock is ahead."""
        now = time.time()
        later = await passive(database, wake_at=now + 1e6)
        never = await passive(database, wake_at=None)
        await database.journal.send([mail(later), mail(never, at=now + 1e6)])
        claimed = await database.journal.claim(worker, KINDS, now=time.time(), limit=10)
        assert {it.instance.id for it in claimed} == {later, never}

    async def test_send_does_not_make_one_less_due(self, database: Database, worker: int) -> None:
        """The longest due stays the first."""
        now = time.time()
        first = await passive(database, wake_at=now - 100)
        await passive(database, wake_at=now - 50)
        await database.journal.send([mail(first)])
        (it,) = await database.journal.claim(worker, KINDS, now=now, limit=1)
        assert it.instance.id == first

    async def test_send_to_an_owned_one_leaves_the_owner(
        self, database: Database, worker: int
    ) -> None:
        """It waits there for the owner to collect it."""
        id = await owned(database, worker)
        await database.journal.send([mail(id)])
        row = (await loaded(database, id)).instance
        assert (row.owner, row.wake_at) == (worker, None)

    async def test_send_to_a_finished_one(self, database: Database, worker: int) -> None:
        """Kept, and it becomes due."""
        id = await owned(database, worker)
        await database.journal.append(worker, [finish(id, 0)])
        assert await database.journal.send([mail(id, "undo")]) == [True]
        (it,) = await database.journal.claim(worker, KINDS, now=time.time(), limit=1)
        assert (it.instance.id, [m.id for m in it.mails]) == (id, ["undo"])
        assert it.instance.finished_at is not None

    async def test_collect_gives_the_owner_only(self, database: Database, worker: int) -> None:
        """Not what is passive, owned by another or unknown; nothing is consumed by it."""
        mine, asleep = await owned(database, worker), await passive(database)
        await database.journal.send([mail(mine, "m"), mail(asleep, "a")])
        ids = [mine, asleep, new_id()]
        for _ in range(2):
            assert [m.id for m in await database.journal.collect(worker, ids)] == ["m"]
        assert await database.journal.collect(worker + 1, ids) == []
        assert await database.journal.collect(worker, []) == []

    # set_aside, flag_unclaimable

    async def test_set_aside(self, database: Database, worker: int) -> None:
        """Passive, without a fact and never due; mail that comes later wakes it."""
        id = await owned(database, worker)
        await database.journal.set_aside(worker, id, status="stuck", cause="unreadable")
        stored = await loaded(database, id)
        row = stored.instance
        assert (row.status, row.cause, row.owner, row.wake_at) == (
            "stuck",
            "unreadable",
            None,
            None,
        )
        assert len(stored.facts) == 1
        assert not await is_due(database, worker, id, now=time.time() + 1e9)
        await database.journal.send([mail(id)])
        assert await is_due(database, worker, id)

    async def test_set_aside_with_mail_waiting(self, database: Database, worker: int) -> None:
        """Never due, or it would be claimed over and over; the mail stays."""
        id = await owned(database, worker)
        await database.journal.send([mail(id)])
        await database.journal.set_aside(worker, id, status="stuck", cause="")
        assert not await is_due(database, worker, id, now=time.time() + 1e9)
        assert len((await loaded(database, id)).mails) == 1

    async def test_set_aside_by_another(self, database: Database, worker: int) -> None:
        """`StaleWriter` for whoever doesn't own it."""
        mine, asleep = await owned(database, worker), await passive(database)
        for token, id in ((worker + 1, mine), (worker, asleep), (worker, new_id())):
            with pytest.raises(StaleWriter):
                await database.journal.set_aside(token, id, status="stuck", cause="")
        assert (await loaded(database, mine)).instance.owner == worker
        assert (await loaded(database, asleep)).instance.status == "running"

    # reassign

    async def test_reassign(self, database: Database, worker: int) -> None:
        """Passive ones get the version, and are claimed by it; the others are left alone."""
        asleep, busy = await passive(database), await owned(database, worker)
        answers = await database.journal.reassign([asleep, busy, new_id()], version=7)
        assert answers == [True, False, False]
        assert (await loaded(database, asleep)).instance.version == 7
        assert (await loaded(database, busy)).instance.version == 1
        assert len((await loaded(database, asleep)).facts) == 1
        assert not await is_due(database, worker, asleep)
        assert await database.journal.reassign([], version=7) == []

    async def test_flag_unclaimable(self, database: Database, worker: int) -> None:
        """Flags what is due and of a kind without a live worker, once, and leaves it as due."""
        now = time.time()
        lost = await passive(database, name="gone", version=7, wake_at=now - 10)
        await passive(database, name="gone", wake_at=now + 100)  # not due yet
        await passive(database, wake_at=now - 10)  # a kind that is registered
        await passive(database, pattern="tcc", wake_at=now - 10)  # another pattern
        await owned(database, worker, name="gone")
        over = await owned(database, worker, name="over", version=7)
        await database.journal.append(worker, [finish(over, 0)])
        await database.journal.send([mail(over, at=now - 10)])  # late mail: due, but finished

        async def flag() -> list[UUID]:
            cause = "no worker for {name} version {version} {{x}}"
            rows = await database.journal.flag_unclaimable(
                "saga", due_before=now, status="unclaimable", cause=cause
            )
            for row in rows:
                assert row.status == "unclaimable"
                assert row.cause == "no worker for gone version 7 {{x}}"
            return [row.id for row in rows]

        assert await flag() == [lost]
        assert await flag() == []
        stored = (await loaded(database, lost)).instance
        assert (stored.status, stored.wake_at) == ("unclaimable", now - 10)
        assert await database.journal.count("saga") == {
            ("gone", "unclaimable"): 1,
            ("gone", "running"): 2,
            ("order", "running"): 1,
            ("over", "completed"): 1,
        }
        kinds = [("saga", "gone", 7)]
        (it,) = await database.journal.claim(worker, kinds, now=now, limit=10)
        assert it.instance.id == lost

    async def test_flag_unclaimable_with_a_dead_worker(self, database: Database) -> None:
        """A worker whose lease has run out is not live."""
        await register(database, ttl=0.001)
        id = await passive(database, wake_at=1.0)
        await asyncio.sleep(0.01)
        rows = await database.journal.flag_unclaimable(
            "saga", due_before=2.0, status="unclaimable", cause=""
        )
        assert [row.id for row in rows] == [id]

    # reading

    async def test_load(self, database: Database, worker: int) -> None:
        """Unknown ids are left out, and nothing changes."""
        a, b = await owned(database, worker), await passive(database)
        before = await database.journal.load([a, b])
        assert {it.instance.id for it in before} == {a, b}
        assert await database.journal.load([a, new_id(), b]) == before
        assert await database.journal.load([]) == []

    async def test_find_filters(self, database: Database) -> None:
        """Every field restricts; empty ones don't."""
        now = time.time()
        a = await passive(database, key="a", status="parked", step="pay", created_at=now - 100)
        b = await passive(database, key="b", name="invoice", version=2, created_at=now - 50)
        c = await passive(database, key="c", status="done", created_at=now)
        d = await passive(database, key="d", pattern="tcc")

        async def found(**fields: object) -> list[UUID]:
            filter = Filter(**fields)  # type: ignore[arg-type]
            return [row.id for row in await database.journal.find(filter, limit=10)]

        assert await found() == [c, b, a]
        assert await found(pattern="") == [d, c, b, a]
        assert await found(pattern="tcc") == [d]
        assert await found(name="order") == [c, a]
        assert await found(statuses=("parked", "done")) == [c, a]
        assert await found(key="b") == [b]
        assert await found(key="b", name="order") == []
        assert await found(step="pay") == [a]
        assert await found(version=2) == [b]
        assert await found(created_before=now - 60) == [a]
        assert await found(created_after=now - 60) == [c, b]
        assert await found(created_after=now - 50) == [c, b], "inclusive"
        assert await found(created_before=now - 50) == [a], "exclusive"
        assert await found(created_after=now - 60, created_before=now - 10) == [b]
        assert await found(ids=(a, d, new_id())) == [a]

    async def test_find_pages(self, database: Database) -> None:
        """Newest first by id, each once."""
        starts = [start() for _ in range(10)]
        await database.journal.start(starts, owner=None)
        expected = sorted((it.instance.id for it in starts), reverse=True)
        seen: list[UUID] = []
        while page := await database.journal.find(
            Filter(), limit=4, after=seen[-1] if seen else None
        ):
            assert len(page) <= 4
            seen += [row.id for row in page]
        assert seen == expected

    async def test_by_key(self, database: Database) -> None:
        """The holder, or None."""
        id = await passive(database, key="k")
        row = await database.journal.by_key("saga", "order", "k")
        assert row == (await loaded(database, id)).instance
        assert await database.journal.by_key("saga", "order", "x") is None
        assert await database.journal.by_key("saga", "invoice", "k") is None

    async def test_count(self, database: Database, worker: int) -> None:
        """By (name, status) of one pattern."""
        await passive(database)
        await passive(database, pattern="tcc")
        id = await owned(database, worker)
        await owned(database, worker, name="invoice")
        await database.journal.append(worker, [finish(id, 0)])
        assert await database.journal.count("saga") == {
            ("order", "running"): 1,
            ("order", "completed"): 1,
            ("invoice", "running"): 1,
        }
        assert await database.journal.count("none") == {}

    # purge

    async def test_purge(self, database: Database, worker: int) -> None:
        """Up to `limit` finished ones, with journals and mail; the rest stays, the key is free."""
        ids = [await owned(database, worker, key=f"k{n}") for n in range(5)]
        await database.journal.append(worker, [finish(id, 0) for id in ids[:4]])
        await database.journal.send([mail(ids[0])])
        other = await owned(database, worker, pattern="tcc")
        await database.journal.append(worker, [finish(other, 0)])
        purge = database.journal.purge
        assert await purge("saga", finished_before=time.time() - 60, limit=10) == 0
        assert await purge("saga", finished_before=time.time() + 60, limit=3) == 3
        assert await purge("saga", finished_before=time.time() + 60, limit=3) == 1
        assert await purge("saga", finished_before=time.time() + 60, limit=3) == 0
        left = await database.journal.load([*ids, other])
        assert {it.instance.id for it in left} == {ids[4], other}
        again = start("k0")
        (answer,) = await database.journal.start([again], owner=worker)
        assert answer.created
        assert await facts(database, answer.id) == [again.fact]
        assert (await loaded(database, answer.id)).mails == []

    # on_due

    async def test_on_due_hints(self, database: Database) -> None:
        """Another process starts something or sends mail: a call with its id, or None."""
        second = another(database)
        await second.open()
        try:
            asleep = await passive(database, wake_at=None)
            hints: asyncio.Queue[UUID | None] = asyncio.Queue()
            unsubscribe = database.journal.on_due(hints.put_nowait)
            await asyncio.sleep(0.3)  # the subscription may take a moment to stand
            for act in ("send", "start"):
                while not hints.empty():
                    hints.get_nowait()
                if act == "send":
                    await second.journal.send([mail(asleep)])
                    expected = asleep
                else:
                    expected = await passive(second)
                assert await asyncio.wait_for(hints.get(), 5) in (expected, None)
            unsubscribe()
            await asyncio.sleep(0.3)
            while not hints.empty():
                hints.get_nowait()
            await passive(second)
            await asyncio.sleep(0.3)
            assert hints.empty()
        finally:
            await second.close()
