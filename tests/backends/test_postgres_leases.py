"""Leases on PostgreSQL while others are at work: their ends, their tokens, and what is freed."""

import asyncio
import random
import time

import pytest

from standfast.conformance.samples import (
    KINDS,
    LONG,
    journal,
    leases,
    loaded,
    mail,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import StoreUnavailable
from standfast.ports.journal import Append, RowChange


async def test_the_end_of_a_lease_is_told_to_other_processes(database, other):
    told = []
    stop = leases(other).on_freed(lambda: told.append("freed"))
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0.01)
    for end in ("release", "expire", "acquire"):
        token = await register(database, ttl=LONG if end == "release" else 0.001)
        told.clear()
        await asyncio.sleep(0.05)
        assert told == []
        if end == "release":
            await leases(database).release([token])
        elif end == "expire":
            await leases(database).expire()
        else:
            await leases(database).acquire(["a"], "me", ttl=LONG)
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0.01)
    stop()
    told.clear()
    await leases(database).release([await register(database)])
    await asyncio.sleep(0.2)
    assert told == []


async def test_a_name_that_is_asked_for_twice_is_given_once(database):
    first, second, other = await leases(database).acquire(["a", "a", "b"], "me", ttl=LONG)
    assert second is None
    assert [one.token for one in await leases(database).leases()] == [first, other]


async def test_one_connection_listens_to_everything(database, other, direct):
    """Whenever who subscribes; and the last that leaves lets go of it."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    due, freed = [], []
    stops = [journal(other).on_due(due.append)]
    async with asyncio.timeout(5):
        while not due:
            await asyncio.sleep(0.01)
        stops.append(leases(other).on_freed(lambda: freed.append("freed")))
        while not freed:
            await asyncio.sleep(0.01)
        assert await direct.fetchval(query) == 1
        due.clear()
        freed.clear()
        one = start()
        await journal(database).start([one], owner=None)
        while not due:
            await asyncio.sleep(0.01)
        assert (due, freed) == ([one.instance.id], [])
        stops.pop(0)()
        await leases(database).release([await register(database)])
        while not freed:
            await asyncio.sleep(0.01)
        assert due == [one.instance.id]
        stops.pop()()
        while await direct.fetchval(query):
            await asyncio.sleep(0.01)


async def test_tokens_grow_for_those_who_compete(database, other):
    """Each new lease of a name has a larger token than the last, whoever was about to take it."""
    tokens = []

    async def compete(one):
        store = leases(one)
        while len(tokens) < 60:
            (token,) = await store.acquire(["leader"], "me", ttl=LONG)
            if token is not None:
                tokens.append(token)
                await store.release([token])

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for one in (database, other) * 3:
            group.create_task(compete(one))
    assert tokens == sorted(set(tokens))


async def test_what_is_in_the_middle_of_a_write_holds_up_no_other_lease(database, other, overdue):
    """Neither when leases run out nor when they are given up."""
    tokens = [await register(database) for _ in range(40)]
    one = start()
    await journal(database).start([one], owner=tokens[1])
    # One whose server is patient.
    async with other.transaction() as tx:
        await journal(other).within(tx).append(tokens[1], Append(one.instance.id, 0, ["{}"]))
        for token in tokens[:20]:
            await overdue(token)
        assert await leases(database).expire() == [tokens[0], *tokens[2:20]]
        with pytest.raises(StoreUnavailable):
            await leases(database).release(tokens[1:30])
        assert [lease.token for lease in await leases(database).leases()] == [
            tokens[1],
            *tokens[30:],
        ]
        await tx.fetch_value("SELECT 1")
        # A renewal isn't held up either, and saves what ran out.
        assert await leases(database).renew(tokens[:3], ttl=LONG) == [False, True, False]
    assert await leases(database).expire() == []
    assert await leases(database).renew(tokens[28:32], ttl=LONG) == [False, False, True, True]


async def test_what_is_given_back_in_the_middle_of_writes_is_written_whole_or_not(
    database, other, direct
):
    """Facts and the row of an instance agree, whoever was first."""
    token, successor = await register(database), await register(other)
    outcomes = set()
    for _ in range(60):
        starts = [start() for _ in range(5)]
        ids = [one.instance.id for one in starts]
        await journal(database).start(starts, owner=token)

        async def write(ids=ids):
            await asyncio.sleep(random.random() * 0.002)
            return await journal(database).append(
                token, [Append(id, 0, ["mine"], RowChange("mine")) for id in ids]
            )

        async def give_back():
            await asyncio.sleep(random.random() * 0.002)
            await journal(database).release(token)

        answers, _ = await asyncio.gather(write(), give_back())
        stored = await journal(database).load(ids)
        for one, answer in zip(stored, answers, strict=True):
            done = answer is None
            outcomes.add(done)
            assert one.instance.owner is None
            assert one.facts[1:] == ["mine"] * done
            assert one.instance.status == ("mine" if done else "running")
        taken = await journal(other).claim(successor, KINDS, now=time.time() + 1, limit=100)
        assert len(taken) == 5
        await journal(other).release(successor)
        await direct.execute("UPDATE standfast.instances SET wake_at = NULL")
    assert outcomes == {True, False}


async def test_reclaiming_waits_for_none_but_those_about_to_change(database, other, direct):
    token = await register(database)
    starts = [start() for _ in range(20)]
    await journal(database).start(starts, owner=token)
    held = starts[7].instance.id
    await leases(database).release([token])
    async with database.transaction() as tx:
        await journal(database).within(tx).send([mail(held)])
        reclaiming = asyncio.create_task(journal(other).reclaim())
        query = "SELECT count(*) FROM standfast.instances WHERE owner IS NULL"
        async with asyncio.timeout(5):
            while await direct.fetchval(query) < 19:
                await asyncio.sleep(0.01)
        assert not reclaiming.done()
    assert await reclaiming == 20
    assert await journal(other).reclaim() == 0


async def test_reclaiming_beside_each_other_counts_each_once(database, other, overdue):
    tokens = [await register(database) for _ in range(4)]
    for token in tokens:
        await journal(database).start([start() for _ in range(25)], owner=token)
    await leases(database).release(tokens[:2])
    await overdue(tokens[2])  # it holds until somebody ends it
    counts = await asyncio.gather(*(journal(one).reclaim() for one in (database, other) * 3))
    assert sum(counts) == 50
    assert await journal(other).owned() == {tokens[2]: 25, tokens[3]: 25}
    assert await leases(other).expire() == [tokens[2]]
    assert await journal(other).reclaim() == 25


async def test_a_lease_that_is_being_renewed_while_others_end_it_holds(database, direct):
    """It ran out, as they read it; but what it was renewed to comes first."""
    token = await register(database, ttl=0.001)
    renewing = direct.transaction()
    await renewing.start()
    await direct.execute(
        "UPDATE standfast.leases SET expires_at = clock_timestamp() + interval '1 hour' "
        "WHERE token = $1",
        token,
    )
    expiring = asyncio.create_task(leases(database).expire())
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(10):
        while not await direct.fetchval(query):
            await asyncio.sleep(0.01)
    await renewing.commit()
    async with asyncio.timeout(10):
        assert await expiring == []
    assert await leases(database).renew([token], ttl=60) == [True]


async def test_many_that_froze_in_a_write_hold_up_the_others_briefly(database, direct):
    """Their locks are waited for, two seconds in all and not for each."""
    *frozen, free = [await register(database) for _ in range(5)]
    await direct.execute("UPDATE standfast.leases SET expires_at = clock_timestamp()")
    async with direct.transaction():
        for token in frozen:
            await direct.execute(
                "SELECT FROM standfast.leases WHERE token = $1 FOR KEY SHARE", token
            )
        begun = time.monotonic()
        assert await leases(database).expire() == [free]
        assert time.monotonic() - begun < 4
    assert await leases(database).expire() == frozen


async def test_a_renewal_that_isnt_committed_yet_saves_its_lease(database, direct):
    """`expire` saw it run out, waits for the renewal, and looks again."""
    token = await register(database, ttl=0.001)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        async with direct.transaction():
            await direct.execute(
                "UPDATE standfast.leases SET expires_at = now() + interval '1h' WHERE token = $1",
                token,
            )
            expiring = asyncio.create_task(leases(database).expire())
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                "AND datname = current_database() AND query LIKE '%FOR UPDATE%'"
            )
            waiting = 0
            while not waiting:  # in transactions of its own, or it would see what it saw before
                async with database.transaction() as tx:
                    waiting = await tx.fetch_value(waits)
        assert await expiring == []
    assert [lease.token for lease in await leases(database).leases()] == [token]


async def test_mail_that_moved_on_disk_comes_in_its_order(database, direct):
    token = await register(database)
    mine, theirs = await owned(database, token), await passive(database)
    for n in range(3):
        await journal(database).send([mail(mine, f"m{n}"), mail(theirs, f"m{n}")])
    moved = "UPDATE standfast.mail SET id = 'moved' WHERE id = 'm0'"
    assert await direct.execute(moved) == "UPDATE 2"
    order = ["moved", "m1", "m2"]
    assert [one.id for one in await journal(database).collect(token, [mine])] == order
    for id in (mine, theirs):
        assert [one.id for one in (await loaded(database, id)).mails] == order
