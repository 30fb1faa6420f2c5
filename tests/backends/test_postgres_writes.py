"""Writes on PostgreSQL, alone and in company, and the connections at hand between them."""

import asyncio
from dataclasses import asdict

import pytest

from standfast.backends.postgres import PostgresDatabase, statements
from standfast.conformance.samples import KIND, LONG, finish, mail, register, start
from standfast.errors import StaleWriter
from standfast.ports.journal import Append, Change


@pytest.fixture
async def database(postgres_dsn):
    database = PostgresDatabase(postgres_dsn, min_size=2, max_size=2)
    await database.open()
    await database.migrate()
    yield database
    await database.close()


async def all_sorts(database, token, *, together):
    """Writes of all sorts, in one batch of each or one by one: the answers, and what is stored."""
    journal = database.journal

    async def write(write, items):
        if together:
            return await write(items)
        return [answer for item in items for answer in await write([item])]

    keep = {"created_at": 1.5, "deadline_at": 9.5, "cause": "new"}
    starts = [start(input_hash=f"hash-{n}", fact=f'{{"n":{n}}}', **keep) for n in range(8)]
    passive = [start(wake_at=None, **keep), start(wake_at=4e9, **keep)]
    ids = [one.instance.id for one in starts]
    stranger = await database.leases.register("another", [KIND], ttl=LONG)
    await journal.start([start(wake_at=None)], owner=stranger)
    started = await write(lambda some: journal.start(some, owner=token), starts)
    started += await write(lambda some: journal.start(some, owner=None), passive)
    again = [start(one.instance.key) for one in (starts[0], passive[1])]
    started += await write(lambda some: journal.start(some, owner=token), again)
    await journal.send([mail(ids[7], "letter", at=2.5)])
    appends = [
        Append(ids[0], 0, ["{}"]),
        Append(ids[1], 0, ["{}", "{}"]),
        Append(ids[2], 0, ["{}"], Change("waiting", "pay", "why", 3)),
        Append(ids[3], 0, ["{}"], release=True, wake_at=4e9),
        finish(ids[4], 0),
        Append(ids[5], 0, [], Change("parked"), release=True),
        Append(passive[0].instance.id, 0, ["{}"]),
        Append(ids[7], 0, ["{}"], Change("waiting"), release=True, wake_at=4e9),
    ]
    answers = await write(lambda some: journal.append(token, some), appends)
    refused = await write(lambda some: journal.append(stranger, some), appends[:2])
    place = {id: number for number, id in enumerate([*ids, *(p.instance.id for p in passive)])}
    loaded = await journal.load(list(place))
    stored = []
    for one in loaded:
        row = asdict(one.instance)
        row["finished_at"] = row["finished_at"] is not None
        for column in ("id", "key", "updated_at"):  # of this very write
            del row[column]
        stored.append((row, one.facts, [letter.body for letter in one.mails]))
    told = [(place.get(one.id), one.created, one.input_hash) for one in started]
    return told, [type(answer) for answer in [*answers, *refused]], stored


async def test_alone_as_in_company(database):
    token = await register(database)
    alone = await all_sorts(database, token, together=False)
    company = await all_sorts(database, token, together=True)
    assert alone == company
    assert alone[1].count(StaleWriter) == 3


def test_what_is_written_alone_holds_no_lists():
    assert len(statements.OF_ONE) == 4
    for statement in statements.OF_ONE.values():
        assert "unnest" not in statement
        assert "[]" not in statement


async def test_writes_are_not_planned_anew(postgres_dsn, database, direct):
    """Knowing how long the lists are, the server finds planning worth its while: it isn't."""
    if direct.get_server_version() < (14,):
        pytest.skip("PostgreSQL 13 doesn't tell how often it planned")
    token = await register(database)
    await database.journal.start([start() for _ in range(2000)], owner=token)
    await direct.execute("ANALYZE standfast.instances, standfast.journal")
    fresh = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await fresh.open()
    for _ in range(10):
        one = start()
        id = one.instance.id
        await fresh.journal.start([one], owner=token)
        assert await fresh.journal.append(token, [Append(id, 0, ["{}"])]) == [None]
        assert await fresh.journal.append(token, [finish(id, 1)]) == [None]
    plans = await fresh._pool.fetch(
        "SELECT custom_plans, generic_plans FROM pg_prepared_statements "
        "WHERE statement LIKE 'WITH%standfast.journal%'"
    )
    await fresh.close()
    assert [tuple(row) for row in plans] == [(0, 10)] * 3


async def test_who_waits_gets_the_next_connection(database):
    async def hold(entered, leave):
        async with database.transaction() as tx:
            await tx.fetch_value("SELECT 1")
            entered.set()
            await leave.wait()

    leave = asyncio.Event()
    entered = [asyncio.Event(), asyncio.Event()]
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for event in entered:
            group.create_task(hold(event, leave))
        for event in entered:
            await event.wait()
        waiting = [group.create_task(database.journal.count("saga")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        leave.set()
        await asyncio.wait(waiting)


async def test_no_more_connections_than_allowed(database, direct):
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'standfast'"
    for _ in range(3):
        await asyncio.gather(*(database.journal.count("saga") for _ in range(20)))
        await asyncio.gather(*(database.journal.by_key("saga", "order", "a") for _ in range(20)))
        assert await direct.fetchval(query + " AND datname = current_database()") == 2


async def test_connections_at_hand_that_were_killed_are_replaced(database, direct):
    for _ in range(3):
        await asyncio.gather(*(database.journal.count("saga") for _ in range(4)))
        killed = await direct.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'standfast'"
        )
        assert len(killed) == 2
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await asyncio.gather(*(database.journal.count("saga") for _ in range(4)))


async def test_close_disconnects_those_at_hand(postgres_dsn, direct):
    database = PostgresDatabase(postgres_dsn, min_size=2, max_size=4)
    await database.open()
    await database.migrate()
    await asyncio.gather(*(database.journal.count("saga") for _ in range(8)))
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'standfast' AND datname = current_database()"
    )
    assert await direct.fetchval(query) >= 2
    async with asyncio.timeout(5):
        await database.close()
        while await direct.fetchval(query):
            await asyncio.sleep(0.01)
    await database.open()
    assert await database.schema_version() > 0
    await database.close()
