"""The connections of a pool that the transactions of users may hold: never all of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from standfast.durations import human
from standfast.errors import StoreUnavailable
from standfast.text import on_one_line

log = logging.getLogger("standfast.backends.postgres")

RESERVED = 2
"""Connections that are left to the library's own statements: starts, signals and journals."""
WARNS_AFTER = 5.0
"""Seconds of waiting for a connection after which a warning tells who holds them all."""
WARNS_EVERY = 60.0
"""Seconds between two such warnings."""


class Holder(Protocol):
    """A transaction that holds a connection."""

    sql: str


class Share:
    """A place for each transaction of users that may hold a connection at the same time.

    So one that waits for a lock on a user's table stops those that need that table, and not the
    starts, signals and journals of everything else in the process.
    """

    def __init__(self, max_size: int, place: str, timeout: float) -> None:
        self.size: int = max(1, max_size - RESERVED)
        self._max_size = max_size
        self._place = place
        self._timeout = timeout
        self._free = asyncio.Semaphore(self.size)
        self._held: dict[Holder, float] = {}
        self._warned_at = -math.inf

    @asynccontextmanager
    async def held(self, holder: Holder) -> AsyncIterator[None]:
        """Wait for a place, and hold it. Raises `StoreUnavailable` after the timeout."""
        if self._free.locked():
            await self._wait()
        else:
            await self._free.acquire()  # without waiting
        self._held[holder] = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            del self._held[holder]
            self._free.release()

    async def _wait(self) -> None:
        warning = asyncio.get_running_loop().call_later(WARNS_AFTER, self._warn)
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError as error:
            raise StoreUnavailable(
                f"no connection to PostgreSQL at {self._place} for a transaction within "
                f"{self._timeout:g} s: {self._told()}. Look for locks in pg_stat_activity, or "
                f"raise max_size={self._max_size}"
            ) from error
        finally:
            warning.cancel()

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= WARNS_EVERY:
            self._warned_at = now
            log.warning(
                "transactions wait for a connection to %s: %s. Look for locks in pg_stat_activity; "
                "the library's own statements have %d connections beside these",
                self._place,
                self._told(),
                self._max_size - self.size,
            )

    def _told(self) -> str:
        """Who holds the connections."""
        if not self._held:
            return f"all {self.size} that they may hold are in use"
        holder, since = next(iter(self._held.items()))
        age = human(asyncio.get_running_loop().time() - since)
        return (
            f"all {self.size} that they may hold are held, the longest for {age}; what it ran last "
            f"is `{on_one_line(holder.sql, 200)}`"
        )
