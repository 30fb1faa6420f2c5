"""What is stuck is found by an index of its own, which costs those that aren't stuck nothing."""

import pytest

from standfast.backends.postgres.journal import tables as postgres
from standfast.backends.sqlite import SqliteDatabase
from standfast.backends.sqlite.journal import tables as sqlite
from standfast.conformance.samples import finish, journal, migrate, register, start
from standfast.ports.journal import STUCK, Filter
from standfast.saga import status


def test_the_words_are_those_of_sagas():
    assert STUCK == status.STUCK


@pytest.fixture
async def large(database, direct):
    """A journal in which three of 30,000 are stuck."""
    await direct.execute(
        """INSERT INTO standfast.instances (id, pattern, name, version, key, correlation_id,
             input_hash, status, step, cause, created_at, updated_at, finished_at)
           SELECT gen_random_uuid(), 'saga', 'order', 1, 'k' || n, '', '',
             CASE WHEN n % 10000 = 0 THEN 'parked' ELSE 'completed' END, '', '', n, n, n
           FROM generate_series(1, 30000) AS n"""
    )
    await direct.execute("ANALYZE standfast.instances")
    return database


def pages(plan: str) -> int:
    """How many pages a plan that was carried out has read."""
    first = next(line for line in plan.splitlines() if "Buffers: shared" in line)
    return sum(
        int(part.partition("=")[2]) for part in first.split() if part[:4] in ("hit=", "read")
    )


@pytest.mark.parametrize("statuses", [STUCK, ("parked",)])
async def test_postgres_reads_only_what_is_stuck(large, monkeypatch, statuses):
    """Also with the plan that is made once, which can't look into a parameter."""
    pool, plans = journal(large)._pool, []
    fetch = pool.fetch

    async def explaining(sql, *args):
        plan = await fetch(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {sql}", *args)
        plans.append("\n".join(row[0] for row in plan))
        return await fetch(sql, *args)

    monkeypatch.setattr(pool, "fetch", explaining)
    found = await journal(large).find(Filter(statuses=statuses), limit=100)
    assert len(found) == 3
    named = Filter(statuses=statuses, name="order", created_before=15000.0)
    assert len(await journal(large).find(named, limit=100)) == 1
    (counted,) = await journal(large).stuck("saga")
    assert (counted.count, counted.since) == (3, 10000.0)
    assert len(plans) == 3
    for plan in plans:
        assert "instances_stuck" in plan
        assert pages(plan) < 50, plan


async def test_postgres_writes_nothing_into_it_for_a_saga_that_runs_well(database, direct):
    """No start does, and no column of it changes in one that runs: rows change in place (HOT)."""
    token = await register(database)
    size = "SELECT pg_relation_size('standfast.instances_stuck')"
    empty = await direct.fetchval(size)
    starts = [start() for _ in range(200)]
    await journal(database).start(starts, owner=token)
    assert await journal(database).append(token, [finish(starts[0].instance.id, 0)]) == [None]
    assert await direct.fetchval(size) == empty
    indexed = await direct.fetch(
        """SELECT DISTINCT a.attname FROM pg_index i JOIN pg_attribute a
             ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
           WHERE i.indexrelid = 'standfast.instances_stuck'::regclass"""
    )
    assert {row[0] for row in indexed} == {"pattern", "name", "status"}


async def test_sqlite_reads_only_what_is_stuck(tmp_path, monkeypatch):
    database = SqliteDatabase(f"sqlite:///{tmp_path}/a.db")
    await database.open()
    await migrate(database)
    await journal(database).start([start(status="parked"), start()], owner=None)
    read, plans = database.file.read, []

    def explaining(work):
        def both(con):
            seen = []
            con.set_trace_callback(seen.append)
            try:
                result = work(con)
            finally:
                con.set_trace_callback(None)
            plans.extend(
                str(con.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall())
                for sql in seen
                if sql.startswith("SELECT")
            )
            return result

        return read(both)

    monkeypatch.setattr(database.file, "read", explaining)
    for statuses in (STUCK, ("parked",)):
        assert len(await journal(database).find(Filter(statuses=statuses), limit=10)) == 1
    assert len(await journal(database).find(Filter(statuses=STUCK, name="order"), limit=10)) == 1
    assert len(await journal(database).stuck("saga")) == 1
    assert len(plans) == 4
    for plan in plans:
        assert "standfast_instances_stuck" in plan
    await database.close()


def test_the_condition_is_the_migrations():
    for tables in (postgres, sqlite):
        assert tables.STUCK in tables.LINE.migrations[2].sql
