"""The cost of a saga while the tables grow: ``python -m benchmarks.sagas.growth …`` prints JSON.

`growth` prints a line for each size from 1,000 finished sagas to COUNT and each kind of key, then
one of the purge. The tables are filled with copies of a saga that really ran, under random keys.
`long` runs COUNT sagas in a row while nothing is vacuumed, and prints a line for each tenth.
"""

import asyncio
import gc
import json
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.sagas.definitions import Order, Trivial
from standfast import Standfast
from standfast.ports.journal import Filter

IN_FLIGHT = 100
MEASURED = 5000
WARM_UP = 500
SETTLED = 50_000
"""Sagas after which nearly every page of the index of a million keys was written once."""
PURGED = 100_000
LONG_AGO = 30 * 86400.0

_COLUMNS = (
    "pattern, name, version, correlation_id, input_hash, status, step, cause, deadline_at,"
    " updated_at"
)


async def growth(url: str, count: int) -> None:
    """Measure at each size, then purge the oldest.

    `ids`: no key is given, so it is the instance's id, which grows with time. `random`: keys of the
    user that have no order, the hardest case for their index, just after a checkpoint. `settled`:
    the same, long after the checkpoint.
    """
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
        async with app.running(), _server(url) as server:
            for keys in ("ids", "random", "settled"):
                if keys == "settled":
                    if size * 10 <= count:
                        continue
                    await _run(app, SETTLED, random_keys=True)
                await _run(app, WARM_UP, random_keys=keys != "ids")
                cost = await _cost(app, server, MEASURED, random_keys=keys != "ids")
                _tell({"finished": size, "keys": keys, **cost})
            _tell(
                {
                    "finished": size,
                    "claim_ms": await _claim(app),
                    "first_page_ms": await _first_page(app),
                }
            )
        size *= 10
    async with app:
        await _purge(app, min(PURGED, count))


async def long(url: str, count: int) -> None:
    """Measure ten times while the dead versions of rows pile up."""
    app = Standfast(url, migrate=True).add(Trivial())
    async with app.running(), _server(url) as server:
        await server.forbid_vacuum()
        await _run(app, WARM_UP)
        for tenth in range(1, 11):
            cost = await _cost(app, server, count // 10, random_keys=True)
            _tell({"finished": tenth * count // 10, **cost, **await server.waste()})


async def _cost(
    app: Standfast, server: "_Nothing | _Server", count: int, *, random_keys: bool
) -> dict[str, float]:
    """Of one of `count` sagas, on average."""
    gc.collect()
    await server.begin()
    cpu, begin = time.process_time(), time.perf_counter()
    await _run(app, count, random_keys=random_keys)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    spent = {name: value / count for name, value in (await server.spent()).items()}
    return {"wall_ms": 1e3 * seconds / count, "cpu_ms": 1e3 * cpu / count, **spent}


async def _run(app: Standfast, count: int, *, random_keys: bool = False) -> None:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            key = uuid.uuid4().hex if random_keys else None
            handle = await app.start(Trivial, Order(number), key=key)
            await handle.result()

    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


def _tell(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


async def _claim(app: Standfast) -> float:
    """Milliseconds of a worker's look for work, when there is none."""
    assert app.supervisor is not None
    owner = app.supervisor.membership.token
    assert owner is not None
    journal, kinds = app.sagas.store, list(app.sagas.definitions.by_kind)
    begin = time.perf_counter()
    for _ in range(20):
        await journal.claim(owner, kinds, now=time.time(), limit=500)
        await journal.next_wake(kinds)
    return 1e3 * (time.perf_counter() - begin) / 20


async def _first_page(app: Standfast) -> float:
    """Milliseconds to list the newest 50."""
    begin = time.perf_counter()
    for _ in range(20):
        await app.sagas.store.find(Filter(), limit=50)
    return 1e3 * (time.perf_counter() - begin) / 20


async def _purge(app: Standfast, count: int) -> None:
    """Delete the oldest, in commits of a thousand, as `standfast sagas purge` does."""
    cpu, begin = time.process_time(), time.perf_counter()
    gone, slowest = 0, 0.0
    while gone < count:
        one = time.perf_counter()
        gone += await app.sagas.store.purge(
            "saga", finished_before=time.time() - LONG_AGO / 2, limit=1000
        )
        slowest = max(slowest, time.perf_counter() - one)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    _tell(
        {
            "purged": gone,
            "per_second": gone / seconds,
            "cpu_ms": 1e3 * cpu / gone,
            "slowest_thousand_ms": 1e3 * slowest,
        }
    )


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
    """SQLite has no server: all that it costs is in the process's own CPU."""

    async def begin(self) -> None: ...

    async def forbid_vacuum(self) -> None: ...

    async def spent(self) -> dict[str, float]:
        return {}

    async def waste(self) -> dict[str, float]:
        return {}


class _Server:
    """What PostgreSQL says that it did, and what its processes cost."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cpu = 0.0

    async def begin(self) -> None:
        await self._connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        await self._connection.execute("SELECT pg_stat_statements_reset()")
        self._cpu = await self._cpu_seconds()

    async def forbid_vacuum(self) -> None:
        for table in ("instances", "journal"):
            await self._connection.execute(
                f"ALTER TABLE standfast.{table} SET (autovacuum_enabled = off)"
            )

    async def spent(self) -> dict[str, float]:
        cpu = await self._cpu_seconds() - self._cpu
        row = await self._connection.fetchrow(
            "SELECT sum(total_exec_time)::float8 AS statements_ms, sum(wal_fpi)::float8 AS images,"
            " sum(wal_bytes)::float8 / 1e3 AS wal_kb FROM pg_stat_statements"
        )
        return {"server_cpu_ms": 1e3 * cpu, **row}

    async def waste(self) -> dict[str, float]:
        await asyncio.sleep(1.5)  # until the server's processes have told their figures
        row = await self._connection.fetchrow(
            "SELECT n_tup_hot_upd::float8 / n_tup_upd AS hot_ratio, n_dead_tup AS dead_rows,"
            " pg_relation_size(relid) / 1e6::float8 AS table_mb,"
            " pg_indexes_size(relid) / 1e6::float8 AS indexes_mb, autovacuum_count AS vacuums"
            " FROM pg_stat_user_tables WHERE relname = 'instances'"
        )
        return dict(row)

    async def _cpu_seconds(self) -> float:
        """Of all processes of the server, those that ended included."""
        backend = await self._connection.fetchval("SELECT pg_backend_pid()")
        parent = Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1]
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        ticks = 0
        for process in (parent, *children):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11 : 15 if process == parent else 13]))
        return ticks / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def _server(url: str) -> AsyncIterator[_Nothing | _Server]:
    if url.startswith("sqlite"):
        yield _Nothing()
        return
    connection = await asyncpg.connect(url)
    try:
        yield _Server(connection)
    finally:
        await connection.close()


MEASUREMENTS = {"growth": (growth, 1_000_000), "long": (long, 200_000)}

if __name__ == "__main__":
    name, url, count = sys.argv[1:4]
    asyncio.run(MEASUREMENTS[name][0](url, int(count)))
