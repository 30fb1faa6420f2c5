"""A PostgreSQL database for one test session: created empty, emptied for each test, dropped."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from standfast.backends.postgres.errors import DRIVER_ERRORS
from standfast.backends.postgres.options import parse, redact
from standfast.errors import StoreUnavailable

R = TypeVar("R")

_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_SCHEMAS = """
SELECT quote_ident(nspname) FROM pg_namespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
"""


class ScratchPostgres:
    """The database at `url`, which nobody else uses."""

    def __init__(self, url: str) -> None:
        self.url: str = url

    def empty(self) -> None:
        """Drop all that is in it, and end the connections that are left from before."""
        _wait_for(self._empty())

    async def _empty(self) -> None:
        connection = await _connect(self.url)
        try:
            await connection.execute(_OTHERS)
            for (schema,) in await connection.fetch(_SCHEMAS):
                await connection.execute(f"DROP SCHEMA {schema} CASCADE")
            await connection.execute("CREATE SCHEMA public")
        finally:
            await connection.close()


@contextmanager
def scratch_postgres(server: str, owner: str) -> Iterator[ScratchPostgres]:
    """A new database on the server at the address `server`, dropped after the block.

    Its name tells the `owner`. Raises `StoreUnavailable` where it can't be made, or
    `ConfigurationError` for what is no address.
    """
    name = f"standfast_test_{owner}_{uuid.uuid4().hex[:16]}"
    _wait_for(_run(server, f'CREATE DATABASE "{name}" TEMPLATE template0'))
    try:
        yield ScratchPostgres(urlsplit(server)._replace(path=f"/{name}").geturl())
    finally:
        _wait_for(_run(server, f'DROP DATABASE "{name}" WITH (FORCE)'))


async def _connect(url: str) -> Any:
    return await asyncpg.connect(parse(url)[0], timeout=10)


async def _run(server: str, statement: str) -> None:
    try:
        connection = await _connect(server)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
    except DRIVER_ERRORS as error:
        raise StoreUnavailable(
            f"{redact(server)}: {statement.partition(' TEMPLATE')[0]} failed: {error}"
        ) from error


def _wait_for(work: Coroutine[Any, Any, R]) -> R:
    # In a thread, since whoever asks may have an event loop that runs.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
