"""The contract of `JournalStore.start` and `append`, as tests."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from standfast.conformance.samples import (
    KINDS,
    Suite,
    facts,
    finish,
    is_due,
    journal,
    leases,
    loaded,
    mail,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import ConstraintViolated, StaleWriter
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Append, RowChange


class WritingSuite(Suite):
    """Override the fixture `database`."""

    # start

    async def test_start_stores_the_row_and_fact_0(self, database: Database, worker: int) -> None:
        """All columns come back as they were; the owner is the one that was given."""
        it = start(fact='{"text":"Grüße 🚚 \\u0000"}', step="charge", cause='it\'s "odd" $1 ?')
        await journal(database).start([it], owner=worker)
        stored = await loaded(database, it.instance.id)
        it.instance.owner, it.instance.wake_at = worker, None
        assert stored.instance == it.instance
        assert stored.facts == [it.fact]
        assert stored.mails == []

    async def test_start_without_owner_is_due_at_its_wake_at(
        self, database: Database, worker: int
    ) -> None:
        """Passive: not due a moment before, due at the very time."""
        now = time.time()
        id = await passive(database, wake_at=now + 50)
        assert (await loaded(database, id)).instance.owner is None
        assert not await is_due(database, worker, id, now=now + 49.9)
        assert await is_due(database, worker, id, now=now + 50)

    async def test_start_without_wake_at_waits_for_mail(
        self, database: Database, worker: int
    ) -> None:
        """None means that only mail wakes it."""
        id = await passive(database, wake_at=None)
        assert await journal(database).next_wake(KINDS) is None
        assert not await is_due(database, worker, id, now=time.time() + 1e9)
        await journal(database).send([mail(id)])
        assert await is_due(database, worker, id)

    async def test_start_is_idempotent_by_key(self, database: Database, worker: int) -> None:
        """A taken key changes nothing and answers with its holder."""
        first, second = start("k", input_hash="a"), start("k", input_hash="b")
        await journal(database).start([first], owner=worker)
        (answer,) = await journal(database).start([second], owner=worker)
        assert (answer.id, answer.created, answer.input_hash) == (first.instance.id, False, "a")
        assert await journal(database).load([second.instance.id]) == []
        assert await facts(database, first.instance.id) == [first.fact]

    async def test_start_again_with_the_same_id(self, database: Database) -> None:
        """The retry of a start that was written after all."""
        it = start("k")
        await journal(database).start([it], owner=None)
        (answer,) = await journal(database).start([it], owner=None)
        assert (answer.id, answer.created) == (it.instance.id, False)

    async def test_start_with_equal_keys_in_one_batch(self, database: Database) -> None:
        """The second of two equal keys answers with the first; order is kept."""
        a, b, c = start("same", input_hash="1"), start("else"), start("same", input_hash="2")
        answers = await journal(database).start([a, b, c], owner=None)
        assert [(x.id, x.created, x.input_hash) for x in answers] == [
            (a.instance.id, True, "1"),
            (b.instance.id, True, "hash-1"),
            (a.instance.id, False, "1"),
        ]
        assert await facts(database, b.instance.id) == [b.fact]

    async def test_start_tells_keys_apart_by_pattern_and_name(self, database: Database) -> None:
        """The key is (pattern, name, key), whatever the version."""
        starts = [start("k"), start("k", name="invoice"), start("k", pattern="tcc")]
        answers = await journal(database).start(starts, owner=None)
        assert [x.created for x in answers] == [True, True, True]
        (answer,) = await journal(database).start([start("k", version=9)], owner=None)
        assert not answer.created

    async def test_start_races_for_one_key(self, database: Database) -> None:
        """Of many at once, exactly one creates."""
        answers = await asyncio.gather(
            *(journal(database).start([start("k")], owner=None) for _ in range(20))
        )
        assert sum(x.created for (x,) in answers) == 1
        assert len({x.id for (x,) in answers}) == 1

    async def test_start_with_a_lost_lease(self, database: Database, stale: int) -> None:
        """`StaleWriter`, and nothing written, however many they are and whoever has the key."""
        await passive(database, key="held")
        for starts in ([start("k")], [start("k"), start("l")], [start("held")]):
            with pytest.raises(StaleWriter):
                await journal(database).start(starts, owner=stale)
            assert await journal(database).load([it.instance.id for it in starts]) == []
        assert await journal(database).by_key("saga", "order", "k") is None

    async def test_start_of_nothing(self, database: Database) -> None:
        """An empty batch is answered with an empty list."""
        assert await journal(database).start([], owner=None) == []

    # append

    async def test_append_numbers_facts(self, database: Database, worker: int) -> None:
        """The new ones get the numbers after `after`, in order."""
        id = await owned(database, worker)
        assert list(await journal(database).append(worker, [Append(id, 0, ["1", "2"])])) == [None]
        assert list(await journal(database).append(worker, [Append(id, 2, ["3"])])) == [None]
        assert (await facts(database, id))[1:] == ["1", "2", "3"]

    async def test_append_of_a_large_batch(self, database: Database, worker: int) -> None:
        """Hundreds in one batch, with different numbers of facts."""
        starts = [start() for _ in range(300)]
        await journal(database).start(starts, owner=worker)
        ids = [it.instance.id for it in starts]
        appends = [Append(id, 0, [f"{n}.{k}" for k in range(n % 4)]) for n, id in enumerate(ids)]
        answers = await journal(database).append(worker, appends)
        assert list(answers) == [None] * 300
        stored = {it.instance.id: it.facts for it in await journal(database).load(ids)}
        for n, id in enumerate(ids):
            assert stored[id][1:] == [f"{n}.{k}" for k in range(n % 4)]

    async def test_append_with_a_number_that_exists(self, database: Database, worker: int) -> None:
        """(id, number) is the lock: whole or not at all."""
        id = await owned(database, worker)
        await journal(database).append(worker, [Append(id, 0, ["a"])])
        change = RowChange("failed", step="x")
        (answer,) = await journal(database).append(worker, [Append(id, 0, ["b", "c"], change)])
        assert isinstance(answer, StaleWriter)
        stored = await loaded(database, id)
        assert stored.facts[1:] == ["a"]
        assert stored.instance.status == "running"

    async def test_append_with_one_stale_among_good_ones(
        self, database: Database, worker: int
    ) -> None:
        """Each whole or not at all; the others of the batch are written all the same."""
        good, bad, last, waiting = [await owned(database, worker) for _ in range(4)]
        child, orphan = start("child"), start("orphan")
        await journal(database).append(worker, [Append(bad, 0, ["taken"])])
        answers = await journal(database).append(
            worker,
            [
                Append(good, 0, ["g"], mails=[mail(waiting, "from-good")], starts=[child]),
                Append(
                    bad,
                    0,
                    ["b1", "b2"],
                    RowChange("failed"),
                    release=True,
                    mails=[mail(waiting, "from-bad")],
                    starts=[orphan],
                ),
                finish(last, 0),
            ],
        )
        assert [type(answer) for answer in answers] == [type(None), StaleWriter, type(None)]
        assert (await facts(database, good))[1:] == ["g"]
        stored = await loaded(database, bad)
        assert stored.facts[1:] == ["taken"]
        assert (stored.instance.status, stored.instance.owner) == ("running", worker)
        assert (await loaded(database, last)).instance.status == "completed"
        assert [m.id for m in (await loaded(database, waiting)).mails] == ["from-good"]
        assert await journal(database).load([orphan.instance.id]) == []
        assert len(await journal(database).load([child.instance.id])) == 1

    async def test_append_to_what_it_does_not_own(self, database: Database, worker: int) -> None:
        """Passive, released and unknown instances: `StaleWriter`, with or without facts."""
        asleep, released = await passive(database), await owned(database, worker)
        waiting, orphan = await passive(database), start("orphan")
        await journal(database).append(worker, [Append(released, 0, ["1"], release=True)])
        for id in (asleep, released, new_id()):
            for append in (
                Append(id, 1, ["x"]),
                Append(id, 1, [], RowChange("failed")),
                Append(id, 1, [], release=True),
                Append(id, 1, []),
                Append(id, 1, ["x"], mails=[mail(waiting)], starts=[orphan]),
            ):
                (answer,) = await journal(database).append(worker, [append])
                assert isinstance(answer, StaleWriter)
        assert len(await facts(database, asleep)) == 1
        assert (await facts(database, released))[1:] == ["1"]
        assert (await loaded(database, asleep)).instance.status == "running"
        assert (await loaded(database, waiting)).mails == []
        assert await journal(database).load([orphan.instance.id]) == []

    async def test_append_by_a_lost_lease(self, database: Database) -> None:
        """After `expire`, nothing of that worker becomes visible, freed or not yet."""
        token = await register(database, ttl=0.001)
        id = await owned(database, token)
        await asyncio.sleep(0.01)
        assert await leases(database).expire() == [token]
        before = await loaded(database, id)
        for freed in (0, 1):
            for append in (Append(id, 0, ["late"]), finish(id, 0), Append(id, 0, [], release=True)):
                (answer,) = await journal(database).append(token, [append])
                assert isinstance(answer, StaleWriter)
            if not freed:
                assert await loaded(database, id) == before
                assert await journal(database).reclaim() == 1
        stored = await loaded(database, id)
        assert len(stored.facts) == 1
        assert (stored.instance.status, stored.instance.owner) == ("running", None)
        assert stored.instance.wake_at is not None

    async def test_append_after_another_took_over(self, database: Database) -> None:
        """The old token is refused, the new one writes."""
        old = await register(database, "old", ttl=0.001)
        id = await owned(database, old)
        await asyncio.sleep(0.01)
        new = await register(database, "new")
        assert await journal(database).reclaim() == 1
        assert await is_due(database, new, id)
        (late,) = await journal(database).append(old, [Append(id, 0, ["old"])])
        (answer,) = await journal(database).append(new, [Append(id, 0, ["new"])])
        assert isinstance(late, StaleWriter)
        assert answer is None
        assert (await facts(database, id))[1:] == ["new"]

    async def test_append_changes_the_row(self, database: Database, worker: int) -> None:
        """`change` replaces the searchable columns; a version of None keeps the version."""
        id = await owned(database, worker)
        await journal(database).append(
            worker, [Append(id, 0, [], RowChange("parked", "pay", "no"))]
        )
        row = (await loaded(database, id)).instance
        assert (row.status, row.step, row.cause, row.version) == ("parked", "pay", "no", 1)
        assert (row.owner, row.finished_at) == (worker, None)
        await journal(database).append(
            worker, [Append(id, 0, ["m"], RowChange("running", version=3))]
        )
        row = (await loaded(database, id)).instance
        assert (row.status, row.step, row.cause, row.version) == ("running", "", "", 3)

    async def test_append_finishes(self, database: Database, worker: int) -> None:
        """A finished instance is owned by nobody and never due, whatever `wake_at` says."""
        id = await owned(database, worker)
        append = finish(id, 0)
        append.wake_at = 1.0
        assert append.change is not None
        assert list(await journal(database).append(worker, [append])) == [None]
        row = (await loaded(database, id)).instance
        assert (row.status, row.owner, row.wake_at) == ("completed", None, None)
        assert row.finished_at == append.change.finished_at
        assert not await is_due(database, worker, id, now=time.time() + 1e9)

    async def test_append_reopens_a_finished_one(self, database: Database, worker: int) -> None:
        """`finished_at` is of the newest change: None again when it goes on."""
        id = await owned(database, worker)
        await journal(database).append(worker, [finish(id, 0)])
        await journal(database).send([mail(id)])
        assert await is_due(database, worker, id)
        await journal(database).append(worker, [Append(id, 1, ["undo"], RowChange("compensating"))])
        row = (await loaded(database, id)).instance
        assert (row.status, row.finished_at, row.owner) == ("compensating", None, worker)

    async def test_append_releases_until_wake_at(self, database: Database, worker: int) -> None:
        """Passive and due at `wake_at`."""
        now = time.time()
        id = await owned(database, worker)
        await journal(database).append(
            worker, [Append(id, 0, ["1"], release=True, wake_at=now + 5)]
        )
        row = (await loaded(database, id)).instance
        assert (row.owner, row.wake_at) == (None, now + 5)
        assert not await is_due(database, worker, id, now=now + 4)
        assert await is_due(database, worker, id, now=now + 5)

    async def test_append_releases_for_good(self, database: Database, worker: int) -> None:
        """Without `wake_at` only mail wakes it."""
        id = await owned(database, worker)
        await journal(database).append(worker, [Append(id, 0, ["1"], release=True)])
        assert (await loaded(database, id)).instance.wake_at is None
        assert not await is_due(database, worker, id, now=time.time() + 1e9)

    @pytest.mark.parametrize("ending", ["release", "wake_at", "finish"])
    async def test_append_releases_with_mail_waiting(
        self, database: Database, worker: int, ending: str
    ) -> None:
        """Mail that arrived before the release, and isn't consumed, makes it due at once."""
        id = await owned(database, worker)
        await journal(database).send([mail(id, "early")])
        wake_at = time.time() + 1e6 if ending == "wake_at" else None
        append = finish(id, 0) if ending == "finish" else Append(id, 0, ["1"], release=True)
        append.wake_at = wake_at
        await journal(database).append(worker, [append])
        (it,) = await journal(database).claim(worker, KINDS, now=time.time(), limit=10)
        assert it.instance.id == id
        assert [m.id for m in it.mails] == ["early"]

    async def test_append_releases_with_all_mail_consumed(
        self, database: Database, worker: int
    ) -> None:
        """Consumed mail doesn't wake it again."""
        id = await owned(database, worker)
        await journal(database).send([mail(id), mail(id)])
        numbers = [m.number for m in await journal(database).collect(worker, [id])]
        await journal(database).append(
            worker, [Append(id, 0, ["1"], release=True, consumed=numbers)]
        )
        assert (await loaded(database, id)).mails == []
        assert not await is_due(database, worker, id, now=time.time() + 1e9)

    async def test_append_releases_while_mail_is_sent(
        self, database: Database, worker: int
    ) -> None:
        """Whatever comes first, no mail is left behind on an instance that sleeps."""
        ids = [await owned(database, worker) for _ in range(20)]
        await asyncio.gather(
            *(
                act
                for id in ids
                for act in (
                    journal(database).append(worker, [Append(id, 0, ["1"], release=True)]),
                    journal(database).send([mail(id)]),
                )
            )
        )
        claimed = await journal(database).claim(worker, KINDS, now=time.time(), limit=100)
        assert {it.instance.id for it in claimed} == set(ids)
        assert all(len(it.mails) == 1 for it in claimed)

    async def test_append_consumes_only_the_named_mail(
        self, database: Database, worker: int
    ) -> None:
        """The rest stays, in order; another instance's number is left alone."""
        id, other = await owned(database, worker), await owned(database, worker)
        await journal(database).send(
            [mail(id, "a"), mail(id, "b"), mail(other, "c"), mail(id, "d")]
        )
        mails = await journal(database).collect(worker, [id, other])
        numbers = {m.id: m.number for m in mails}
        await journal(database).append(
            worker, [Append(id, 0, ["1"], consumed=[numbers["b"], numbers["c"]])]
        )
        assert [m.id for m in (await loaded(database, id)).mails] == ["a", "d"]
        assert [m.id for m in (await loaded(database, other)).mails] == ["c"]

    async def test_append_starts_and_sends(self, database: Database, worker: int) -> None:
        """Other instances begin and mail goes out with the facts; a taken key is left alone."""
        taken = start("taken", status="waiting")
        await journal(database).start([taken], owner=None)
        parent, friend = await owned(database, worker), await passive(database, wake_at=None)
        child, again = start("child"), start("taken")
        append = Append(parent, 0, ["1"], starts=[child, again], mails=[mail(friend, "hi")])
        assert list(await journal(database).append(worker, [append])) == [None]
        assert await facts(database, child.instance.id) == [child.fact]
        assert await journal(database).load([again.instance.id]) == []
        assert (await loaded(database, taken.instance.id)).instance.status == "waiting"
        claimed = await journal(database).claim(worker, KINDS, now=time.time(), limit=10)
        assert {it.instance.id for it in claimed} == {child.instance.id, friend, taken.instance.id}

    async def test_append_starts_what_is_due_when_it_says(
        self, database: Database, worker: int
    ) -> None:
        """When it was made, unless it says when; alone and among others."""
        parent, now = await owned(database, worker), time.time()
        at_once, later = start(wake_at=None, created_at=now - 40), start(wake_at=now + 1e6)
        last = start(wake_at=None, created_at=now - 20)
        for number, starts in enumerate(([at_once, later], [last])):
            append = Append(parent, number, ["1"], starts=starts)
            assert list(await journal(database).append(worker, [append])) == [None]
        rows = await journal(database).load([one.instance.id for one in (at_once, later, last)])
        assert [it.instance.wake_at for it in rows] == [now - 40, now + 1e6, now - 20]

    async def test_updated_at_is_when_the_row_was_changed(
        self, database: Database, worker: int
    ) -> None:
        """By a change, or by an operator: not by facts, mail, a claim or a release."""
        now = time.time()

        async def updated(id: UUID) -> float:
            return (await loaded(database, id)).instance.updated_at

        fact, change, aside = [await owned(database, worker, updated_at=1.0) for _ in range(3)]
        asleep = await passive(database, updated_at=1.0, version=7)
        await journal(database).send([mail(fact), mail(change)])
        await journal(database).append(worker, [Append(fact, 0, ["1"])])
        await journal(database).append(worker, [Append(fact, 1, ["2"], release=True)])
        assert await is_due(database, worker, fact)
        await journal(database).release(worker)
        assert await updated(fact) == 1.0
        assert await is_due(database, worker, change)
        await journal(database).append(worker, [Append(change, 0, ["1"], RowChange("waiting"))])
        await journal(database).set_aside(worker, aside, status="stuck", cause="")
        for id in (change, aside):
            assert abs(await updated(id) - now) < 60
        (flagged,) = await journal(database).flag_unclaimable(
            "saga", due_before=now + 60, status="parked", cause=""
        )
        assert (flagged.id, abs(flagged.updated_at - now) < 60) == (asleep, True)
        other = await passive(database, updated_at=1.0)
        assert await journal(database).reassign([other], version=2) == [True]
        assert abs(await updated(other) - now) < 60

    async def test_append_sends_to_one_that_releases_in_the_same_batch(
        self, database: Database, worker: int
    ) -> None:
        """It is due, as the mail isn't consumed."""
        sender, receiver = await owned(database, worker), await owned(database, worker)
        await journal(database).append(
            worker,
            [
                Append(sender, 0, ["1"], mails=[mail(receiver)]),
                Append(receiver, 0, ["1"], release=True),
            ],
        )
        assert await is_due(database, worker, receiver)

    async def test_append_with_a_start_that_breaks_a_constraint(
        self, database: Database, worker: int
    ) -> None:
        """That one is answered with `ConstraintViolated`; the others are written all the same."""
        good, bad, taken = [await owned(database, worker) for _ in range(3)]
        answers = await journal(database).append(
            worker, [Append(good, 0, ["1"]), Append(bad, 0, ["1"], starts=[start(id=taken)])]
        )
        assert [type(answer) for answer in answers] == [type(None), ConstraintViolated]
        assert (await facts(database, good))[1:] == ["1"]
        assert len(await facts(database, bad)) == len(await facts(database, taken)) == 1

    async def test_append_of_nothing(self, database: Database, worker: int) -> None:
        """An empty batch is answered with an empty list."""
        assert list(await journal(database).append(worker, [])) == []
