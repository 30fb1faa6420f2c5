"""Each driver's transaction: two rows of the user's, and what is done in between."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

Between = Callable[[Any], Awaitable[None]]
Transact = Callable[[Between], Awaitable[None]]

_ROW = "INSERT INTO rows (id, note) VALUES (1, 'a')"
_TEXT = sqlalchemy.text(_ROW)


@asynccontextmanager
async def _sqlite3(url: str) -> AsyncIterator[Transact]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))

    async def transact(between: Between) -> None:
        connection.execute(_ROW)
        await between(connection)
        connection.execute(_ROW)
        connection.commit()

    yield transact
    connection.close()


@asynccontextmanager
async def _aiosqlite(url: str) -> AsyncIterator[Transact]:
    async with aiosqlite.connect(url.removeprefix("sqlite:///")) as connection:

        async def transact(between: Between) -> None:
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)
            await connection.commit()

        yield transact


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Transact]:
    connection = await asyncpg.connect(url)

    async def transact(between: Between) -> None:
        async with connection.transaction():
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)

    yield transact
    await connection.close()


@asynccontextmanager
async def _psycopg(url: str) -> AsyncIterator[Transact]:
    with psycopg.connect(url) as connection:

        async def transact(between: Between) -> None:
            connection.execute(_ROW)
            await between(connection)
            connection.execute(_ROW)
            connection.commit()

        yield transact


@asynccontextmanager
async def _psycopg_async(url: str) -> AsyncIterator[Transact]:
    async with await psycopg.AsyncConnection.connect(url) as connection:

        async def transact(between: Between) -> None:
            await connection.execute(_ROW)
            await between(connection)
            await connection.execute(_ROW)
            await connection.commit()

        yield transact


def _session(driver: str) -> Callable[[str], Any]:
    @asynccontextmanager
    async def open(url: str) -> AsyncIterator[Transact]:
        engine = sqlalchemy.create_engine(f"{driver}:{url.partition(':')[2]}")

        async def transact(between: Between) -> None:
            with Session(engine) as session, session.begin():
                session.execute(_TEXT)
                await between(session)
                session.execute(_TEXT)

        yield transact
        engine.dispose()

    return open


def _async_session(driver: str) -> Callable[[str], Any]:
    @asynccontextmanager
    async def open(url: str) -> AsyncIterator[Transact]:
        engine = create_async_engine(f"{driver}:{url.partition(':')[2]}")

        async def transact(between: Between) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(_TEXT)
                await between(session)
                await session.execute(_TEXT)

        yield transact
        await engine.dispose()

    return open


DRIVERS: dict[str, Callable[[str], Any]] = {
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
