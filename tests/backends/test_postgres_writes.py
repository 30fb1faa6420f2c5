"""Writes on PostgreSQL, alone and in company, and the connections at hand between them."""

import asyncio
from dataclasses import asdict

import pytest

from standfast.backends.postgres import PostgresDatabase
from standfast.backends.postgres.journal import literals, statements
from standfast.conformance.samples import finish, journal, mail, migrate, register, start
from standfast.errors import StaleWriter, StoreError
from standfast.ids import new_id
from standfast.ports.journal import Append, RowChange
from standfast.ports.schema import Schema


@pytest.fixture
async def database(postgres_dsn):
    database = PostgresDatabase(postgres_dsn, min_size=2, max_size=2)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


async def all_sorts(database, token, *, together):
    """Writes of all sorts, in one batch of each or one by one: the answers, and what is stored."""
    store = journal(database)

    async def write(write, items):
        if together:
            return await write(items)
        return [answer for item in items for answer in await write([item])]

    keep = {"created_at": 1.5, "deadline_at": 9.5, "cause": "new"}
    starts = [start(input_hash=f"hash-{n}", fact=f'{{"n":{n}}}', **keep) for n in range(8)]
    passive = [start(wake_at=None, **keep), start(wake_at=4e9, **keep)]
    ids = [one.instance.id for one in starts]
    stranger = await register(database, "another")
    await store.start([start(wake_at=None)], owner=stranger)
    started = await write(lambda some: store.start(some, owner=token), starts)
    started += await write(lambda some: store.start(some, owner=None), passive)
    again = [start(one.instance.key) for one in (starts[0], passive[1])]
    started += await write(lambda some: store.start(some, owner=token), again)
    await store.send([mail(ids[7], "letter", at=2.5)])
    appends = [
        Append(ids[0], 0, ["{}"]),
        Append(ids[1], 0, ["{}", "{}"]),
        Append(ids[2], 0, ["{}"], RowChange("waiting", "pay", "why", 3)),
        Append(ids[3], 0, ["{}"], release=True, wake_at=4e9),
        finish(ids[4], 0),
        Append(ids[5], 0, [], RowChange("parked"), release=True),
        Append(passive[0].instance.id, 0, ["{}"]),
        Append(ids[7], 0, ["{}"], RowChange("waiting"), release=True, wake_at=4e9),
    ]
    answers = await write(lambda some: store.append(token, some), appends)
    refused = await write(lambda some: store.append(stranger, some), appends[:2])
    place = {id: number for number, id in enumerate([*ids, *(p.instance.id for p in passive)])}
    loaded = await store.load(list(place))
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
    assert len(statements.OF_ONE) == 3
    for statement in (*statements.OF_ONE.values(), statements.START_ONE_PASSIVE):
        assert "unnest" not in statement
        assert "[]" not in statement


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["", ""],
        ["a", "NULL", "{}", "b,c", " d ", "null"],
        ['"', "\\", '\\"', "'", "$1", "ü🚚"],
        ["\n", "\t", "\r", "\x01", "\x1e"],
        ["\x1f", "a\x1fb", ""],
        ['"\x1f\\', "\x1f\x1f"],
    ],
)
async def test_any_text_survives_being_written_as_an_array(direct, texts):
    """Also one that holds the character by which they are joined."""
    assert await direct.fetchval("SELECT $1::text::text[]", literals.texts(texts)) == texts


async def test_any_number_survives_being_written_as_an_array(direct):
    floats = [None, 0.1, -1e-300, 1.7976931348623157e308, 1796000000.1234567, float("inf"), 3]
    ints = [None, 0, -5, 2**31 - 1]
    flags = [True, False, None]
    for kind, values in (("float8", floats), ("int", ints), ("bool", flags), ("int", [])):
        text = literals.numbers(values)
        assert await direct.fetchval(f"SELECT $1::text::{kind}[]", text) == values


async def test_texts_of_any_kind_in_company(database):
    """What would tell one text from the next, or end the list, is text like any other."""
    token = await register(database)
    odd = ['a"b\\c', "x\x1fy", "{1,NULL}", "", "\n'$1"]
    starts = [start(f"key {text}", step=text, cause=text, fact=f"[{text}]") for text in odd]
    answers = await journal(database).start(starts, owner=token)
    assert all(answer.created for answer in answers)
    ids = [one.instance.id for one in starts]
    appends = [
        Append(id, 0, [f"a{text}", text], RowChange(f"s{text}", text, text))
        for id, text in zip(ids, odd, strict=True)
    ]
    assert await journal(database).append(token, appends) == [None] * 5
    for stored, text in zip(await journal(database).load(ids), odd, strict=True):
        row = stored.instance
        assert (row.key, row.status, row.step, row.cause) == (f"key {text}", f"s{text}", text, text)
        assert stored.facts == [f"[{text}]", f"a{text}", text]


async def test_a_text_that_is_no_text_fails_alone(database):
    """PostgreSQL has no NUL; in a batch, the others are written."""
    token = await register(database)
    starts = [start() for _ in range(3)]
    await journal(database).start(starts, owner=token)
    ids = [one.instance.id for one in starts]
    answers = await journal(database).append(
        token, [Append(id, 0, ["{}"], RowChange("nul\0" if id == ids[1] else "ok")) for id in ids]
    )
    assert [type(answer) for answer in answers] == [type(None), StoreError, type(None)]


async def test_part_of_a_batch_that_is_refused(database):
    """Whatever it is made of, each append is told its own, and is written whole or not at all."""
    token, stranger = await register(database), await register(database)
    starts = [start() for _ in range(4)]
    others = [start() for _ in range(4)]
    await journal(database).start(starts, owner=token)
    await journal(database).start(others, owner=stranger)

    def shapes(some):
        a, b, c, d = (one.instance.id for one in some)
        return [
            Append(a, 0, ["1", "2"]),
            Append(b, 0, ["1", "2"], RowChange("changed")),
            Append(c, 0, [], RowChange("changed")),
            Append(d, 0, []),
        ]

    mine, theirs = shapes(starts), shapes(others)
    answers = await journal(database).append(token, [*theirs, *mine])
    assert [type(answer) for answer in answers] == [StaleWriter] * 4 + [type(None)] * 4
    stored = await journal(database).load([one.instance.id for one in (*starts, *others)])
    assert [(len(one.facts), one.instance.status) for one in stored] == [
        (3, "running"),
        (3, "changed"),
        (1, "changed"),
        (1, "running"),
        *[(1, "running")] * 4,
    ]


@pytest.mark.parametrize("size", [1, 7])
async def test_plans_made_on_empty_tables_stay_good(postgres_dsn, database, direct, size):
    """Each write looks its rows up; none walks through the table, or through a whole index."""
    if direct.get_server_version() < (15,):
        pytest.skip("only PostgreSQL 15 tells at once what was read")
    single = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await single.open()
    token = await register(single)
    store = journal(single)

    async def write():
        starts = [start() for _ in range(size)]
        ids = [one.instance.id for one in starts]
        await store.start(starts, owner=token)
        await store.start([start(wake_at=None, id=one) for one in (new_id(), new_id())], owner=None)
        assert await store.append(token, [Append(id, 0, ["{}"]) for id in ids]) == [None] * size
        await store.send([mail(id) for id in ids])
        numbers = {one.to: one.number for one in await store.collect(token, ids)}
        folds = [Append(id, 1, ["{}"], RowChange("x"), consumed=[numbers[id]]) for id in ids]
        assert await store.append(token, folds) == [None] * size
        ends = [finish(id, 2) for id in ids]
        assert await store.append(token, ends) == [None] * size
        await store.load(ids)
        await store.reclaim()

    for _ in range(8):
        await write()
    await direct.execute("VACUUM ANALYZE standfast.instances, standfast.journal, standfast.mail")
    await store.start([start(wake_at=None) for _ in range(20_000)], owner=token)
    plans = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'standfast'"
    scans = "SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE relname <> 'leases'"

    async def read():
        await single.pool.fetch("SELECT pg_stat_force_next_flush()")
        await asyncio.sleep(0.1)
        return await direct.fetchval(plans), await direct.fetchval(scans)

    before = await read()
    for _ in range(3):
        await write()
    after = await read()
    await single.close()
    assert after[0] - before[0] < 3 * 100 * (size + 2)
    assert after[1] == before[1]


async def test_writes_are_not_planned_anew(postgres_dsn, database, direct):
    """Knowing how long the lists are, the server finds planning worth its while: it isn't."""
    if direct.get_server_version() < (14,):
        pytest.skip("PostgreSQL 13 doesn't tell how often it planned")
    token = await register(database)
    await journal(database).start([start() for _ in range(2000)], owner=token)
    await direct.execute("ANALYZE standfast.instances, standfast.journal")
    fresh = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await fresh.open()
    for _ in range(10):
        one = start()
        id = one.instance.id
        await journal(fresh).start([one], owner=token)
        assert await journal(fresh).append(token, [Append(id, 0, ["{}"])]) == [None]
        assert await journal(fresh).append(token, [finish(id, 1)]) == [None]
    plans = await fresh.pool.fetch(
        "SELECT custom_plans, generic_plans FROM pg_prepared_statements "
        "WHERE statement LIKE 'WITH%standfast.journal%'"
    )
    await fresh.close()
    assert [tuple(row) for row in plans] == [(0, 10)] * 3


async def test_who_waits_gets_the_next_connection(database):
    async def hold(entered, leave):
        async with database.pool.acquire():
            entered.set()
            await leave.wait()

    leave = asyncio.Event()
    entered = [asyncio.Event(), asyncio.Event()]
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for event in entered:
            group.create_task(hold(event, leave))
        for event in entered:
            await event.wait()
        waiting = [group.create_task(journal(database).count("saga")) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in waiting)
        leave.set()
        await asyncio.wait(waiting)


async def test_no_more_connections_than_allowed(database, direct):
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'standfast'"
    for _ in range(3):
        await asyncio.gather(*(journal(database).count("saga") for _ in range(20)))
        await asyncio.gather(*(journal(database).by_key("saga", "order", "a") for _ in range(20)))
        assert await direct.fetchval(query + " AND datname = current_database()") == 2


async def test_connections_at_hand_that_were_killed_are_replaced(database, direct):
    for _ in range(3):
        await asyncio.gather(*(journal(database).count("saga") for _ in range(4)))
        killed = await direct.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'standfast'"
        )
        assert len(killed) == 2
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            await asyncio.gather(*(journal(database).count("saga") for _ in range(4)))


async def test_close_disconnects_those_at_hand(postgres_dsn, direct):
    database = PostgresDatabase(postgres_dsn, min_size=2, max_size=4)
    await database.open()
    await migrate(database)
    await asyncio.gather(*(journal(database).count("saga") for _ in range(8)))
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
    assert await database.port(Schema).applied()
    await database.close()


async def test_mail_comes_in_its_order_whatever_the_plan(database, direct):
    """Another index has them by their ids, and those written anew are at the table's end."""
    await direct.execute("DROP INDEX standfast.mail_unread")
    token = await register(database)
    store = journal(database)
    ids = [new_id() for _ in range(3)]
    await store.start([start(id=id) for id in ids], owner=token)
    for id in (*ids, *reversed(ids)):
        await store.send([mail(id, f"z-{id}"), mail(id, f"a-{id}")])
    numbers = [one.number for one in await store.collect(token, ids)]
    for number in (numbers[0], numbers[-2]):
        await direct.execute("UPDATE standfast.mail SET body = body WHERE number = $1", number)
    mails = await store.collect(token, ids)
    by_id = {id: [one.number for one in mails if one.to == id] for id in ids}
    assert all(found == sorted(found) and len(found) == 2 for found in by_id.values())
    for one in await store.load(ids):
        assert [mail.number for mail in one.mails] == by_id[one.instance.id]
