"""The contract of `JournalStore.purge` and `count_finished`, as tests."""

from __future__ import annotations

import time

from standfast.conformance.samples import (
    KIND,
    Suite,
    facts,
    finish,
    journal,
    loaded,
    mail,
    owned,
    start,
)
from standfast.ids import new_id
from standfast.ports.database import Database
from standfast.ports.journal import Purged, child_key


class PurgingSuite(Suite):
    """Override the fixture `database`."""

    async def test_purge(self, database: Database, worker: int) -> None:
        """Up to `limit` finished ones, with journals and mail; the rest stays, the key is free.

        So is the id: who gets it anew finds nothing that was its predecessor's.
        """
        ids = [await owned(database, worker, key=f"k{n}") for n in range(5)]
        await journal(database).append(worker, [finish(id, 0) for id in ids[:4]])
        await journal(database).send([mail(ids[0])])
        other = await owned(database, worker, pattern="tcc")
        await journal(database).append(worker, [finish(other, 0)])
        purge, nothing = journal(database).purge, Purged(0, None)
        assert await purge("saga", finished_before=time.time() - 60, limit=10) == nothing
        soon = time.time() + 60
        assert await purge("saga", finished_before=soon, limit=9, ids=[ids[4], other]) == nothing
        assert await journal(database).count_finished("saga", finished_before=soon) == 4
        first = await purge("saga", finished_before=soon, limit=3)
        assert first.count == 3
        assert first.after is not None
        assert await purge("saga", finished_before=soon, limit=3, after=first.after) == Purged(
            1, None
        )
        assert await purge("saga", finished_before=soon, limit=3) == nothing
        assert await journal(database).count_finished("saga", finished_before=soon) == 0
        left = await journal(database).load([*ids, other])
        assert {it.instance.id for it in left} == {ids[4], other}
        again = start("k0", id=ids[0])
        (answer,) = await journal(database).start([again], owner=worker)
        assert answer.created
        assert await facts(database, answer.id) == [again.fact]
        assert (await loaded(database, answer.id)).mails == []

    async def test_purge_of_what_finished_at_that_very_time(
        self, database: Database, worker: int
    ) -> None:
        """Is left: only what finished before goes."""
        ids = [await owned(database, worker) for _ in range(2)]
        for at, id in zip((500.0, 600.0), ids, strict=True):
            done = finish(id, 0)
            assert done.change is not None
            done.change.finished_at = at
            assert await journal(database).append(worker, [done]) == [None]
        purge, count = journal(database).purge, journal(database).count_finished
        for before, number in ((500.0, 0), (600.0, 1), (600.0, 0), (600.5, 1)):
            assert await count("saga", finished_before=before) == number
            assert (await purge("saga", finished_before=before, limit=9, ids=ids)).count == number

    async def test_purge_spares_what_a_worker_owns(self, database: Database, worker: int) -> None:
        """A finished one may get mail (a parent asks it to undo itself), and be run again."""
        id = await owned(database, worker)
        below = await owned(database, worker, key=child_key(id, "a"))
        await journal(database).append(worker, [finish(id, 0), finish(below, 0)])
        await journal(database).send([mail(id)])
        now = time.time() + 60
        (found,) = await journal(database).claim(worker, [KIND], now=now, limit=9)
        assert found.instance.id == id
        assert found.instance.finished_at is not None
        purge, count = journal(database).purge, journal(database).count_finished
        assert await count("saga", finished_before=now) == 0, "nor what is below it"
        assert (await purge("saga", finished_before=now, limit=9)).count == 0
        assert (await purge("saga", finished_before=now, limit=9, ids=[id])).count == 0
        await journal(database).release(worker)
        assert await count("saga", finished_before=now) == 2
        assert (await purge("saga", finished_before=now, limit=9)).count == 1

    async def test_purge_spares_what_has_a_parent(self, database: Database, worker: int) -> None:
        """What belongs together goes from the top, and not before its top has finished."""
        top = await owned(database, worker)
        middle = await owned(database, worker, key=child_key(top, "a"))
        below = await owned(database, worker, key=child_key(middle, "b[0]"))
        orphan = await owned(database, worker, key=child_key(new_id(), "c"))
        alike = await owned(database, worker, key="0f0f0f0f: not an id")
        everything = [top, middle, below, orphan, alike]
        await journal(database).append(worker, [finish(id, 0) for id in everything[1:]])
        purge, count = journal(database).purge, journal(database).count_finished
        later = time.time() + 60
        assert await count("saga", finished_before=later) == 2
        assert await purge("saga", finished_before=later, limit=10) == Purged(2, None)
        assert await purge("saga", finished_before=later, limit=10) == Purged(0, None)
        assert await count("saga", finished_before=later) == 0
        assert {it.instance.id for it in await journal(database).load(everything)} == {
            *(top, middle, below)
        }
        await journal(database).append(worker, [finish(top, 0)])
        for left in ([middle, below], [below], []):
            assert await count("saga", finished_before=later) == len(left) + 1
            assert await purge("saga", finished_before=later, limit=10) == Purged(1, None)
            found = await journal(database).load(everything)
            assert {it.instance.id for it in found} == set(left)

    async def test_purge_goes_on_behind_what_it_spared(
        self, database: Database, worker: int
    ) -> None:
        """Each is looked at once, however many are spared, whatever else finished when they did."""
        top, now = await owned(database, worker), time.time()
        spared = [await owned(database, worker, key=child_key(top, f"c[{n}]")) for n in range(7)]
        alone = [await owned(database, worker, key=f"k{n}") for n in range(5)]
        for n, id in enumerate([*spared, *alone]):
            done = finish(id, 0)
            assert done.change is not None
            done.change.finished_at = now + n % 2  # many at one moment
            assert await journal(database).append(worker, [done]) == [None]
        found, after, calls = 0, None, 0
        while calls == 0 or after is not None:
            one = await journal(database).purge(
                "saga", finished_before=now + 60, limit=3, after=after
            )
            found, after, calls = found + one.count, one.after, calls + 1
        assert found == 5
        assert calls in (4, 5), "three at a time"
        left = await journal(database).load([top, *spared, *alone])
        assert {it.instance.id for it in left} == {top, *spared}
