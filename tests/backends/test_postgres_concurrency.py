"""What must hold on PostgreSQL when several do things at once: fences, claims, wake-ups, locks."""

import asyncio
import random
import signal
import subprocess
import sys
import time

import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.journal import purging
from standfast.conformance.samples import (
    KIND,
    KINDS,
    PORTS,
    finish,
    journal,
    leases,
    loaded,
    mail,
    migrate,
    register,
    start,
)
from standfast.errors import StaleWriter, StoreUnavailable
from standfast.ports.journal import Append, RowChange


async def test_no_stale_write_becomes_visible_after_expire(database, other, direct, overdue):
    written = refused = 0
    for _ in range(15):
        token = await register(database)
        ids = []
        go_on = True

        async def start_more(token=token, ids=ids):
            while go_on:
                one = start()
                try:
                    await journal(database).start([one], owner=token)
                except StaleWriter:
                    return
                ids.append(one.instance.id)

        async def append_more(token=token, ids=ids):
            nonlocal written, refused
            after = dict.fromkeys(ids, 0)
            while True:
                for id in list(ids):
                    number = after.setdefault(id, 0)
                    with_mail = random.random() < 0.2
                    mails = [mail(id)] if with_mail else []
                    answer = await journal(database).append(
                        token, [Append(id, number, ["{}"], RowChange("running"), mails=mails)]
                    )
                    if answer[0] is not None:
                        assert isinstance(answer[0], StaleWriter)
                        refused += 1
                        return
                    after[id] = number + 1
                    written += 1
                await asyncio.sleep(0)

        writers = [asyncio.create_task(start_more()), asyncio.create_task(append_more())]
        await asyncio.sleep(random.uniform(0.01, 0.06))
        await overdue(token)
        assert await leases(other).expire() == [token]
        query = "SELECT count(*) FROM standfast.journal"
        facts = await direct.fetchval(query)
        assert await journal(other).reclaim() == len(
            await direct.fetch("SELECT id FROM standfast.instances WHERE wake_at IS NOT NULL")
        )
        await direct.execute("UPDATE standfast.instances SET wake_at = NULL")
        assert not await direct.fetchval(
            "SELECT count(*) FROM standfast.instances WHERE owner = $1", token
        )
        await asyncio.gather(*writers)
        assert await direct.fetchval(query) == facts
        assert not await direct.fetchval(
            "SELECT count(*) FROM standfast.instances WHERE owner = $1", token
        )
    assert written > 15
    assert refused == 15


async def test_a_worker_frozen_in_a_transaction_holds_up_expire_only_for_a_while(
    database, other, overdue
):
    frozen, dead = await register(database), await register(other)
    one = start()
    await journal(database).start([one], owner=frozen)
    with pytest.raises(StoreUnavailable):
        async with database.transaction() as tx:
            await journal(database).within(tx).append(frozen, Append(one.instance.id, 0, ["{}"]))
            await overdue(frozen)
            await overdue(dead)
            ended = set()
            began = time.monotonic()
            while ended != {frozen, dead} and time.monotonic() - began < 15:
                ended |= set(await leases(other).expire())
            assert ended == {frozen, dead}
    assert await journal(other).reclaim() == 1
    stored = await loaded(other, one.instance.id)
    assert (stored.instance.owner, len(stored.facts)) == (None, 1)
    answer = await journal(database).append(frozen, [Append(one.instance.id, 0, ["{}"])])
    assert isinstance(answer[0], StaleWriter)


_WRITER = """
import asyncio, sys
from uuid import UUID
from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.journal import purging
from standfast.ports.journal import Append, JournalStore

async def main(dsn, token, id):
    database = PostgresDatabase(dsn)
    await database.open()
    journal = database.port(JournalStore)
    number = 0
    while True:
        (answer,) = await journal.append(token, [Append(UUID(id), number, ["{}"])])
        if answer is not None:
            print(type(answer).__name__, flush=True)
            break
        number += 1
        if number == 10:
            print("writing", flush=True)
    await database.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
"""


@pytest.mark.crash
async def test_a_stopped_process_that_wakes_up_is_refused(postgres_dsn, database, direct, overdue):
    token = await register(database)
    one = start()
    await journal(database).start([one], owner=token)
    arguments = [sys.executable, "-c", _WRITER, postgres_dsn, str(token), str(one.instance.id)]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGSTOP)
        await overdue(token)
        assert await leases(database).expire() == [token]
        assert await journal(database).reclaim() == 1
        facts = await direct.fetchval("SELECT count(*) FROM standfast.journal")
        successor = await register(database)
        (taken,) = await journal(database).claim(successor, KINDS, now=time.time() + 1, limit=10)
        assert len(taken.facts) == facts
        process.send_signal(signal.SIGCONT)
        assert await process.stdout.readline() == b"StaleWriter\n"
        assert await direct.fetchval("SELECT count(*) FROM standfast.journal") == facts
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


_CLAIMER = """
import asyncio, sys, time
from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.journal import purging
from standfast.conformance.samples import journal, register

async def main(dsn):
    database = PostgresDatabase(dsn)
    await database.open()
    kinds = [("saga", "order", 1)]
    token = await register(database, "claimer", kinds=kinds)
    print("ready", flush=True)
    sys.stdin.readline()
    first = True
    while True:
        loaded = await journal(database).claim(token, kinds, now=time.time(), limit=20)
        if not loaded and await journal(database).next_wake(kinds) is None:
            break
        for one in loaded:
            print(one.instance.id, flush=True)
        if first:  # nobody takes it all before the other has come
            first = False
            await asyncio.sleep(0.5)
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


async def test_two_processes_claim_disjoint(postgres_dsn, database):
    starts = [start(wake_at=time.time() - n % 7) for n in range(1000)]
    await journal(database).start(starts, owner=None)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _CLAIMER, postgres_dsn),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    claimed = [output.decode().split() for output, _ in outputs]
    assert all(claimed)
    assert sorted(id for ids in claimed for id in ids) == sorted(
        str(one.instance.id) for one in starts
    )


async def test_a_release_and_a_mail_at_once_lose_no_wake_up(database, other):
    token = await register(database)
    starts = [start() for _ in range(150)]
    await journal(database).start(starts, owner=token)

    async def release(one):
        await asyncio.sleep(random.random() * 0.002)
        assert await journal(database).append(
            token, [Append(one.instance.id, 0, ["{}"], RowChange("waiting"), release=True)]
        ) == [None]

    async def send(one):
        await asyncio.sleep(random.random() * 0.002)
        assert await journal(other).send([mail(one.instance.id)]) == [True]

    for at in range(0, 150, 4):
        some = starts[at : at + 4]
        await asyncio.gather(*(act(one) for one in some for act in (release, send)))
    taken = await journal(database).claim(token, KINDS, now=time.time() + 1, limit=1000)
    assert len(taken) == 150
    assert all(len(one.mails) == 1 for one in taken)


async def test_mails_that_cross_are_all_delivered(database, other):
    """Batches of two workers that change their own instances and write to the other's."""
    tokens = [await register(database), await register(other)]
    stores = [journal(database), journal(other)]
    mine = [[start() for _ in range(10)] for _ in tokens]
    for store, token, starts in zip(stores, tokens, mine, strict=True):
        await store.start(starts, owner=token)
    rounds = 30

    async def write(me):
        theirs = mine[1 - me]
        for number in range(rounds):
            order = random.sample(range(10), 10)
            answers = await stores[me].append(
                tokens[me],
                [
                    Append(
                        mine[me][n].instance.id,
                        number,
                        ["{}"],
                        RowChange("running"),
                        mails=[mail(theirs[(n + number) % 10].instance.id)],
                    )
                    for n in order
                ],
            )
            assert answers == [None] * 10

    async def change(me):
        # Locks taken by the user in whatever order, as only a transaction of theirs can.
        for _ in range(rounds):
            await stores[me].send([mail(one.instance.id) for one in random.sample(mine[me], 5)])

    began = time.monotonic()
    await asyncio.gather(write(0), write(1), change(0), change(1))
    assert time.monotonic() - began < 20
    for store, token, starts in zip(stores, tokens, mine, strict=True):
        mails = await store.collect(token, [one.instance.id for one in starts])
        assert len(mails) == rounds * 10 + rounds * 5
        assert len({(one.to, one.number) for one in mails}) == len(mails)


async def test_mails_to_one_instance_from_everywhere_are_numbered_in_turn(database, other):
    """Several of each batch to the same, and each batch to the same two."""
    token = await register(database)
    one, two = start(), start()
    await journal(database).start([one, two], owner=token)
    ids = [one.instance.id, two.instance.id]

    async def send(store):
        for _ in range(20):
            await store.send([mail(id) for id in random.choices(ids, k=5)])

    async with asyncio.timeout(30):
        await asyncio.gather(*(send(journal(each)) for each in (database, other) * 3))
    mails = await journal(database).collect(token, ids)
    assert len(mails) == len({(one.to, one.number) for one in mails}) == 600


async def test_the_victim_of_a_deadlock_runs_again(database, direct):
    token = await register(database)
    first, second = sorted((start(), start()), key=lambda one: one.instance.id)
    await journal(database).start([first, second], owner=token)
    lock = "SELECT 1 FROM standfast.instances WHERE id = $1 FOR UPDATE"
    transaction = direct.transaction()
    await transaction.start()
    # The stranger is not the one to find the deadlock.
    await direct.execute("SET LOCAL deadlock_timeout = '1min'")
    await direct.execute(lock, second.instance.id)
    sending = asyncio.create_task(
        journal(database).send([mail(second.instance.id), mail(first.instance.id)])
    )
    await asyncio.sleep(0.2)
    taking = asyncio.create_task(direct.execute(lock, first.instance.id))
    await taking
    await transaction.commit()
    assert await sending == [True, True]


async def test_a_hint_reaches_other_processes(database, other):
    hints = []
    stop = journal(other).on_due(hints.append)
    while not hints:
        await asyncio.sleep(0.01)
    one, two = start(), start()
    await journal(database).start([one], owner=None)
    await journal(database).send([mail(one.instance.id)])
    await journal(database).start([start(), two], owner=None)
    async with asyncio.timeout(5):
        while len(hints) < 4:
            await asyncio.sleep(0.01)
    assert hints == [None, one.instance.id, one.instance.id, None]
    stop()
    await journal(database).send([mail(one.instance.id)])
    await asyncio.sleep(0.2)
    assert len(hints) == 4


async def test_appends_alone_notify_nobody(database, other):
    token = await register(database)
    one = start()
    hints = []
    journal(other).on_due(hints.append)
    while not hints:
        await asyncio.sleep(0.01)
    await journal(database).start([one], owner=token)
    await journal(database).append(token, [Append(one.instance.id, 0, ["{}"])])
    await journal(database).append(
        token, [Append(one.instance.id, 1, ["{}"], RowChange("waiting"), release=True)]
    )
    await asyncio.sleep(0.2)
    assert hints == [None]


async def test_migrations_at_the_same_time_apply_once(postgres_dsn):
    databases = [PostgresDatabase(postgres_dsn) for _ in range(5)]
    for one in databases:
        await one.open()
    try:
        done = await asyncio.gather(*(migrate(one) for one in databases))
        every = sum(len(line.migrations) for line in databases[0].lines(PORTS))
        assert sorted(map(len, done)) == [0, 0, 0, 0, every]
    finally:
        for one in databases:
            await one.close()


async def test_100_000_waiting_cost_a_claim_nothing(database, direct):
    await direct.execute(
        """INSERT INTO standfast.instances (id, pattern, name, version, key, correlation_id,
               input_hash, status, step, cause, wake_at, created_at, updated_at)
           SELECT gen_random_uuid(), 'saga', CASE WHEN n % 2 = 0 THEN 'order' ELSE 'unknown' END, 1,
               n::text, '', '', 'waiting', '', '', CASE WHEN n % 2 = 0 THEN 4e9 ELSE n END, 1, 1
           FROM generate_series(1, 100000) n"""
    )
    await direct.execute("ANALYZE standfast.instances")
    token = await register(database)
    assert await journal(database).claim(token, [KIND], now=2e9, limit=100) == []
    assert await journal(database).next_wake([KIND]) == 4e9
    plan = await direct.fetch(
        "EXPLAIN SELECT id FROM standfast.instances WHERE pattern = 'saga' AND name = 'order' "
        "AND version = 1 AND owner IS NULL AND wake_at <= 2e9 ORDER BY wake_at LIMIT 100"
    )
    assert any("instances_passive" in row[0] for row in plan), plan


async def test_what_is_claimed_while_a_purge_looks_isnt_deleted(database, monkeypatch):
    """It had finished; but then its parent asks it to undo itself, and a worker takes it."""
    token = await register(database)
    (started,) = await journal(database).start([start()], owner=token)
    await journal(database).append(token, [finish(started.id, 0)])
    await journal(database).send([mail(started.id)])
    now = time.time() + 60
    assert await journal(database).claim(token, [KIND], now=now, limit=9)
    before = purging.DOOMED.replace(" AND i.owner IS NULL", "")
    monkeypatch.setattr(purging, "DOOMED", before)
    assert (await journal(database).purge("saga", finished_before=now, limit=9)).count == 0
    assert (await loaded(database, started.id)).instance.owner == token
