"""Each driver's transaction, and the row that a user would write there in the driver's own way."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import aiosqlite
import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.adopt.rows import COLUMNS, Row

Between = Callable[[Any], Awaitable[None]]


class Driver(NamedTuple):
    """What is measured of a driver.

    `transact` writes two rows and commits, and calls a function in between; `insert` writes one
    more row, as large as what a start writes, to what that function is given.
    """

    transact: Callable[[Between], Awaitable[None]]
    insert: Callable[[Any, Row], Awaitable[None]]


Opened = Callable[[str], AbstractAsyncContextManager[Driver]]

_ROW = "INSERT INTO rows (id, note) VALUES (1, 'a')"
_TEXT = sqlalchemy.text(_ROW)
_NAMED = sqlalchemy.text(
    f"INSERT INTO one_more ({', '.join(COLUMNS)}) VALUES ({', '.join(':' + c for c in COLUMNS)})"
)


def _one_more(placeholder: str) -> str:
    """Its statement; ``{}`` is the number of a column, from 1."""
    values = ", ".join(placeholder.format(n) for n, _ in enumerate(COLUMNS, 1))
    return f"INSERT INTO one_more ({', '.join(COLUMNS)}) VALUES ({values})"


@asynccontextmanager
async def _sqlite3(url: str) -> AsyncIterator[Driver]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    sql = _one_more("?")

    async def transact(between: Between) -> None:
        connection.execute(_ROW)
        await between(connection)
        connection.execute(_ROW)
        connection.commit()

    async def insert(source: sqlite3.Connection, row: Row) -> None:
        source.execute(sql, row)

    yield Driver(transact, insert)
    connection.close()


@asynccontextmanager
async def _aiosqlite(url: str) -> AsyncIterator[Driver]:
    sql = _one_more("?")
    async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:

        async def transact(between: Between) -> None:
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)
            await connection.commit()

        async def insert(source: aiosqlite.Connection, row: Row) -> None:
            await source.execute(sql, row)

        yield Driver(transact, insert)


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Driver]:
    connection = await asyncpg.connect(url)
    sql = _one_more("${}")

    async def transact(between: Between) -> None:
        async with connection.transaction():
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)

    async def insert(source: asyncpg.Connection, row: Row) -> None:
        await source.execute(sql, *row)

    yield Driver(transact, insert)
    await connection.close()


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Driver]:
    sql = _one_more("%s")
    with psycopg.connect(url) as connection:

        async def transact(between: Between) -> None:
            connection.execute(_ROW)
            await between(connection)
            connection.execute(_ROW)
            connection.commit()

        async def insert(source: psycopg.Connection, row: Row) -> None:
            source.execute(sql, row)

        yield Driver(transact, insert)


@asynccontextmanager
async def _psycopg_async(url: str) -> AsyncIterator[Driver]:
    sql = _one_more("%s")
    async with await psycopg.AsyncConnection.connect(url) as connection:

        async def transact(between: Between) -> None:
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)
            await connection.commit()

        async def insert(source: psycopg.AsyncConnection, row: Row) -> None:
            await source.execute(sql, row)

        yield Driver(transact, insert)


def _session(driver: str) -> Opened:
    @asynccontextmanager
    async def open(url: str) -> AsyncIterator[Driver]:
        engine = sqlalchemy.create_engine(f"{driver}:{url.partition(':')[2]}")

        async def transact(between: Between) -> None:
            with Session(engine) as session, session.begin():
                session.execute(_TEXT)
                await between(session)
                session.execute(_TEXT)

        async def insert(source: Session, row: Row) -> None:
            source.execute(_NAMED, row._asdict())

        yield Driver(transact, insert)
        engine.dispose()

    return open


def _async_session(driver: str) -> Opened:
    @asynccontextmanager
    async def open(url: str) -> AsyncIterator[Driver]:
        engine = create_async_engine(f"{driver}:{url.partition(':')[2]}")

        async def transact(between: Between) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(_TEXT)
                await between(session)
                await session.execute(_TEXT)

        async def insert(source: AsyncSession, row: Row) -> None:
            await source.execute(_NAMED, row._asdict())

        yield Driver(transact, insert)
        await engine.dispose()

    return open


DRIVERS: dict[str, Opened] = {
    "sqlite3": _sqlite3,
    "aiosqlite": _aiosqlite,
    "Session, pysqlite": _session("sqlite"),
    "AsyncSession, aiosqlite": _async_session("sqlite+aiosqlite"),
    "asyncpg": _asyncpg,
    "psycopg": _psycopg,
    "psycopg, async": _psycopg_async,
    "Session, psycopg": _session("postgresql+psycopg"),
    "Session, psycopg2": _session("postgresql+psycopg2"),
    "AsyncSession, asyncpg": _async_session("postgresql+asyncpg"),
}
