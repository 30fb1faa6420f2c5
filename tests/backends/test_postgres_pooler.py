"""Behind a pooler that hands its connections out for one transaction each: found out by itself."""

import asyncio
import logging
import os
import shutil
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tests.servers.fixtures import without
from tests.servers.process import ServerMissing
from tests.soak.pgbouncer import PgBouncer

from standfast import Context, Saga, Standfast, step
from standfast.backends.postgres import PostgresDatabase
from standfast.conformance.samples import journal, migrate, register, start
from standfast.errors import ConfigurationError, StoreUnavailable
from standfast.ports.journal import Append


class Note(Saga[str]):
    @step(no_compensation="a note")
    async def note(self, text: str, ctx: Context) -> str:
        return text


class Obliging(PgBouncer):
    """One that takes settings of a session and forgets them, as many are set up to."""

    def command(self) -> list[str]:
        command = super().command()
        ignored = "plan_cache_mode,enable_seqscan,enable_hashjoin,enable_mergejoin,jit"
        with (self.folder / "pgbouncer.ini").open("a") as file:
            file.write(f"ignore_startup_parameters = {ignored},default_transaction_isolation\n")
        return command


@pytest.fixture(params=[PgBouncer, Obliging])
def pooled(request, postgres_server):
    """The address of a database by way of a pooler in transaction mode."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        without(ServerMissing("pgbouncer isn't installed: run `make servers`"))
    with request.param(program, postgres_server) as bouncer:
        yield bouncer.dsn


@pytest.mark.parametrize("said", ["", "?statement_cache_size=0"])
async def test_sagas_run_behind_it(pooled, said, caplog):
    """It read "the connection was lost, a write may have been done"."""
    app = Standfast(pooled + said, migrate=True).add(Note())
    async with app.running(lease="5s"):
        handles = await asyncio.gather(*(app.start(Note, f"{n}") for n in range(30)))
        for handle in handles:
            await handle.result(timeout=20)
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE t (n int)")
            await tx.start(Note, "in it")
    told = [one for one in caplog.records if "behind a pooler" in one.getMessage()]
    assert len(told) == (0 if said else 1)
    assert all(one.levelno == logging.WARNING for one in told)


async def test_many_clients_share_its_few_connections(pooled):
    databases = [PostgresDatabase(pooled, min_size=2, max_size=5) for _ in range(3)]
    for database in databases:
        await database.open()
    await migrate(databases[0])

    async def write(database):
        token = await register(database)
        for _ in range(10):
            one = start()
            await journal(database).start([one], owner=token)
            (answer,) = await journal(database).append(token, [Append(one.instance.id, 0, ["{}"])])
            assert answer is None

    async with asyncio.timeout(30):
        await asyncio.gather(*(write(database) for database in databases for _ in range(4)))
    for database in databases:
        await database.close()


async def test_a_statement_that_is_gone_says_what_to_set(postgres_dsn, direct):
    """Where a pooler comes between only later."""
    database = PostgresDatabase(postgres_dsn, min_size=1, max_size=2)
    await database.open()
    assert await database.pool.fetch("SELECT 1 AS a") == [(1,)]
    (connection,) = database.pool._at_hand
    await connection.execute("DEALLOCATE ALL")
    with pytest.raises(StoreUnavailable, match="say statement_cache_size=0"):
        await database.pool.fetch("SELECT 1 AS a")
    await database.close()


async def test_a_direct_connection_keeps_its_session(postgres_dsn, caplog):
    database = PostgresDatabase(postgres_dsn)
    await database.open()
    ((mode,),) = await database.pool.fetch("SELECT current_setting('plan_cache_mode')")
    assert mode == "force_generic_plan"
    assert not caplog.records
    await database.close()


async def test_settings_of_the_driver_are_as_before(postgres_dsn):
    connection = await PostgresDatabase(postgres_dsn).listener._connector.connect()
    assert isinstance(connection, asyncpg.Connection)
    assert await connection.fetchval("SHOW jit") == "off"
    await connection.close()


@asynccontextmanager
async def changed(dsn, change):
    """A statement on the database of `dsn`, whose name goes for {}."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(change.format(dsn.rpartition("/")[2]))
        yield connection
    finally:
        await connection.close()


async def test_nothing_is_no_word_whatever_the_database_is_set_to(postgres_dsn):
    """Lists go to the server as text, in which None is null."""
    async with changed(postgres_dsn, 'ALTER DATABASE "{}" SET array_nulls = off'):
        pass
    app = Standfast(postgres_dsn, migrate=True).add(Note())
    async with app.running():
        handles = await asyncio.gather(*(app.start(Note, text) for text in ("one", "two")))
        assert [(await one.result("10s"))["note"] for one in handles] == ["one", "two"]
        assert await app.database.pool.fetch("SHOW array_nulls") == [("on",)]
    with pytest.raises(ConfigurationError, match=r"SET array_nulls = on"):
        async with Standfast(f"{postgres_dsn}?statement_cache_size=0").add(Note()):
            pass


async def test_a_database_that_cant_hold_every_text_is_told(postgres_dsn, caplog):
    latin = f"{postgres_dsn}_latin"
    make = "CREATE DATABASE \"{}_latin\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    async with changed(postgres_dsn, make) as connection:
        for dsn, warnings in ((latin, 1), (postgres_dsn, 0)):
            caplog.clear()
            database = PostgresDatabase(dsn, min_size=2)
            await database.open()
            await database.close()
            said = [r for r in caplog.records if r.name == "standfast.postgres"]
            assert len(said) == warnings, "once for all connections"
            assert not said or "has the encoding LATIN1: a saga parks" in said[0].getMessage()
        await connection.execute(f'DROP DATABASE "{latin.rpartition("/")[2]}"')
