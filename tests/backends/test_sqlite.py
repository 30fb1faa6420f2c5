"""The SQLite backend: the contract of the ports, and what is its own."""

import asyncio
import contextlib
import signal
import sqlite3
import sys
import threading
import time
from collections import defaultdict
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import pytest
from tests.backends.sqlite_victim import SIZE
from tests.test_shielding import cancel_again_and_again

from standfast import Context, Saga, Standfast, step
from standfast.backends.sqlite import SqliteDatabase
from standfast.backends.sqlite import file as sqlite_file
from standfast.conformance import (
    DatabaseSuite,
    JournalSuite,
    LeasesSuite,
    MarkSuite,
    TransactionSuite,
)
from standfast.conformance.samples import (
    KINDS,
    Undo,
    journal,
    leases,
    loaded,
    mail,
    marks,
    migrate,
    owned,
    passive,
    register,
    start,
)
from standfast.errors import (
    ConfigurationError,
    ConstraintViolated,
    CorruptRecord,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from standfast.ids import new_id
from standfast.ports.journal import Append, Filter, RowChange
from standfast.ports.schema import Schema
from standfast.testing import ManualClock

ROOT = Path(__file__).parents[2]


class Sqlite:
    @pytest.fixture(params=[0, "1h"], ids=["thread", "inline"])
    def inline_below(self, request):
        return request.param

    @pytest.fixture
    async def empty(self, tmp_path, inline_below):
        database = SqliteDatabase(f"sqlite:///{tmp_path}/empty.db", inline_below=inline_below)
        await database.open()
        yield database
        await database.close()

    @pytest.fixture
    async def database(self, tmp_path, inline_below):
        database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db", inline_below=inline_below)
        await database.open()
        await migrate(database)
        yield database
        await database.close()


class TestDatabase(Sqlite, DatabaseSuite): ...


class TestTransaction(Sqlite, TransactionSuite): ...


class TestJournal(Sqlite, JournalSuite): ...


class TestLeases(Sqlite, LeasesSuite): ...


class TestMarks(Sqlite, MarkSuite): ...


@pytest.fixture
async def database(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db", busy_timeout=0.05)
    await database.open()
    await migrate(database)
    yield database
    await database.close()


async def mark(database, tx, key, reason="x"):
    return await marks(database).within(tx).set(key, "do", reason, at=1.0)


# Opening


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///file::memory:?cache=shared", "memory://"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite://relative.db", "sqlite:///relative.db"),
        ("shop.db", "sqlite:///relative.db"),
    ],
)
def test_a_wrong_url_is_refused_with_advice(url, advice):
    with pytest.raises(ConfigurationError, match=advice):
        SqliteDatabase(url)


def test_wrong_options_are_refused():
    with pytest.raises(ConfigurationError, match="readers"):
        SqliteDatabase("sqlite:///x.db", readers=0)
    with pytest.raises(ConfigurationError, match="busy_timeout"):
        SqliteDatabase("sqlite:///x.db", busy_timeout="soon")


async def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db"):
        database = SqliteDatabase(url)
        await database.open()
        await migrate(database)
        await database.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["absolute.db", "relative.db"]


async def test_a_missing_folder(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/nowhere/test.db")
    with pytest.raises(StoreUnavailable, match=r"folder .*/nowhere doesn't exist"):
        await database.open()


async def test_a_folder_in_place_of_the_file(tmp_path):
    with pytest.raises(StoreUnavailable, match="is a folder"):
        await SqliteDatabase(f"sqlite:///{tmp_path}").open()


async def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "notes.txt").write_text("remember the milk\n" * 100)
    with pytest.raises(CorruptRecord, match="not an SQLite database"):
        await SqliteDatabase(f"sqlite:///{tmp_path}/notes.txt").open()
    assert not [thread for thread in threading.enumerate() if "standfast" in thread.name]


async def test_not_opened_and_closed(tmp_path):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
    with pytest.raises(StoreError, match="isn't open"):
        await database.port(Schema).applied()
    await database.open()
    await database.close()
    with pytest.raises(StoreError, match="isn't open"):
        await journal(database).start([start()], owner=None)
    assert not [thread for thread in threading.enumerate() if "standfast" in thread.name]


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_an_opening_that_is_cancelled_leaves_no_thread(tmp_path, turns):
    opening = asyncio.create_task(SqliteDatabase(f"sqlite:///{tmp_path}/a.db").open())
    for _ in range(turns):
        await asyncio.sleep(0)
    await cancel_again_and_again(opening)
    assert opening.cancelled()
    assert not [one for one in threading.enumerate() if one.name.startswith("standfast-sqlite")]


async def test_it_is_durable(database):
    for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
        found = await database.file.write(
            lambda con, p=pragma: con.execute(f"PRAGMA {p}").fetchone()
        )
        assert found == (value,)


# Failing


async def test_busy(database):
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process") as caught:
            await journal(database).start([start()], owner=None)
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(StoreUnavailable):
            async with database.transaction() as tx:
                await tx.execute("CREATE TABLE t (x)")
        assert await journal(database).find(Filter(), limit=1) == []
        other.execute("ROLLBACK")
    await passive(database)


async def test_full(database):
    token = await register(database)
    ids = [await owned(database, token) for _ in range(3)]
    await database.file.write(
        lambda con: con.execute(
            f"PRAGMA max_page_count = {con.execute('PRAGMA page_count').fetchone()[0]}"
        ).fetchall()
    )
    big = '"' + "x" * 100_000 + '"'
    with pytest.raises(StoreFull, match="no room"):
        await journal(database).append(token, [Append(id, 0, ["1", big]) for id in ids])
    with pytest.raises(StoreFull):
        await journal(database).start([start("k", fact=big)], owner=token)
    with pytest.raises(StoreFull):
        async with database.transaction() as tx:
            await mark(database, tx, "k")
            await journal(database).within(tx).start([start("k", fact=big)])
    for it in await journal(database).load(ids):
        assert len(it.facts) == 1
    await database.file.write(lambda con: con.execute("PRAGMA max_page_count = 100000").fetchall())
    answers = await journal(database).append(token, [Append(id, 0, ["1", big]) for id in ids])
    assert list(answers) == [None] * 3
    assert await journal(database).by_key("saga", "order", "k") is None
    async with database.transaction() as tx:
        assert await mark(database, tx, "k") is None


async def test_full_in_a_transaction_that_goes_on(database):
    """SQLite may end the transaction itself then: what follows must not be committed alone."""
    big = '"' + "x" * 100_000 + '"'
    await database.file.write(
        lambda con: con.execute(
            f"PRAGMA max_page_count = {con.execute('PRAGMA page_count').fetchone()[0]}"
        ).fetchall()
    )
    with contextlib.suppress(StoreError):
        async with database.transaction() as tx:
            await mark(database, tx, "before")
            with pytest.raises(StoreFull):
                await journal(database).within(tx).start([start("k", fact=big)])
            await mark(database, tx, "after")
    await database.file.write(lambda con: con.execute("PRAGMA max_page_count = 100000").fetchall())
    async with database.transaction() as tx:
        before = await mark(database, tx, "before", "y")
        after = await mark(database, tx, "after", "y")
    assert (before is None) == (after is None)


async def test_damaged_text_keeps_no_other_from_being_claimed(database):
    token = await register(database)
    good, bad = await passive(database), await passive(database)
    await database.file.write(
        lambda con: con.execute(
            "UPDATE standfast_journal SET fact = CAST(x'22ff22' AS TEXT) WHERE id = ?", (bad.bytes,)
        )
    )
    claimed = await journal(database).claim(token, KINDS, now=time.time(), limit=10)
    facts = {it.instance.id: it.facts for it in claimed}
    assert facts == {good: ['{"type":"started"}'], bad: ['"\udcff"']}
    factory = await database.file.write(lambda con: con.text_factory)
    assert factory is str, "for what the same connection reads next"
    assert (await loaded(database, good)).facts == ['{"type":"started"}']


async def test_text_that_cannot_be_stored_fails_its_own_append_only(database):
    token = await register(database)
    good, bad = await owned(database, token), await owned(database, token)
    answers = await journal(database).append(
        token, [Append(bad, 0, ["1"], RowChange("failed", cause="\udcff")), Append(good, 0, ["1"])]
    )
    assert [type(answer) for answer in answers] == [StoreError, type(None)]
    assert len((await loaded(database, bad)).facts) == 1
    assert len((await loaded(database, good)).facts) == 2
    (alone,) = await journal(database).append(token, [Append(bad, 0, ["\udcff"])])
    assert isinstance(alone, StoreError)
    assert isinstance(alone.__cause__, UnicodeError)
    assert len((await loaded(database, bad)).facts) == 1


async def test_a_damaged_file_in_use(database):
    await journal(database).start([start() for _ in range(500)], owner=None)
    roots = "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'standfast_instances'"
    pages = await database.file.read(lambda con: con.execute(roots).fetchall())
    await database.file.write(lambda con: con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    with Path(database.path).open("r+b") as file:
        for (page,) in pages:
            file.seek(4096 * (page - 1))
            file.write(b"\xa5" * 4096)
    second = SqliteDatabase(database.url)
    await second.open()
    try:
        with pytest.raises(CorruptRecord, match="damaged"):
            await journal(second).count("saga")
    finally:
        await second.close()


# Transactions


@pytest.mark.parametrize("sql", ["COMMIT", " rollback", "BEGIN", "END TRANSACTION"])
async def test_a_statement_that_ends_the_transaction_is_refused(database, sql):
    with pytest.raises(StoreError, match="itself"):
        async with database.transaction() as tx:
            await mark(database, tx, "k")
            await tx.execute(sql)
    async with database.transaction() as tx:
        assert await mark(database, tx, "k") is None


async def test_savepoints_are_the_users_own(database):
    async with database.transaction() as tx:
        await tx.execute("SAVEPOINT mine")
        await mark(database, tx, "k")
        await tx.execute("ROLLBACK TO mine")
        await tx.execute("RELEASE mine")
    async with database.transaction() as tx:
        assert await mark(database, tx, "k") is None


async def test_nothing_follows_a_rollback_that_slipped_through(database):
    """A conflict may be set to roll all of the transaction back."""
    with pytest.raises(StoreError, match=r"rolled the transaction back.*UNIQUE.*Let the error"):
        async with database.transaction() as tx:
            await tx.execute("CREATE TABLE t (n PRIMARY KEY)")
            await tx.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(ConstraintViolated):
                await tx.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
            await mark(database, tx, "k")
    async with database.transaction() as tx:
        assert await mark(database, tx, "k") is None


async def test_a_task_that_would_wait_for_itself_is_told(database):
    async with database.transaction() as tx:
        await mark(database, tx, "k")
        with pytest.raises(StoreError, match="transaction open"):
            await journal(database).start([start()], owner=None)
        with pytest.raises(StoreError, match="transaction open"):
            async with database.transaction() as inner:
                await mark(database, inner, "k2")
        assert await journal(database).find(Filter(), limit=1) == []
    await passive(database)


async def test_one_that_did_nothing_takes_no_lock(database):
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with database.transaction():
            pass
        other.execute("ROLLBACK")


async def test_cancelled_before_its_turn_it_never_runs(database):
    async def starting():
        await journal(database).start([start("k")], owner=None)

    async with database.transaction() as tx:
        await mark(database, tx, "k")
        waiting = asyncio.create_task(starting())
        await asyncio.sleep(0.01)
        waiting.cancel()
    assert await journal(database).by_key("saga", "order", "k") is None
    await passive(database)


async def test_cancelled_before_its_commit_begins_it_is_rolled_back(database):
    gate, busy = threading.Event(), []

    async def block():
        async with database.transaction() as tx:
            await mark(database, tx, "k")
            busy.append(asyncio.create_task(tx._do(lambda con: gate.wait(10))))
            await asyncio.sleep(0)  # so that the commit waits for that

    ending = asyncio.create_task(block())
    await asyncio.sleep(0.05)
    ending.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    async with database.transaction() as tx:
        assert await mark(database, tx, "k") is None


async def test_cancelled_while_it_waits_for_the_writer(database):
    async def second():
        async with database.transaction() as tx:
            await mark(database, tx, "k2")

    async with database.transaction() as tx:
        await mark(database, tx, "k")
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with database.transaction() as tx:
        assert await mark(database, tx, "k2") is None


# Crashing


@pytest.mark.crash
async def test_sigkill_loses_nothing_acknowledged_and_tears_no_batch(tmp_path):
    url = f"sqlite:///{tmp_path}/crash.db"
    database = SqliteDatabase(url)
    await database.open()
    await migrate(database)
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE orders (tag TEXT PRIMARY KEY)")
    await database.close()
    said = []
    for life in range(5):
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.backends.sqlite_victim", url, str(life),
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        first = await victim.stdout.readline()
        assert first.startswith(b"started"), first
        await asyncio.sleep(0.05 + 0.037 * life)
        victim.kill()
        rest = (await victim.stdout.read()).decode()
        said += [line.split() for line in (first.decode() + rest).splitlines()]
        assert await victim.wait() == -signal.SIGKILL
    await database.open()
    try:
        await leases(database).expire()
        await journal(database).reclaim()
        rows = await journal(database).find(Filter(), limit=10**6)
        journals = await journal(database).load([row.id for row in rows])
        async with database.transaction() as tx:
            orders = {row["tag"] for row in await tx.fetch("SELECT tag FROM orders")}
            assert await tx.fetch_value("PRAGMA integrity_check") == "ok"
    finally:
        await database.close()
    batches = defaultdict(list)
    for it in journals:
        batches[it.instance.correlation_id].append(len(it.facts))
    batches.pop("trace-1")  # those of the transactions
    acknowledged = {act: {tag for what, tag in said if what == act} for act, _ in said}
    assert len(acknowledged["appended"]) > 10
    assert acknowledged["started"] <= batches.keys()
    assert acknowledged["ordered"] <= orders
    for tag, lengths in batches.items():
        whole = [[3] * SIZE] if tag in acknowledged["appended"] else [[1] * SIZE, [3] * SIZE]
        assert lengths in whole, tag
    assert orders == {row.key.removeprefix("tx-") for row in rows if row.key.startswith("tx-")}
    unheard = (batches.keys() - acknowledged["started"]) | (orders - acknowledged["ordered"])
    assert len(unheard) <= 5  # at most the one batch in flight of each life


async def test_a_transaction_longer_than_the_lease_loses_nothing(tmp_path):
    """While it is open nobody else can end the lease; at its end that is renewed with it."""
    clocks = [ManualClock(), ManualClock()]
    one, other = (SqliteDatabase(f"sqlite:///{tmp_path}/app.db", clock=each) for each in clocks)
    async with AsyncExitStack() as stack:
        for database in (one, other):
            await database.open()
            stack.push_async_callback(database.close)
        await migrate(one)
        token = await register(one, ttl=7.5)
        for ends in ("commit", "rollback", "savepoint"):
            with suppress(Undo):
                async with one.transaction() as tx:
                    await tx.execute("CREATE TABLE IF NOT EXISTS mine (n int)")
                    await tx.execute("SAVEPOINT a")
                    for _ in range(10):  # a beat each
                        for each in clocks:
                            each.advance(2.5)
                        async with asyncio.timeout(10):
                            assert await leases(one).renew([token], ttl=7.5) == [True]
                    await tx.execute("ROLLBACK TO a")
                    if ends == "rollback":
                        raise Undo
            async with asyncio.timeout(10):
                await one.file.write(lambda con: None)  # all before it is done
            assert await leases(other).expire() == []
            assert await leases(one).renew([token], ttl=7.5) == [True]


async def test_a_renewal_goes_before_all_writes_that_wait(tmp_path):
    """Those of many users at once, each of which takes its time."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/app.db")
    await database.open()
    try:
        await migrate(database)
        token = await register(database)
        begun, goes_on, expiries = threading.Event(), threading.Event(), []

        def slow(con):
            begun.set()
            assert goes_on.wait(10)
            expiries.extend(con.execute("SELECT expires_at FROM standfast_leases").fetchone())

        writes = [database.file.write(slow) for _ in range(5)]
        await asyncio.to_thread(begun.wait, 10)
        renewing = asyncio.create_task(leases(database).renew([token], ttl=600))
        await asyncio.sleep(0.01)
        goes_on.set()
        assert await asyncio.wait_for(renewing, 10) == [True]
        await asyncio.gather(*writes)
        before, *after = expiries
        assert set(after) == {after[0]} != {before}
    finally:
        await database.close()


async def test_a_file_that_is_locked_for_less_than_half_the_lease_loses_nothing(tmp_path):
    """By another program, say a backup: the renewal waits for it, and is written."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/app.db", busy_timeout="5s")
    await database.open()
    try:
        await migrate(database)
        token = await register(database, ttl=60)
        other = sqlite3.connect(database.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        renewing = asyncio.create_task(leases(database).renew([token], ttl=600))
        await asyncio.sleep(0.1)
        assert not renewing.done()
        other.execute("ROLLBACK")
        other.close()
        assert await asyncio.wait_for(renewing, 10) == [True]
        (lease,) = await leases(database).leases()
        assert lease.expires_in > 300
    finally:
        await database.close()


async def test_a_file_that_is_deleted_while_it_is_open_takes_no_more(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(sqlite_file, "LOOKS_EVERY", 0.02)
    path = tmp_path / "app.db"
    database = SqliteDatabase(f"sqlite:///{path}")
    await database.open()
    try:
        await migrate(database)
        token = await register(database)
        aside = path.rename(tmp_path / "aside.db")
        async with asyncio.timeout(10):
            while "was deleted or replaced while it was open" not in caplog.text:
                await asyncio.sleep(0.01)
        for act in (
            lambda: leases(database).renew([token], ttl=60),
            lambda: journal(database).start([start()], owner=token),
            lambda: journal(database).send([mail(new_id())]),
        ):
            with pytest.raises(StoreUnavailable, match="put it back, or stop this process"):
                await act()
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            async with database.transaction() as tx:
                await tx.execute("SELECT 1")
        path.write_bytes(b"")  # another one under its name
        await asyncio.sleep(0.1)
        with pytest.raises(StoreUnavailable, match="deleted or replaced"):
            await journal(database).start([start()], owner=token)
        aside.rename(path)
        async with asyncio.timeout(10):
            while "is back where it was" not in caplog.text:
                await asyncio.sleep(0.01)
        await journal(database).start([start()], owner=token)
        assert caplog.text.count("was deleted or replaced") == 1
    finally:
        await database.close()


async def test_a_file_stays_where_it_is_when_the_process_goes_to_another_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite_file, "LOOKS_EVERY", 0.02)
    monkeypatch.chdir(tmp_path)
    database = SqliteDatabase("sqlite:///app.db")
    await database.open()
    try:
        await migrate(database)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await asyncio.sleep(0.1)
        token = await register(database)
        await journal(database).start([start()], owner=token)
    finally:
        await database.close()


async def test_triggers_of_the_users_own_disturb_nothing(tmp_path):
    """What they write isn't counted as ours: starts, facts and changes are taken as written."""
    path = tmp_path / "audited.db"

    class Audited(Saga[str]):
        @step(no_compensation="nothing to undo")
        async def one(self, text: str, ctx: Context) -> str:
            return text

        @step(no_compensation="nothing to undo")
        async def two(self, text: str, ctx: Context) -> str:
            return text

    app = Standfast(f"sqlite:///{path}").add(Audited())
    async with app:
        pass
    with closing(sqlite3.connect(path)) as con:
        con.execute("CREATE TABLE audit (what)")
        for table in ("instances", "journal"):
            for event in ("INSERT", "UPDATE"):
                con.execute(
                    f"CREATE TRIGGER {event}_{table} AFTER {event} ON standfast_{table}"
                    f" BEGIN INSERT INTO audit VALUES ('{event} {table}'); END"
                )
    async with app.running(poll="100ms"):
        handles = [await app.start(Audited, "alone", key="alone")]
        many = [app.start(Audited, "many", key=f"many-{n}") for n in range(20)]
        handles += await asyncio.gather(*many)
        async with app.transaction() as tx:
            handles.append(await tx.start(Audited, "within", key="within"))
            assert not (await tx.start(Audited, "within", key="within")).created
        for handle in handles:
            assert (await handle.result("20s"))[Audited.two] in ("alone", "many", "within")
