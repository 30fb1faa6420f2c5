"""Those who run three trivial steps durably: each yields a function that runs one saga to its end.

`raw` is what a saga costs the database at least when it is alone: a commit for the start and one
for each step, the end riding with the last. `rows` is the same with the rows that a saga has, so
that it can be found, taken over and purged. `floor` is `raw` with group commit, and nothing else:
no machine, no retries, no recovery, no telemetry. What an engine adds is its distance to these.
"""

import asyncio
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from standfast.ids import new_id

RunOne = Callable[[int], Awaitable[Any]]
Row = tuple[uuid.UUID, int, str, str]

_TABLE = "CREATE TABLE j (id {id} NOT NULL, seq int NOT NULL, kind text, data text, {key})"


@asynccontextmanager
async def standfast(url: str) -> AsyncIterator[RunOne]:
    """Standfast, as a user sees it: start, await the result."""
    from benchmarks.sagas.definitions import Trivial

    async with _running(url, Trivial) as run_one:
        yield run_one


@asynccontextmanager
async def def_steps(url: str) -> AsyncIterator[RunOne]:
    """The same with steps that are `def`, which run in threads."""
    from benchmarks.sagas.definitions import Blocking

    async with _running(url, Blocking) as run_one:
        yield run_one


@asynccontextmanager
async def _running(url: str, saga: Any) -> AsyncIterator[RunOne]:
    from benchmarks.sagas.definitions import Order
    from standfast import Standfast

    app = Standfast(url, migrate=True).add(saga())
    async with app.running():

        async def run_one(number: int) -> None:
            handle = await app.start(saga, Order(number))
            await handle.result()

        yield run_one


@asynccontextmanager
async def dbos(url: str) -> AsyncIterator[RunOne]:
    """DBOS with its defaults: a workflow of three steps."""
    from dbos import DBOS

    configure_dbos(url)

    @DBOS.step()
    async def trivial(order: dict[str, int]) -> dict[str, bool]:
        await asyncio.sleep(0)
        return {"ok": True}

    @DBOS.workflow()
    async def place_order(order: dict[str, int]) -> None:
        for _ in range(3):
            await trivial(order)

    DBOS.launch()
    try:

        async def run_one(number: int) -> None:
            handle = await DBOS.start_workflow_async(place_order, {"number": number})
            await handle.get_result()

        yield run_one
    finally:
        DBOS.destroy()


def configure_dbos(url: str) -> None:
    """DBOS with its defaults, except that its SQLite file is in WAL mode, the faster one."""
    import logging

    from dbos import DBOS

    logging.disable(logging.INFO)
    if url.startswith("sqlite"):
        # It leaves the file in the mode that it finds.
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[RunOne]:
    """Four commits of one row each, on one connection, with nothing but the steps in between."""
    write_sync, write = await _writer(url)

    async def run_one(number: int) -> None:
        for row in _rows():
            if row[1]:
                await _step()
            if write_sync is not None:
                write_sync([row])  # no thread in between: this is the least there can be
            else:
                await write([row])

    yield run_one


@asynccontextmanager
async def floor(url: str) -> AsyncIterator[RunOne]:
    """The same rows with group commit: what is asked for while a commit runs shares the next."""
    async with _grouped(url, _step) as run_one:
        yield run_one


@asynccontextmanager
async def timed_floor(url: str) -> AsyncIterator[RunOne]:
    """The floor with a time limit on each step: the least that may be called an engine."""
    async with _grouped(url, _timed_step) as run_one:
        yield run_one


@asynccontextmanager
async def rows(url: str) -> AsyncIterator[RunOne]:
    """Start, two facts, and the last with the end: Standfast's own rows, by plain SQL."""
    from benchmarks.sagas.definitions import Trivial
    from standfast import Standfast

    async with Standfast(url, migrate=True).add(Trivial()):
        pass  # its tables are there
    if url.startswith("sqlite"):
        connection = _connect(url)
        instance, fact, end = (sql.format("standfast_") for sql in (_INSTANCE, _FACT, _END))

        async def run_one(number: int) -> None:
            id = new_id()
            key, name, now = id.bytes, str(id), time.time()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(instance, (key, name, now))
            connection.execute(fact, (key, 0, _STARTED))
            connection.execute("COMMIT")
            for step in (1, 2):
                await _step()
                connection.execute(fact, (key, step, _DONE))
            await _step()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(fact, (key, 3, _DONE))
            connection.execute(end, (key, now))
            connection.execute("COMMIT")

        yield run_one
        return

    import asyncpg

    server = await asyncpg.connect(url)
    instance, fact, end = (sql.format("standfast.") for sql in (_INSTANCE, _FACT, _END))
    start = f"WITH instance AS ({instance}) {fact.replace('$2, $3', '0, $4')}"
    finish = f"WITH instance AS ({end}) {fact.replace('$2, $3', '3, $3')}"

    async def run_one_there(number: int) -> None:
        id, now = new_id(), time.time()
        await server.execute(start, id, str(id), now, _STARTED)
        for step in (1, 2):
            await _step()
            await server.execute(fact, id, step, _DONE)
        await _step()
        await server.execute(finish, id, now, _DONE)

    yield run_one_there


_INSTANCE = (
    "INSERT INTO {}instances (id, pattern, name, version, key, correlation_id, input_hash, status,"
    " step, cause, owner, created_at, updated_at) VALUES ($1, 'saga', 'trivial', 1, $2, $2,"
    " '3f1c0a9be2d84c7715aa09f6', 'running', '', '', 1, $3, $3)"
)
_FACT = "INSERT INTO {}journal (id, seq, fact) VALUES ($1, $2, $3)"
_END = (
    "UPDATE {}instances SET status = 'completed', owner = NULL, updated_at = $2, finished_at = $2"
    " WHERE id = $1"
)
_STARTED = '{"kind":"started","at":1790000000.12,"input":{"number":1},"version":1,"key":"1"}'
_DONE = '{"kind":"step_completed","at":1790000000.12,"branch":"charge","result":{"ok":true}}'


async def _step() -> None:
    await asyncio.sleep(0)


async def _timed_step() -> None:
    async with asyncio.timeout(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def _grouped(url: str, step: Callable[[], Awaitable[None]]) -> AsyncIterator[RunOne]:
    write_sync, write = await _writer(url)
    thread = _Thread(write_sync) if write_sync is not None else None
    group = _Group(write if thread is None else thread.write, lanes=2 if thread is None else 1)

    async def run_one(number: int) -> None:
        rows = _rows()
        await group.put(next(rows))
        for row in rows:
            await step()
            await group.put(row)

    try:
        yield run_one
    finally:
        if thread is not None:
            thread.close()


CONTENDERS: dict[str, Callable[[str], AbstractAsyncContextManager[RunOne]]] = {
    "standfast": standfast,
    "def_steps": def_steps,
    "dbos": dbos,
    "raw": raw,
    "floor": floor,
    "timed_floor": timed_floor,
    "rows": rows,
}


def _rows() -> Any:
    id = uuid.uuid4()
    yield (id, 0, "started", '{"order":1}')
    for step in range(1, 4):
        yield (id, step, "step", '{"ok":true}')


async def _writer(
    url: str,
) -> tuple[Callable[[Sequence[Row]], None] | None, Callable[[Sequence[Row]], Awaitable[Any]]]:
    """How to commit rows: in this thread (SQLite), and as a coroutine."""
    if url.startswith("sqlite"):
        connection = _connect(url)
        connection.execute(_TABLE.format(id="blob", key="PRIMARY KEY (id, seq)") + " WITHOUT ROWID")

        def write_sync(rows: Sequence[Row]) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO j VALUES (?, ?, ?, ?)", [(row[0].bytes, *row[1:]) for row in rows]
            )
            connection.execute("COMMIT")

        async def write_here(rows: Sequence[Row]) -> None:
            write_sync(rows)

        return write_sync, write_here

    import asyncpg

    # As many as lanes. Not a pool: asyncpg's asks the server once more whenever one comes back.
    free = [await asyncpg.connect(url) for _ in range(2)]
    await free[0].execute(_TABLE.format(id="uuid", key="PRIMARY KEY (id, seq)"))

    async def write(rows: Sequence[Row]) -> None:
        connection = free.pop()
        await connection.execute(
            "INSERT INTO j SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[])",
            *zip(*rows, strict=True),
        )
        free.append(connection)

    return None, write


def _connect(url: str) -> sqlite3.Connection:
    path = Path(url.removeprefix("sqlite:///"))
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


class _Group:
    """Group commit: at most `lanes` commits in flight, each of all that waits."""

    def __init__(self, write: Callable[[Sequence[Row]], Awaitable[Any]], lanes: int) -> None:
        self._write = write
        self._waiting: list[tuple[Row, asyncio.Future[None]]] = []
        self._some = asyncio.Event()
        self._tasks = [asyncio.create_task(self._run()) for _ in range(lanes)]

    def put(self, row: Row) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((row, future))
        self._some.set()
        return future

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            batch, self._waiting = self._waiting, []
            self._some.clear()
            if batch:
                await self._write([row for row, _ in batch])
                for _, future in batch:
                    future.set_result(None)


class _Thread:
    """A thread that writes, so that the event loop goes on meanwhile."""

    def __init__(self, write: Callable[[Sequence[Row]], None]) -> None:
        self._write_sync = write
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def write(self, rows: Sequence[Row]) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._queue.put((rows, future))
        return future

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            self._write_sync(job[0])
            self._loop.call_soon_threadsafe(job[1].set_result, None)
