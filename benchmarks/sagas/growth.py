"""The cost of a saga while the tables grow: ``python -m benchmarks.sagas.growth growth URL COUNT``.

Prints a line of JSON for each size from 1,000 finished sagas to COUNT, then one of the purge. The
tables are filled with copies of a saga that really ran, under random keys, which is the hardest
case for the index of keys.
"""

import asyncio
import gc
import json
import sqlite3
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from benchmarks.sagas.definitions import Order, Trivial
from standfast import Standfast
from standfast.ports.journal import Filter

IN_FLIGHT = 100
MEASURED = 5000
WARM_UP = 500
PURGED = 100_000
LONG_AGO = 30 * 86400.0

_COLUMNS = (
    "pattern, name, version, correlation_id, input_hash, status, step, cause, deadline_at,"
    " updated_at"
)


async def growth(url: str, count: int) -> None:
    """Measure at each size, then purge the oldest."""
    app = Standfast(url, migrate=True).add(Trivial())
    async with app.running():
        await _run(app, 1)
    size, filled = 1_000, 0
    while size <= count:
        if url.startswith("sqlite"):
            _fill_sqlite(url, filled, size)
        else:
            await _fill_postgres(url, filled, size)
        filled = size
        async with app.running(), _server_time(url) as server:
            await _run(app, WARM_UP)
            gc.collect()
            await server.begin()
            cpu, begin = time.process_time(), time.perf_counter()
            await _run(app, MEASURED)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            row = {
                "finished": size,
                "wall_ms": 1e3 * seconds / MEASURED,
                "cpu_ms": 1e3 * cpu / MEASURED,
                "server_ms": await server.milliseconds() / MEASURED,
                "claim_ms": await _claim(app),
                "first_page_ms": await _first_page(app),
            }
        print(json.dumps(row), flush=True)
        size *= 10
    async with app:
        await _purge(app, min(PURGED, count))


async def _run(app: Standfast, count: int) -> None:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            handle = await app.start(Trivial, Order(number), key=uuid.uuid4().hex)
            await handle.result()

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


async def _claim(app: Standfast) -> float:
    """Milliseconds of a worker's look for work, when there is none."""
    assert app.worker is not None
    assert app.worker.runner is not None
    journal, kinds = app.database.journal, list(app.definitions.by_kind)
    begin = time.perf_counter()
    for _ in range(20):
        await journal.claim(app.worker.runner.owner, kinds, now=time.time(), limit=500)
        await journal.next_wake(kinds)
    return 1e3 * (time.perf_counter() - begin) / 20


async def _first_page(app: Standfast) -> float:
    """Milliseconds to list the newest 50."""
    begin = time.perf_counter()
    for _ in range(20):
        await app.database.journal.find(Filter(), limit=50)
    return 1e3 * (time.perf_counter() - begin) / 20


async def _purge(app: Standfast, count: int) -> None:
    """Delete the oldest, in commits of a thousand, as `standfast sagas purge` does."""
    cpu, begin = time.process_time(), time.perf_counter()
    gone, slowest = 0, 0.0
    while gone < count:
        one = time.perf_counter()
        gone += await app.database.journal.purge(
            "saga", finished_before=time.time() - LONG_AGO / 2, limit=1000
        )
        slowest = max(slowest, time.perf_counter() - one)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    row = {
        "purged": gone,
        "per_second": gone / seconds,
        "cpu_ms": 1e3 * cpu / gone,
        "slowest_thousand_ms": 1e3 * slowest,
    }
    print(json.dumps(row), flush=True)


def _fill_sqlite(url: str, first: int, end: int) -> None:
    con = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    began = int(1e3 * (time.time() - LONG_AGO))
    con.create_function(
        "old_id", 1, lambda n: (began + n).to_bytes(6, "big") + uuid.uuid4().bytes[6:]
    )
    con.execute("PRAGMA synchronous = OFF")
    con.execute("PRAGMA cache_size = -1000000")
    (model,) = con.execute("SELECT id FROM standfast_instances ORDER BY id DESC LIMIT 1").fetchone()
    con.execute("BEGIN IMMEDIATE")
    con.execute(
        "WITH RECURSIVE number (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM number WHERE n + 1 < ?)"
        f" INSERT INTO standfast_instances ({_COLUMNS}, id, key, created_at, finished_at)"
        f" SELECT {_COLUMNS}, old_id(n), lower(hex(randomblob(16))), ? + n / 1e3, ? + n / 1e3"
        " FROM number, standfast_instances WHERE id = ?",
        (first, end, began / 1e3, began / 1e3, model),
    )
    con.execute(
        "INSERT INTO standfast_journal (id, seq, fact) SELECT i.id, j.seq, j.fact"
        " FROM standfast_instances i CROSS JOIN standfast_journal j"
        " WHERE j.id = ? AND i.id >= ? AND i.id < ?",
        (model, (began + first).to_bytes(6, "big"), (began + end).to_bytes(6, "big")),
    )
    con.execute("COMMIT")
    con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    con.close()


async def _fill_postgres(url: str, first: int, end: int) -> None:
    con = await asyncpg.connect(url)
    began = int(1e3 * (time.time() - LONG_AGO))
    await con.execute("SET synchronous_commit = off")
    model = await con.fetchval("SELECT id FROM standfast.instances ORDER BY id DESC LIMIT 1")
    # One statement for both tables, so that the journal gets the ids just made.
    await con.execute(
        "WITH created AS ("
        f" INSERT INTO standfast.instances ({_COLUMNS}, id, key, created_at, finished_at)"
        f" SELECT {_COLUMNS}, (lpad(to_hex($1::bigint + n), 12, '0')"
        "  || substr(md5(random()::text), 1, 20))::uuid, md5(random()::text || n),"
        "  ($1::bigint + n) / 1e3, ($1::bigint + n) / 1e3"
        " FROM generate_series($2::int, $3::int - 1) AS n, standfast.instances WHERE id = $4"
        " RETURNING id)"
        " INSERT INTO standfast.journal (id, seq, fact) SELECT created.id, j.seq, j.fact"
        " FROM created, standfast.journal j WHERE j.id = $4",
        *(began, first, end, model),
        timeout=1800,
    )
    for table in ("instances", "journal"):
        await con.execute(f"VACUUM ANALYZE standfast.{table}", timeout=1800)
    await con.execute("CHECKPOINT", timeout=1800)
    await con.close()


class _Nothing:
    """SQLite has no server."""

    async def begin(self) -> None: ...

    async def milliseconds(self) -> float:
        return 0.0


class _Statements:
    """The time that PostgreSQL says its statements took."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def begin(self) -> None:
        await self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await self._connection.execute("SELECT pg_stat_statements_reset()")

    async def milliseconds(self) -> float:
        return float(
            await self._connection.fetchval("SELECT sum(total_exec_time) FROM pg_stat_statements")
        )


@asynccontextmanager
async def _server_time(url: str) -> AsyncIterator[_Nothing | _Statements]:
    if url.startswith("sqlite"):
        yield _Nothing()
        return
    connection = await asyncpg.connect(url)
    try:
        yield _Statements(connection)
    finally:
        await connection.close()


MEASUREMENTS = {"growth": (growth, 1_000_000)}

if __name__ == "__main__":
    name, url, count = sys.argv[1:4]
    asyncio.run(MEASUREMENTS[name][0](url, int(count)))
