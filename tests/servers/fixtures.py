"""The servers as fixtures: started when first asked for, one of each per test process.

| fixture | gives |
|---|---|
| `postgres_dsn` | a new, empty database, dropped after the test |
| `postgres_server` | a PostgreSQL of the test's own, which it may stop, kill and start again |
| `redis_url` | an empty logical database |
| `redis_server` | a Redis of the test's own |
| `tcp_proxy` | a function that puts a `TcpProxy` in front of an address |

`STANDFAST_TEST_POSTGRES` and `STANDFAST_TEST_REDIS` name servers that run already. The Redis is
**flushed**: logical database N for test process N. `STANDFAST_TEST_FSYNC=1` makes our own servers
durable. A server that is missing fails the test where `CI=true`, and skips it elsewhere.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from tests.servers.postgres import Postgres
from tests.servers.process import Server, ServerMissing
from tests.servers.proxy import TcpProxy
from tests.servers.redis import Redis

AServer = TypeVar("AServer", bound=Server)
Result = TypeVar("Result")


def without(missing: ServerMissing) -> NoReturn:
    """End a test that can't have its server: a failure where `CI=true`, else a skip."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@contextmanager
def _running(kind: type[AServer]) -> Iterator[AServer]:
    try:
        server = kind(fsync=os.environ.get("STANDFAST_TEST_FSYNC") == "1")
    except ServerMissing as missing:
        without(missing)
    with server:
        yield server


def _wait_for(work: Coroutine[None, None, Result]) -> Result:
    # In a thread, since the test that asks may have an event loop of its own.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _in_database(dsn: str, name: str) -> str:
    return urlsplit(dsn)._replace(path=f"/{name}").geturl()


async def _create(server: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    finally:
        await connection.close()


async def _drop(server: str, name: str) -> None:
    connection = await asyncpg.connect(server)
    try:
        # Both of these would keep the database from being dropped.
        prepared = await connection.fetch(
            "SELECT gid FROM pg_prepared_xacts WHERE database = $1", name
        )
        if prepared:
            inside = await asyncpg.connect(_in_database(server, name))
            for (gid,) in prepared:
                quoted = gid.replace("'", "''")
                await inside.execute(f"ROLLBACK PREPARED '{quoted}'")
            await inside.close()
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )
        for (slot,) in await connection.fetch(
            "SELECT slot_name FROM pg_replication_slots WHERE database = $1", name
        ):
            await connection.execute("SELECT pg_drop_replication_slot($1)", slot)
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def _postgres_address() -> Iterator[str]:
    given = os.environ.get("STANDFAST_TEST_POSTGRES")
    if given:
        yield given
    else:
        with _running(Postgres) as server:
            yield server.dsn


@pytest.fixture(scope="session")
def _redis_address() -> Iterator[str]:
    given = os.environ.get("STANDFAST_TEST_REDIS")
    if given:
        yield given
    else:
        with _running(Redis) as server:
            yield server.url


@pytest.fixture
def postgres_dsn(_postgres_address: str) -> Iterator[str]:
    name = f"standfast_test_{uuid.uuid4().hex}"
    _wait_for(_create(_postgres_address, name))
    yield _in_database(_postgres_address, name)
    _wait_for(_drop(_postgres_address, name))


@pytest.fixture
def redis_url(_redis_address: str) -> str:
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    url = urlsplit(_redis_address)._replace(path=f"/{number}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def postgres_server() -> Iterator[Postgres]:
    with _running(Postgres) as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[Redis]:
    with _running(Redis) as server:
        yield server


@pytest.fixture
async def tcp_proxy() -> AsyncIterator[Callable[[str], Awaitable[TcpProxy]]]:
    async with AsyncExitStack() as stack:

        async def in_front_of(url: str) -> TcpProxy:
            parts = urlsplit(url)
            if parts.hostname is None or parts.port is None:
                raise ValueError(f"{url!r} names no host and port to put a proxy in front of")
            proxy = TcpProxy(parts.hostname, parts.port)
            await proxy.start()
            stack.push_async_callback(proxy.close)
            return proxy

        yield in_front_of
