"""Databases to measure on: durable, and on a disk."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from tests.servers import Postgres

# Unlike /tmp, this is on a disk everywhere. The server's own user must be able to get into it.
FOLDER = os.environ.get("STANDFAST_BENCH_FOLDER", "/var/tmp")


class DurablePostgres(Postgres):
    """A server with fsync on, and the view `pg_stat_statements`, which counts its statements."""

    def __init__(self) -> None:
        tempfile.tempdir = FOLDER
        super().__init__(fsync=True)

    def command(self) -> list[str]:
        extra = {
            "max_wal_size": "4GB",
            "pg_stat_statements.track": "top",
            "shared_buffers": "512MB",
            "shared_preload_libraries": "pg_stat_statements",
        }
        return [*super().command(), *(p for n, v in extra.items() for p in ("-c", f"{n}={v}"))]


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder on a disk."""
    with tempfile.TemporaryDirectory(prefix="standfast-bench-", dir=FOLDER) as name:
        yield Path(name)


async def new_postgres_database(dsn: str, name: str) -> str:
    """Make an empty database on the server at `dsn`; its address."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return dsn.rpartition("/")[0] + f"/{name}"
