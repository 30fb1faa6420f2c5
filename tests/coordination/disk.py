"""Processes on one SQLite file, in real time."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from standfast.backends.sqlite import SqliteDatabase
from standfast.clock import SYSTEM_CLOCK
from standfast.coordination.membership import Membership
from standfast.ports.journal import JournalStore
from standfast.ports.leases import LeaseStore
from standfast.tables import check_tables


@asynccontextmanager
async def databases(folder: Path, count: int) -> AsyncIterator[list[SqliteDatabase]]:
    """Open, and with the tables that a worker needs, each with connections of its own."""
    found = [SqliteDatabase(f"sqlite:///{folder}/app.db") for _ in range(count)]
    async with AsyncExitStack() as stack:
        for database in found:
            await database.open()
            stack.push_async_callback(database.close)
        await check_tables(found[0], (JournalStore, LeaseStore), migrate=True)
        yield found


def members(databases: list[SqliteDatabase], lease: float) -> list[Membership]:
    """A membership for each, named "0", "1" …"""
    return [
        Membership(database.port(LeaseStore), clock=SYSTEM_CLOCK, lease=lease, name=str(number))
        for number, database in enumerate(databases)
    ]


@asynccontextmanager
async def on_sqlite(
    folder: Path, count: int, *, lease: float = 60.0
) -> AsyncIterator[list[Membership]]:
    """Memberships, named "0", "1" …, each of a process of its own."""
    async with databases(folder, count) as found:
        yield members(found, lease)
