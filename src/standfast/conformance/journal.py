"""The contract of `JournalStore`, as tests."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from standfast.conformance.claiming import ClaimingSuite
from standfast.conformance.purging import PurgingSuite
from standfast.conformance.samples import (
    KINDS,
    OTHER_KIND,
    another,
    finish,
    journal,
    leases,
    loaded,
    mail,
    owned,
    passive,
    register,
    start,
)
from standfast.conformance.writing import WritingSuite
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import STUCK, Append, Filter, RowChange


class JournalSuite(WritingSuite, ClaimingSuite, PurgingSuite):
    """Override the fixture `database`."""

    # mail

    async def test_send_keeps_the_order_of_arrival(self, database: Database, worker: int) -> None:
        """Numbers grow, in one batch and over several; all fields come back."""
        id = await owned(database, worker)
        sent = [mail(id, f"m{n}", at=1000.5 - n, body=f'"ü{n}"') for n in range(6)]
        await journal(database).send(sent[:3])
        for one in sent[3:]:
            await journal(database).send([one])
        mails = await journal(database).collect(worker, [id])
        assert [(m.to, m.id, m.subject, m.body, m.at) for m in mails] == [
            (m.to, m.id, m.subject, m.body, m.at) for m in sent
        ]
        numbers = [m.number for m in mails]
        assert numbers == sorted(set(numbers))
        assert (await loaded(database, id)).mails == mails

    async def test_mail_comes_in_the_order_of_arrival_whatever_its_ids(
        self, database: Database, worker: int
    ) -> None:
        """To whoever collects, loads or claims it."""
        a, b = await owned(database, worker), await passive(database)
        ids = [f"{chr(ord('z') - n)}" for n in range(9)]
        for id in ids:
            await journal(database).send([mail(b, id), mail(a, id)])
        found = await journal(database).collect(worker, [b, a])
        assert [m.id for m in found] == ids
        for it in await journal(database).load([b, a]):
            assert [m.id for m in it.mails] == ids
        (it,) = await journal(database).claim(worker, KINDS, now=time.time(), limit=9)
        assert [m.id for m in it.mails] == ids

    async def test_send_numbers_are_never_used_again(self, database: Database, worker: int) -> None:
        """Not even when the mail with the highest number was consumed."""
        id = await owned(database, worker)
        await journal(database).send([mail(id)])
        (first,) = await journal(database).collect(worker, [id])
        await journal(database).append(worker, [Append(id, 0, ["1"], consumed=[first.number])])
        await journal(database).send([mail(id)])
        (second,) = await journal(database).collect(worker, [id])
        assert second.number > first.number

    async def test_send_is_idempotent_by_id(self, database: Database, worker: int) -> None:
        """A second one with the id is dropped, in one batch too: True, as the instance is known."""
        id = await owned(database, worker)
        first = mail(id, "same", body='"first"')
        assert await journal(database).send([first, mail(id, "same", body='"2"')]) == [True, True]
        assert await journal(database).send([mail(id, "same", body='"3"')]) == [True]
        (kept,) = await journal(database).collect(worker, [id])
        assert kept.body == '"first"'
        await journal(database).append(worker, [Append(id, 0, ["1"], consumed=[kept.number])])
        assert await journal(database).send([mail(id, "same", body='"4"')]) == [True]
        assert await journal(database).collect(worker, [id]) == []

    async def test_send_to_the_unknown(self, database: Database, worker: int) -> None:
        """False there; the others are delivered."""
        id = await owned(database, worker)
        assert await journal(database).send([mail(new_id()), mail(id, "x")]) == [False, True]
        assert [m.id for m in await journal(database).collect(worker, [id])] == ["x"]
        assert await journal(database).send([]) == []

    async def test_send_wakes_the_passive_at_once(self, database: Database, worker: int) -> None:
        """Also one that would wake later, and one whose sender's clock is ahead."""
        now = time.time()
        later = await passive(database, wake_at=now + 1e6)
        never = await passive(database, wake_at=None)
        await journal(database).send([mail(later), mail(never, at=now + 1e6)])
        claimed = await journal(database).claim(worker, KINDS, now=time.time(), limit=10)
        assert {it.instance.id for it in claimed} == {later, never}

    async def test_a_release_beside_mail_of_a_clock_that_is_ahead(
        self, database: Database, worker: int
    ) -> None:
        """Due now, not when the mail says that it was sent; nor when it was to wake."""
        now = time.time()
        for wake_at in (now + 1e6, None):
            for change in (RowChange("waiting"), None):
                id = await owned(database, worker)
                await journal(database).send([mail(id, at=now + 7200)])
                append = Append(id, 0, ["{}"], change, release=True, wake_at=wake_at)
                assert list(await journal(database).append(worker, [append])) == [None]
                due = (await loaded(database, id)).instance.wake_at
                assert due is not None
                assert abs(due - now) < 600

    async def test_send_does_not_make_one_less_due(self, database: Database, worker: int) -> None:
        """The longest due stays the first."""
        now = time.time()
        first = await passive(database, wake_at=now - 100)
        await passive(database, wake_at=now - 50)
        await journal(database).send([mail(first)])
        (it,) = await journal(database).claim(worker, KINDS, now=now, limit=1)
        assert it.instance.id == first

    async def test_send_makes_one_due_since_it_was_sent(self, database: Database) -> None:
        """So that turns are kept: the oldest of its mail counts, on the way for however long."""
        now = time.time()
        never, later = [await passive(database, wake_at=at) for at in (None, now + 1e6)]
        for ago in (50, 90, 20):
            await journal(database).send([mail(never, at=now - ago), mail(later, at=now - ago)])
        for id in (never, later):
            assert (await loaded(database, id)).instance.wake_at == now - 90

    async def test_send_to_an_owned_one_leaves_the_owner(
        self, database: Database, worker: int
    ) -> None:
        """It waits there for the owner to collect it."""
        id = await owned(database, worker)
        await journal(database).send([mail(id)])
        row = (await loaded(database, id)).instance
        assert (row.owner, row.wake_at) == (worker, None)

    async def test_send_to_a_finished_one(self, database: Database, worker: int) -> None:
        """Kept, and it becomes due."""
        id = await owned(database, worker)
        await journal(database).append(worker, [finish(id, 0)])
        assert await journal(database).send([mail(id, "undo")]) == [True]
        (it,) = await journal(database).claim(worker, KINDS, now=time.time(), limit=1)
        assert (it.instance.id, [m.id for m in it.mails]) == (id, ["undo"])
        assert it.instance.finished_at is not None

    async def test_collect_gives_the_owner_only(self, database: Database, worker: int) -> None:
        """Not what is passive, owned by another or unknown; nothing is consumed by it."""
        mine, asleep = await owned(database, worker), await passive(database)
        await journal(database).send([mail(mine, "m"), mail(asleep, "a")])
        ids = [mine, asleep, new_id()]
        for _ in range(2):
            assert [m.id for m in await journal(database).collect(worker, ids)] == ["m"]
        assert await journal(database).collect(worker + 1, ids) == []
        assert await journal(database).collect(worker, []) == []

    # reading

    async def test_load(self, database: Database, worker: int) -> None:
        """Unknown ids are left out, and nothing changes."""
        a, b = await owned(database, worker), await passive(database)
        before = await journal(database).load([a, b])
        assert {it.instance.id for it in before} == {a, b}
        assert await journal(database).load([a, new_id(), b]) == before
        twice = await journal(database).load([b, a, b, a])
        assert [it.instance.id for it in twice] == [b, a], "in their order, each once"
        assert await journal(database).load([]) == []

    async def test_load_hundreds(self, database: Database, worker: int) -> None:
        """In the order in which they are asked for, as are those whose mail is collected."""
        starts = [start() for _ in range(1100)]
        await journal(database).start(starts, owner=worker)
        ids = [it.instance.id for it in reversed(starts)]
        await journal(database).send([mail(id) for id in (ids[-1], ids[600], ids[0])])
        found = await journal(database).load(ids)
        assert [it.instance.id for it in found] == ids
        assert [len(it.facts) for it in found] == [1] * 1100
        assert [it.instance.id for it in found if it.mails] == [ids[0], ids[600], ids[-1]]
        mails = await journal(database).collect(worker, ids)
        assert {it.to for it in mails} == {ids[0], ids[600], ids[-1]}

    async def test_find_filters(self, database: Database) -> None:
        """Every field restricts; empty ones don't."""
        now = time.time()
        a = await passive(database, key="a", status="parked", step="pay", created_at=now - 100)
        b = await passive(database, key="b", name="invoice", version=2, created_at=now - 50)
        c = await passive(database, key="c", status="done", created_at=now)
        d = await passive(database, key="d", pattern="tcc")

        async def found(**fields: object) -> list[UUID]:
            filter = Filter(**fields)  # type: ignore[arg-type]
            return [row.id for row in await journal(database).find(filter, limit=10)]

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
        assert await found(id_end=a.hex[-8:]) == [a]
        assert await found(id_end=b.hex) == [b]
        assert await found(id_end=a.hex[-8:-1]) == []

    async def test_find_pages(self, database: Database) -> None:
        """Newest first by id, each once."""
        starts = [start() for _ in range(10)]
        await journal(database).start(starts, owner=None)
        expected = sorted((it.instance.id for it in starts), reverse=True)
        seen: list[UUID] = []
        while page := await journal(database).find(
            Filter(), limit=4, after=seen[-1] if seen else None
        ):
            assert len(page) <= 4
            seen += [row.id for row in page]
        assert seen == expected

    async def test_by_key(self, database: Database) -> None:
        """The holder, or None."""
        id = await passive(database, key="k")
        row = await journal(database).by_key("saga", "order", "k")
        assert row == (await loaded(database, id)).instance
        assert await journal(database).by_key("saga", "order", "x") is None
        assert await journal(database).by_key("saga", "invoice", "k") is None

    async def test_count(self, database: Database, worker: int) -> None:
        """By (name, status) of one pattern."""
        await passive(database)
        await passive(database, pattern="tcc")
        id = await owned(database, worker)
        await owned(database, worker, name="invoice")
        await journal(database).append(worker, [finish(id, 0)])
        assert await journal(database).count("saga") == {
            ("order", "running"): 1,
            ("order", "completed"): 1,
            ("invoice", "running"): 1,
        }
        assert await journal(database).count("none") == {}

    async def test_stuck(self, database: Database, worker: int) -> None:
        """What is stuck is counted by name and status, with the time since when; nothing else."""
        starts = [
            start(status="parked", updated_at=300.0),
            start(status="parked", updated_at=200.0),
            start(status="compensation_failed", updated_at=400.0),
            start(status="parked", updated_at=500.0, kind=OTHER_KIND),
            start(status="parked", updated_at=1.0, kind=("choreography", "order", 1)),
            start(status="waiting", updated_at=1.0),
            start(status="completed", updated_at=1.0),
        ]
        await journal(database).start(starts, owner=None)
        counts = await journal(database).stuck("saga")
        assert {(one.name, one.status): (one.count, one.since) for one in counts} == {
            ("order", "parked"): (2, 200.0),
            ("order", "compensation_failed"): (1, 400.0),
            ("invoice", "parked"): (1, 500.0),
        }
        for statuses, number in ((("parked",), 3), (STUCK, 4), (("parked", "waiting"), 4)):
            matching = await journal(database).find(Filter(statuses=statuses), limit=10)
            assert len(matching) == number
            assert {one.status for one in matching} == set(statuses)

    # on_due

    async def test_on_due_hints(self, database: Database) -> None:
        """Another process starts something or sends mail: a call with its id, or None."""
        second = another(database)
        await second.open()
        try:
            asleep = await passive(database, wake_at=None)
            hints: asyncio.Queue[UUID | None] = asyncio.Queue()
            unsubscribe = journal(database).on_due(hints.put_nowait)
            await asyncio.sleep(0.3)  # the subscription may take a moment to stand
            token = await register(second)
            for act in ("send", "start", "release", "reclaim"):
                expected = asleep
                if act == "release":
                    expected = await owned(second, token)
                if act == "reclaim":
                    expected = await owned(second, token)
                    await leases(second).release([token])
                while not hints.empty():
                    hints.get_nowait()
                if act == "send":
                    await journal(second).send([mail(asleep)])
                elif act == "start":
                    expected = await passive(second)
                elif act == "release":
                    await journal(second).release(token)
                else:
                    assert await journal(second).reclaim() == 1
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
