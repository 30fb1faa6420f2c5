"""Part `chaos`: sagas on SQLite and on PostgreSQL, while everything around them is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg

from tests.servers import Postgres, ServerMissing, TcpProxy
from tests.soak.load.schedule import Blow, Kind
from tests.soak.load.trial import OF_PROCESSES, Place, Trial
from tests.soak.machine import install, log_folder
from tests.soak.part import Findings, Setting

IMPATIENT = "timeout=4&connect_timeout=4&idle_timeout=4"
"""Options of a database's URL: what is silent for this long is taken for gone."""


async def play(setting: Setting) -> Findings:
    """Half of the time on SQLite, half on PostgreSQL."""
    half = replace(setting, seconds=setting.seconds / 2)
    logs = log_folder("chaos")
    both = []
    trial = Trial(half, "sqlite", on_sqlite(logs), logs / "sqlite")
    both.append(await trial.run())
    async with on_postgres() as place:
        both.append(await Trial(half, "postgres", place, logs / "postgres").run())
    return together(("sqlite", "postgres"), both)


def together(names: Iterable[str], all_of_them: Iterable[Findings]) -> Findings:
    """The findings of several trials as one: counts under the trial's name, faults in a row."""
    found = Findings()
    for name, one in zip(names, all_of_them, strict=True):
        found.counts |= {f"{name}: {what}": count for what, count in one.counts.items()}
        found.faults += one.faults
        found.in_short += f"{'; ' if found.in_short else ''}{name}: {one.in_short}"
    return found


def on_sqlite(folder: Path) -> Place:
    """Two files beside the logs: the app's, and the participants' ledger."""
    app, ledger = f"sqlite:///{folder}/app.db", f"sqlite:///{folder}/ledger.db"
    return Place("sqlite", app, ledger, app, ledger)


@asynccontextmanager
async def on_postgres() -> AsyncIterator[Place]:
    """Two databases of one server, behind a proxy; server and network can be struck as well."""
    server = await a_postgres()
    with server:
        for name in ("app", "ledger"):
            await create(server.dsn, name)
        proxy = TcpProxy("127.0.0.1", server.port)
        await proxy.start()
        try:
            yield place_behind(proxy, server)
        finally:
            await proxy.close()


async def a_postgres() -> Postgres:
    """A PostgreSQL of our own, installed if it is missing."""
    try:
        return Postgres()
    except ServerMissing:
        await install("postgresql")
        return Postgres()


async def create(dsn: str, name: str) -> None:
    """Make a database."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    finally:
        await connection.close()


def in_database(dsn: str, name: str, options: str = "") -> str:
    """The address of another database of the same server."""
    return f"{dsn.rpartition('/')[0]}/{name}{'?' if options else ''}{options}"


def place_behind(proxy: TcpProxy, server: Postgres) -> Place:
    """The place, and how its server and its network are struck."""
    one_at_a_time = asyncio.Lock()

    async def restart(blow: Blow) -> None:
        async with one_at_a_time:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(blow.lasts)
            await asyncio.to_thread(server.start)

    async def cut(blow: Blow) -> None:
        async with one_at_a_time:
            await proxy.cut()
            await asyncio.sleep(blow.lasts)
            await proxy.restore()

    async def silence(blow: Blow) -> None:
        """The server may act, and nobody hears its answers: then the connections are lost."""
        async with one_at_a_time:
            proxy.blackhole("to_client" if blow.draw < 0.7 else "both")
            await asyncio.sleep(blow.lasts)
            await proxy.cut()
            await proxy.restore()

    through = proxy.through(server.dsn)
    return Place(
        "postgres",
        in_database(through, "app", IMPATIENT),
        in_database(through, "ledger", IMPATIENT),
        in_database(server.dsn, "app"),
        in_database(server.dsn, "ledger"),
        {
            **OF_PROCESSES,
            "restarts": Kind(2, 0.0, 1.5),
            "cuts": Kind(2, 0.0, 1.0),
            "silences": Kind(2, 0.2, 6.0),
        },
        {"restarts": restart, "cuts": cut, "silences": silence},
        proxy.restore,
    )
