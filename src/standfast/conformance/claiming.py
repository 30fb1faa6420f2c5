"""The contract of who owns what in a `JournalStore`, as tests."""

from __future__ import annotations

import asyncio
import json
import time
from uuid import UUID

import pytest

from standfast.conformance.samples import (
    KIND,
    KINDS,
    LONG,
    OTHER_KIND,
    Suite,
    finish,
    is_due,
    journal,
    leases,
    loaded,
    mail,
    note_of,
    owned,
    passive,
    register,
)
from standfast.errors import StaleWriter
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Append


class ClaimingSuite(Suite):
    """Override the fixture `database`."""

    # claim, next_wake

    async def test_claim_takes_the_longest_due_first(self, database: Database, worker: int) -> None:
        """Across kinds, up to `limit`; with journals, owned by the claimer."""
        now = time.time()
        ids = {}
        for age, kind in ((10, KIND), (30, OTHER_KIND), (20, KIND), (40, KIND)):
            ids[age] = await passive(database, kind=kind, wake_at=now - age)
        first = await journal(database).claim(worker, KINDS, now=now, limit=3)
        assert [it.instance.id for it in first] == [ids[40], ids[30], ids[20]]
        assert all(len(it.facts) == 1 for it in first)
        assert {(it.instance.owner, it.instance.wake_at) for it in first} == {(worker, None)}
        second = await journal(database).claim(worker, KINDS, now=now, limit=3)
        assert [it.instance.id for it in second] == [ids[10]]
        assert await journal(database).claim(worker, KINDS, now=now, limit=3) == []
        stored = (await loaded(database, ids[40])).instance
        assert (stored.owner, stored.wake_at) == (worker, None)

    async def test_claim_takes_the_given_kinds_only(self, database: Database, worker: int) -> None:
        """Pattern, name and version must all be the same."""
        now = time.time()
        for change in ({"pattern": "tcc"}, {"name": "invoice"}, {"version": 2}):
            await passive(database, **change)
        id = await passive(database)
        claimed = await journal(database).claim(worker, [KIND], now=now + 1, limit=10)
        assert [it.instance.id for it in claimed] == [id]
        assert await journal(database).claim(worker, [], now=now + 1, limit=10) == []

    async def test_claim_by_many_is_disjoint(self, database: Database) -> None:
        """Two workers never get the same one, and together they get all."""
        tokens = [await register(database) for _ in range(4)]
        ids = {await passive(database) for _ in range(60)}
        now = time.time() + 1
        rounds = [journal(database).claim(tokens[n % len(tokens)], KINDS, now=now, limit=7)
                  for n in range(40)]  # fmt: skip
        claimed = [it.instance.id for batch in await asyncio.gather(*rounds) for it in batch]
        assert len(claimed) == len(set(claimed))
        while rest := await journal(database).claim(tokens[0], KINDS, now=now, limit=7):
            claimed += [it.instance.id for it in rest]
        assert sorted(claimed) == sorted(ids)

    async def test_claim_by_a_lost_lease(self, database: Database, stale: int) -> None:
        """`StaleWriter`: what it took would belong to nobody for ever."""
        id = await passive(database)
        with pytest.raises(StaleWriter):
            await journal(database).claim(stale, KINDS, now=time.time() + 1, limit=10)
        assert (await loaded(database, id)).instance.owner is None

    async def test_take(self, database: Database, worker: int) -> None:
        """One by its id, whatever it is, unless another has it."""
        take, another = journal(database).take, await register(database, "another")
        waiting = await passive(database, wake_at=None, kind=OTHER_KIND)
        taken = await owned(database, worker)
        assert await take(worker, new_id()) is None
        assert await take(another, taken) is None
        found = await take(another, waiting)
        assert found is not None
        assert (found.instance.id, found.instance.owner) == (waiting, another)
        assert len(found.facts) == 1
        assert await take(worker, waiting) is None
        assert await take(another, waiting) is None
        await journal(database).append(another, [finish(waiting, 0)])
        again = await take(worker, waiting)
        assert again is not None
        assert (again.instance.owner, again.instance.wake_at) == (worker, None)

    async def test_take_by_a_lost_lease(self, database: Database, stale: int) -> None:
        """It gets nothing."""
        id = await passive(database)
        with pytest.raises(StaleWriter):
            await journal(database).take(stale, id)
        assert (await loaded(database, id)).instance.owner is None

    async def test_next_wake(self, database: Database, worker: int) -> None:
        """The earliest of the passive ones of these kinds; owned and finished ones don't count."""
        now = time.time()
        assert await journal(database).next_wake(KINDS) is None
        await owned(database, worker, wake_at=now - 9)
        assert await journal(database).next_wake(KINDS) is None
        await passive(database, wake_at=now + 60)
        await passive(database, wake_at=now + 30, kind=OTHER_KIND)
        await passive(database, wake_at=now + 10, name="unknown")
        assert await journal(database).next_wake(KINDS) == now + 30
        assert await journal(database).next_wake([KIND]) == now + 60
        assert await journal(database).next_wake([]) is None

    # set_aside

    async def test_set_aside(self, database: Database, worker: int) -> None:
        """Passive, without a fact and never due; mail that comes later wakes it."""
        id = await owned(database, worker)
        await journal(database).set_aside(worker, id, status="stuck", cause="unreadable")
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
        await journal(database).send([mail(id)])
        assert await is_due(database, worker, id)

    async def test_set_aside_with_mail_waiting(self, database: Database, worker: int) -> None:
        """Never due, or it would be claimed over and over; the mail stays."""
        id = await owned(database, worker)
        await journal(database).send([mail(id)])
        await journal(database).set_aside(worker, id, status="stuck", cause="")
        assert not await is_due(database, worker, id, now=time.time() + 1e9)
        assert len((await loaded(database, id)).mails) == 1

    async def test_set_aside_by_another(self, database: Database, worker: int) -> None:
        """`StaleWriter` for whoever doesn't own it."""
        mine, asleep = await owned(database, worker), await passive(database)
        for token, id in ((worker + 1, mine), (worker, asleep), (worker, new_id())):
            with pytest.raises(StaleWriter):
                await journal(database).set_aside(token, id, status="stuck", cause="")
        assert (await loaded(database, mine)).instance.owner == worker
        assert (await loaded(database, asleep)).instance.status == "running"

    async def test_set_aside_by_a_lost_lease(self, database: Database) -> None:
        """`StaleWriter` as soon as the lease has ended, whoever may have freed the instance."""
        token = await register(database)
        id = await owned(database, token)
        await leases(database).release([token])
        for _ in range(2):
            with pytest.raises(StaleWriter):
                await journal(database).set_aside(token, id, status="stuck", cause="late")
            row = (await loaded(database, id)).instance
            assert (row.status, row.cause) == ("running", "")
            await journal(database).reclaim()

    # release, reclaim, owned

    async def test_release(self, database: Database) -> None:
        """What it owns becomes passive and due now, and nothing else; the lease stays."""
        token, other = await register(database), await register(database)
        mine = [await owned(database, token) for _ in range(3)]
        theirs = await owned(database, other)
        asleep = await passive(database, wake_at=time.time() + 1e6)
        never = await passive(database, wake_at=None)
        before = time.time()
        await journal(database).release(token)
        await journal(database).release(token)
        rows = [(await loaded(database, id)).instance for id in mine]
        assert all(row.owner is None for row in rows)
        assert all(abs((row.wake_at or 0.0) - before) < 60 for row in rows)
        assert all(row.status == "running" for row in rows)
        assert (await loaded(database, theirs)).instance.owner == other
        (answer,) = await journal(database).append(token, [Append(mine[0], 0, ["late"])])
        assert isinstance(answer, StaleWriter)
        assert await leases(database).renew([token, other], ttl=LONG) == [True, True]
        now = time.time()
        claimed = await journal(database).claim(token, KINDS, now=now, limit=10)
        assert {it.instance.id for it in claimed} == set(mine)
        assert (await loaded(database, asleep)).instance.wake_at is not None
        assert (await loaded(database, never)).instance.wake_at is None
        (done,) = await journal(database).append(token, [Append(mine[0], 0, ["again"])])
        assert done is None

    async def test_release_after_the_lease_has_ended(self, database: Database, worker: int) -> None:
        """Frees its instances as well; what nobody owns is fine."""
        token = await register(database)
        id = await owned(database, token)
        await leases(database).release([token])
        await journal(database).release(token)
        await journal(database).release(token + 1000)
        assert (await loaded(database, id)).instance.owner is None
        assert await is_due(database, worker, id)

    async def test_reclaim(self, database: Database) -> None:
        """What is owned under leases that were ended becomes passive and due now; how many."""
        assert await journal(database).reclaim() == 0
        alive, gone, away = [await register(database, name) for name in ("a", "b", "c")]
        kept = await owned(database, alive)
        freed = [await owned(database, token) for token in (gone, away, gone, gone)]
        asleep = await passive(database, wake_at=time.time() + 1e6)
        never = await passive(database, wake_at=None)
        assert await journal(database).reclaim() == 0
        await leases(database).release([gone, away])
        before = time.time()
        assert {(await loaded(database, id)).instance.owner for id in freed} == {gone, away}
        assert await journal(database).reclaim() == 4
        assert await journal(database).reclaim() == 0
        rows = [(await loaded(database, id)).instance for id in freed]
        assert all(row.owner is None for row in rows)
        assert all(abs((row.wake_at or 0.0) - before) < 60 for row in rows)
        assert (await loaded(database, kept)).instance.owner == alive
        now = time.time()
        claimed = await journal(database).claim(alive, KINDS, now=now, limit=10)
        assert {it.instance.id for it in claimed} == set(freed)
        assert (await loaded(database, asleep)).instance.wake_at is not None
        assert (await loaded(database, never)).instance.wake_at is None

    async def test_reclaim_leaves_the_overdue(self, database: Database) -> None:
        """A lease that ran out holds until somebody ends it."""
        token = await register(database, ttl=0.001)
        id = await owned(database, token)
        await asyncio.sleep(0.01)
        assert await journal(database).reclaim() == 0
        assert (await loaded(database, id)).instance.owner == token
        (answer,) = await journal(database).append(token, [Append(id, 0, ["slow"])])
        assert answer is None
        assert await leases(database).expire() == [token]
        assert await journal(database).reclaim() == 1
        assert (await loaded(database, id)).instance.owner is None

    async def test_reclaim_leaves_the_finished_and_released(
        self, database: Database, worker: int
    ) -> None:
        """Only what is owned: the rest stays as due as it was."""
        token = await register(database)
        over, asleep = await owned(database, token), await owned(database, token)
        wake_at = time.time() + 1e6
        answers = await journal(database).append(
            token, [finish(over, 0), Append(asleep, 0, ["1"], release=True, wake_at=wake_at)]
        )
        assert list(answers) == [None, None]
        await leases(database).release([token])
        assert await journal(database).reclaim() == 0
        assert (await loaded(database, over)).instance.wake_at is None
        assert (await loaded(database, asleep)).instance.wake_at == wake_at

    async def test_reclaim_at_once(self, database: Database) -> None:
        """By several at once: each instance is freed by one of them."""
        tokens = [await register(database) for _ in range(5)]
        ids = [await owned(database, token) for token in tokens for _ in range(4)]
        await leases(database).release(tokens)
        freed = await asyncio.gather(*(journal(database).reclaim() for _ in range(6)))
        assert sum(freed) == len(ids)
        assert {it.instance.owner for it in await journal(database).load(ids)} == {None}

    async def test_reclaim_beside_writers(self, database: Database) -> None:
        """Whoever holds a lease is never disturbed by it."""
        token = await register(database)
        ids = [await owned(database, token) for _ in range(10)]

        async def write(id: UUID) -> None:
            for number in range(10):
                (answer,) = await journal(database).append(token, [Append(id, number, ["x"])])
                assert answer is None
                await asyncio.sleep(0)

        async def reclaim() -> None:
            for _ in range(10):
                assert await journal(database).reclaim() == 0
                await asyncio.sleep(0)

        await asyncio.gather(*(write(id) for id in ids), reclaim())
        assert await journal(database).owned() == {token: 10}

    async def test_recoveries(self, database: Database) -> None:
        """How often it was reclaimed in a row, as read and as claimed; a fact begins anew."""
        token = await register(database)
        id = await owned(database, token)

        async def die() -> int:
            nonlocal token
            await leases(database).release([token])
            assert await journal(database).reclaim() == 1
            token = await register(database)
            soon = time.time() + 60
            (claimed,) = await journal(database).claim(token, KINDS, now=soon, limit=10)
            assert claimed.recoveries == (await loaded(database, id)).recoveries
            return claimed.recoveries

        assert [await die() for _ in range(3)] == [1, 2, 3]
        (done,) = await journal(database).append(token, [Append(id, 0, ["progress"])])
        assert done is None
        assert (await loaded(database, id)).recoveries == 0
        assert [await die() for _ in range(2)] == [1, 2]

    async def test_recoveries_are_of_the_dead_only(self, database: Database) -> None:
        """What is given back, or comes to rest, is no recovery; neither ends a row of them."""
        token = await register(database)
        id = await owned(database, token)
        await leases(database).release([token])
        await journal(database).reclaim()
        token = await register(database)
        for _ in range(3):
            await journal(database).claim(token, KINDS, now=time.time() + 60, limit=10)
            await journal(database).release(token)
        assert (await loaded(database, id)).recoveries == 1

    async def test_a_pause_before_the_next_recovery(self, database: Database) -> None:
        """None before the first; then it doubles, up to the longest, less up to a half."""
        token = await register(database)
        ids = [await owned(database, token) for _ in range(20)]
        for shortest, longest in ((0, 0), (50, 100), (100, 200), (125, 250), (125, 250)):
            await leases(database).release([token])
            before = time.time()
            assert await journal(database).reclaim(pause=100.0, longest=250.0) == 20
            rows = [it.instance for it in await journal(database).load(ids)]
            pauses = [(row.wake_at or 0.0) - before for row in rows]
            assert all(shortest - 60 <= pause <= longest + 60 for pause in pauses)
            assert (len({round(pause) for pause in pauses}) > 5) is (longest > 0)
            token = await register(database)
            claimed = await journal(database).claim(token, KINDS, now=time.time() + 1e4, limit=100)
            assert len(claimed) == 20

    async def test_owned_by(self, database: Database) -> None:
        """What a token owns, whether its lease has ended or not, and nothing else."""
        a, b = await register(database), await register(database)
        mine = {await owned(database, a) for _ in range(3)}
        theirs = await owned(database, b)
        await passive(database)
        assert set(await journal(database).owned_by(a)) == mine
        assert list(await journal(database).owned_by(b)) == [theirs]
        await journal(database).append(b, [finish(theirs, 0)])
        await leases(database).release([a])
        assert set(await journal(database).owned_by(a)) == mine
        assert list(await journal(database).owned_by(b)) == []
        await journal(database).reclaim()
        assert list(await journal(database).owned_by(a)) == []

    async def test_owned(self, database: Database) -> None:
        """How many by owner, also where the lease has ended; none are left out."""
        assert await journal(database).owned() == {}
        a, b, _ = [await register(database) for _ in range(3)]
        ids = [await owned(database, a) for _ in range(3)]
        await owned(database, b, pattern="tcc")
        await passive(database)
        assert await journal(database).owned() == {a: 3, b: 1}
        await journal(database).append(a, [finish(ids[0], 0)])
        await leases(database).release([a])
        assert await journal(database).owned() == {a: 2, b: 1}
        await journal(database).reclaim()
        assert await journal(database).owned() == {b: 1}

    # reassign, flag_unclaimable

    async def test_reassign(self, database: Database, worker: int) -> None:
        """Passive ones get the version, and are claimed by it; the others are left alone."""
        asleep, busy = await passive(database), await owned(database, worker)
        ended = await owned(database, worker)
        await journal(database).append(worker, [finish(ended, 0)])
        answers = await journal(database).reassign([asleep, busy, ended, new_id()], version=7)
        assert answers == [True, False, False, False]
        assert (await loaded(database, asleep)).instance.version == 7
        for left in (busy, ended):
            assert (await loaded(database, left)).instance.version == 1
        assert len((await loaded(database, asleep)).facts) == 1
        assert not await is_due(database, worker, asleep)
        assert await journal(database).reassign([], version=7) == []

    async def test_flag_unclaimable(self, database: Database, worker: int) -> None:
        """Flags what is due and of a kind without a live worker, once, and leaves it as due."""
        now = time.time()
        lost = await passive(database, name="gone", version=7, wake_at=now - 10)
        await passive(database, name="gone", wake_at=now)  # due, but not before that
        await passive(database, wake_at=now - 10)  # a kind that is registered
        await passive(database, pattern="tcc", wake_at=now - 10)  # another pattern
        await owned(database, worker, name="gone")
        over = await owned(database, worker, name="over", version=7)
        await journal(database).append(worker, [finish(over, 0)])
        await journal(database).send([mail(over, at=now - 10)])  # late mail: due, but finished

        async def flag() -> list[UUID]:
            cause = "no worker for {name} version {version} {{x}}"
            rows = await journal(database).flag_unclaimable(
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
        assert await journal(database).count("saga") == {
            ("gone", "unclaimable"): 1,
            ("gone", "running"): 2,
            ("order", "running"): 1,
            ("over", "completed"): 1,
        }
        another = await passive(database, name="gone", version=7, wake_at=now - 5)
        assert await flag() == [another], "and not again what was flagged before"
        kinds = [("saga", "gone", 7)]
        found = await journal(database).claim(worker, kinds, now=now, limit=10)
        assert [it.instance.id for it in found] == [lost, another]

    async def test_flag_unclaimable_with_a_dead_worker(self, database: Database) -> None:
        """A worker whose lease has run out is not live."""
        await register(database, ttl=0.001)
        id = await passive(database, wake_at=1.0)
        await asyncio.sleep(0.01)
        rows = await journal(database).flag_unclaimable(
            "saga", due_before=2.0, status="unclaimable", cause=""
        )
        assert [row.id for row in rows] == [id]

    async def test_flag_unclaimable_looks_at_every_note(self, database: Database) -> None:
        """As it is now; a note without kinds, of another purpose, says nothing."""
        id = await passive(database, wake_at=1.0)
        token = await register(database, kinds=[OTHER_KIND])
        await register(database, kinds=[])
        notes = ["{}", '{"kinds": []}', '{"shard": 7}', '{"kinds": 7}', "[]", "7"]
        notes += ['{"kinds": [[], 7, "saga", ["saga"], ["saga", ["order"], 1]]}']
        for number, note in enumerate(notes):
            await leases(database).acquire([f"else-{number}"], "x", ttl=LONG, note=note)

        async def flag(status: str) -> list[UUID]:
            rows = await journal(database).flag_unclaimable(
                "saga", due_before=2.0, status=status, cause=""
            )
            return [row.id for row in rows]

        assert await flag("one") == [id]
        await leases(database).annotate(token, note_of(OTHER_KIND, KIND))
        assert await flag("two") == []
        newer = json.dumps({"kinds": [[*KIND, "of a newer release"]]})
        await leases(database).annotate(token, newer)
        assert await flag("two") == []
        await leases(database).release([token])
        assert await flag("two") == [id]
