"""The harness itself: a test that can't take the database away proves nothing about recovery."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
import redis

from tests.servers import Postgres, Redis, Server, ServerFailed, ServerMissing, TcpProxy
from tests.servers.fixtures import without
from tests.servers.proxy import Direction

ProxyMaker = Callable[[str], Awaitable[TcpProxy]]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def tables(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval("SELECT count(*) FROM pg_tables WHERE tablename = 'made'")
    finally:
        await connection.close()


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_gets_an_empty_database(postgres_dsn: str, turn: int) -> None:
    assert await tables(postgres_dsn) == 0
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute("CREATE TABLE made (n int)")
    await connection.close()
    assert await tables(postgres_dsn) == 1


async def test_the_database_is_dropped_whatever_is_left_in_it(postgres_dsn: str) -> None:
    # The teardown of `postgres_dsn` fails if any of these three can hold it up.
    connection = await asyncpg.connect(postgres_dsn)
    async with connection.transaction():
        await connection.execute("CREATE TABLE made (n int)")
    await connection.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput')")
    await connection.execute("BEGIN; INSERT INTO made VALUES (1); PREPARE TRANSACTION 'it''s'")
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_xacts") == 1
    assert not connection.is_closed()


async def test_a_killed_postgres_comes_back_with_its_data(postgres_server: Postgres) -> None:
    connection = await asyncpg.connect(postgres_server.dsn)
    await connection.execute("CREATE TABLE made (n int)")

    postgres_server.kill()
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.execute("SELECT 1")
    connection.terminate()
    with pytest.raises(ConnectionRefusedError):
        await asyncpg.connect(postgres_server.dsn)

    postgres_server.start()
    assert await tables(postgres_server.dsn) == 1
    postgres_server.stop()
    postgres_server.start()
    assert await tables(postgres_server.dsn) == 1


@pytest.mark.server
@pytest.mark.parametrize(("fsync", "setting"), [(False, "off"), (True, "on")])
async def test_postgres_is_as_durable_as_asked(fsync: bool, setting: str) -> None:
    try:
        server = Postgres(fsync=fsync)
    except ServerMissing as missing:
        without(missing)
    with server:
        connection = await asyncpg.connect(server.dsn)
        assert await connection.fetchval("SHOW fsync") == setting
        await connection.close()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_redis(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("made", turn)
        assert client.dbsize() == 1


def test_a_killed_redis_comes_back_with_its_data(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("made", 1)
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("made")
        redis_server.start()
        assert client.get("made") == b"1"


def test_close_leaves_no_process_and_no_folder(redis_server: Redis) -> None:
    pid, folder = redis_server.pid, redis_server.folder
    assert pid is not None
    assert is_running(pid)
    redis_server.close()
    assert not is_running(pid)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("ci", "ending"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_a_missing_server_fails_ci_and_skips_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ci: str, ending: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ending, match="install it so"):
        without(ServerMissing("install it so"))


class Broken(Redis):
    def command(self) -> list[str]:
        return [*super().command(), "--no-such-setting", "1"]


def test_a_server_that_does_not_start_says_why(redis_server: Redis) -> None:
    broken = Broken()
    with pytest.raises(ServerFailed, match="no-such-setting"), broken:
        pass
    assert not broken.folder.exists()


@pytest.mark.crash
@pytest.mark.parametrize("kind", [Postgres, Redis])
def test_servers_end_with_a_process_that_is_killed(kind: type[Server]) -> None:
    try:
        kind().close()
    except ServerMissing as missing:
        without(missing)
    name = kind.__name__
    script = (
        f"import threading, time; from tests.servers import {name}; server = {name}()\n"
        # A parent death signal would be bound to this thread, which ends at once.
        "thread = threading.Thread(target=server.start); thread.start(); thread.join()\n"
        "print(server.pid, server.folder, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert is_running(int(pid))
        time.sleep(0.5)
        assert is_running(int(pid)), "the server ended with the thread that started it"
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(int(pid)) or Path(folder).exists():
        assert time.monotonic() < deadline, f"{name} outlived its owner: {pid} in {folder}"
        time.sleep(0.05)


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, list[bytes]]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                heard.append(line)
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    heard: list[bytes] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"echo://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


class Client:
    """One connection that says a word and waits for its echo."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def say(self, word: bytes, within: float = 5) -> bytes:
        self.writer.write(word + b"\n")
        return await self.hear(within)

    async def hear(self, within: float = 5) -> bytes:
        async with asyncio.timeout(within):
            return await self.reader.readline()


async def test_a_proxy_forwards_and_hands_on_the_end(
    echo: tuple[str, list[bytes]], tcp_proxy: ProxyMaker
) -> None:
    proxy = await tcp_proxy(echo[0])
    client = await Client.connect(proxy.port)
    assert await client.say(b"a") == b"a\n"
    client.writer.write_eof()
    assert await client.hear() == b""
    client.writer.close()


async def test_a_cut_resets_and_refuses_until_restored(
    echo: tuple[str, list[bytes]], tcp_proxy: ProxyMaker
) -> None:
    proxy = await tcp_proxy(echo[0])
    client = await Client.connect(proxy.port)
    assert await client.say(b"a") == b"a\n"
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await client.hear()
    client.writer.close()
    with pytest.raises(ConnectionRefusedError):
        await Client.connect(proxy.port)
    await proxy.restore()
    client = await Client.connect(proxy.port)
    assert await client.say(b"b") == b"b\n"
    client.writer.close()


async def test_a_delay_lets_all_arrive_late_and_in_order(
    echo: tuple[str, list[bytes]], tcp_proxy: ProxyMaker
) -> None:
    proxy = await tcp_proxy(echo[0])
    client = await Client.connect(proxy.port)
    proxy.delay(0.1)
    started = time.monotonic()
    for word in (b"a\n", b"b\n", b"c\n"):
        client.writer.write(word)
        await asyncio.sleep(0.02)
    assert [await client.hear() for _ in range(3)] == [b"a\n", b"b\n", b"c\n"]
    assert 0.2 <= time.monotonic() - started < 0.6
    client.writer.close()


@pytest.mark.parametrize(
    ("direction", "server_hears"), [("to_client", True), ("to_server", False), ("both", False)]
)
async def test_a_blackhole_holds_one_direction_or_both(
    echo: tuple[str, list[bytes]], tcp_proxy: ProxyMaker, direction: Direction, server_hears: bool
) -> None:
    url, heard = echo
    proxy = await tcp_proxy(url)
    client = await Client.connect(proxy.port)
    proxy.blackhole(direction)
    with pytest.raises(TimeoutError):
        await client.say(b"a", within=0.2)
    assert heard == ([b"a\n"] if server_hears else [])
    await proxy.restore()
    assert await client.hear() == b"a\n"
    client.writer.close()


async def test_an_ambiguous_commit(postgres_dsn: str, tcp_proxy: ProxyMaker) -> None:
    """What the proxy is for: the commit happened, and the client can't know it."""
    proxy = await tcp_proxy(postgres_dsn)
    connection = await asyncpg.connect(proxy.through(postgres_dsn))
    proxy.blackhole("to_client")
    commit = asyncio.create_task(connection.execute("CREATE TABLE made (n int)"))
    deadline = time.monotonic() + 5
    while await tables(postgres_dsn) == 0:
        assert time.monotonic() < deadline, "the server never got the command"
        await asyncio.sleep(0.02)
    assert not commit.done()
    await proxy.cut()
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await commit
    connection.terminate()
