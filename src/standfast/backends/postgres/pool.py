"""Connections: opening them, running statements on them, and what their errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias, TypeVar

import asyncpg

from standfast.affinity import Affinity, running_loop
from standfast.backends.postgres.connecting import Connector
from standfast.backends.postgres.errors import DRIVER_ERRORS, TRANSIENT, rolled_back, translate
from standfast.backends.postgres.options import PostgresOptions, check_surroundings
from standfast.backends.postgres.share import Share
from standfast.errors import StoreError, StoreUnavailable
from standfast.ports.database import Script

T = TypeVar("T")

Fetch: TypeAlias = Callable[..., Awaitable[Any]]
"""``fetch(sql, *args)``: run a statement, give its rows."""

_VICTIM_ATTEMPTS = 8
RESTS_FOR = 300.0
"""Seconds for which a connection may have nothing to do before it is closed."""
RESTS_BRIEFLY = 60.0

_BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = {idle}"
)
# For the user's statements, and those of the library that do read a whole table.
_PLAN_FREELY = (
    "; SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; "
    "SET LOCAL enable_mergejoin = on; SET LOCAL plan_cache_mode = force_custom_plan"
)


class Pool:
    """A pool of connections that heals by itself, speaking in the library's errors.

    Every call is bounded by the timeout of the options. A statement that the server chose as the
    victim of a deadlock is run again.

    A connection that comes back sound stays at hand for the next call, `min_size` of them at most
    and only while nobody waits for one: each loan of asyncpg's pool takes tasks and turns of the
    event loop, a good part of a lone commit.

    With `size` it has up to that many, none of which is made before it is needed, or kept for long.
    """

    def __init__(
        self, connector: Connector, options: PostgresOptions, *, size: int | None = None
    ) -> None:
        self._connector = connector
        connector.on_leaving(self._leave)
        self.place = connector.place
        self.options = options
        self._lazy = size is not None
        self._kept = 0 if self._lazy else options.min_size
        self._max_size = options.max_size if size is None else size
        self.timeout = options.timeout_seconds
        self._begin = _BEGIN.format(idle=options.idle_milliseconds)
        self._begin_freely = self._begin + _PLAN_FREELY
        self._affinity: Affinity | None = None
        self._pool: asyncpg.Pool | None = None
        self._at_hand: list[Any] = []
        self._spoiled: list[Any] = []
        self.share: Share = Share(self._max_size, self.place, options.timeout_seconds)
        """Which transactions of users hold a connection."""
        self._waiting = 0
        self._users = 0
        self._idle = asyncio.Event()

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`, `ConfigurationError`."""
        if self._pool is not None:
            return
        check_surroundings(self._connector.dsn)
        self._affinity = Affinity(f"the connection to PostgreSQL at {self.place}")
        self.share = Share(self._max_size, self.place, self.timeout)
        try:
            self._pool = await asyncpg.create_pool(
                min_size=self._kept,
                max_size=self._max_size,
                max_inactive_connection_lifetime=RESTS_BRIEFLY if self._lazy else RESTS_FOR,
                connect=self._connector.connect,
                reset=_reset,
            )
        except DRIVER_ERRORS as error:
            raise translate(error, self.place) from error
        if not self._kept and not self._lazy:
            try:
                await self.fetch("SELECT 1")
            except BaseException:  # also a cancellation: a pool that isn't open holds nothing
                await self.close()
                raise

    async def close(self) -> None:
        """Wait for the calls in flight (no longer than the timeout), then disconnect."""
        pool = self._pool
        if pool is None:
            return
        try:
            async with asyncio.timeout(self.timeout):
                # A call of several statements goes on with the next before this wakes up.
                while self._users:
                    self._idle.clear()
                    await self._idle.wait()
                self._pool = None
                for connection in (*self._at_hand, *self._spoiled):
                    await pool.release(connection)
                await pool.close()
        except DRIVER_ERRORS:
            # The server doesn't answer any more, so there is nothing to say goodbye to.
            pool.terminate()
        finally:
            self._pool = None
            self._at_hand.clear()
            self._spoiled.clear()

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Run one statement in a transaction of its own; its rows."""
        attempt = 1
        while True:
            try:
                return await self.fetch_raw(sql, *args)
            except TRANSIENT as error:
                if attempt == _VICTIM_ATTEMPTS:
                    raise translate(error, self.place) from error
            except DRIVER_ERRORS as error:
                raise translate(error, self.place) from error
            attempt += 1

    async def run(self, script: Script[T]) -> T:
        """Carry out a script, each of its statements in a transaction of its own."""
        return await run(self.fetch, script)

    async def fetch_raw(self, sql: str, *args: Any) -> list[Any]:
        """As `fetch`, but the driver's errors come through, and nothing is repeated."""
        connection = self._at_once() or await self._wait_for_one()
        try:
            rows: list[Any] = await connection.fetch(sql, *args)
        except BaseException as error:
            if self.is_astray(connection, error):
                await self.leave(connection)
            await self._give_back(connection, _is_sound(connection))
            raise
        # It answered a statement that leaves nothing behind: no need to look at it again.
        if not self._keep(connection):
            await self._give_back(connection, sound=True)
        return rows

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """A connection of the pool. Driver errors come through."""
        connection = self._at_once() or await self._wait_for_one()
        try:
            yield connection
        except asyncpg.PostgresError as error:
            if self.is_astray(connection, error):
                await self.leave(connection)
            raise
        finally:
            await self._give_back(connection, _is_sound(connection))

    def is_astray(self, connection: Any, error: BaseException) -> bool:
        """Whether `error` says that the connection leads to a server that takes no writes.

        After a failover that is a standby, or a former primary that was set to read only.
        """
        if not isinstance(error, asyncpg.PostgresError) or is_closed(connection):
            return False
        read_only = isinstance(error, asyncpg.ReadOnlySQLTransactionError)
        settings = connection.get_settings()
        standby = getattr(settings, "in_hot_standby", None)
        if standby is None or self._connector.is_pooled:  # older than 14, or a pooler's old word
            return read_only or "recovery" in str(error)
        # Not every statement fails as read-only there: one on an unlogged table, say, is refused
        # otherwise. And a user's own transaction may be read-only on a server that isn't.
        fenced = getattr(settings, "default_transaction_read_only", "on") == "on"
        return standby == "on" or (read_only and fenced)

    async def leave(self, connection: Any) -> None:
        """Use this connection, and all others of now, no more: they lead to the wrong server."""
        drop(connection)
        await self._connector.leave()

    async def _leave(self) -> None:
        at_hand, self._at_hand = self._at_hand, []
        for other in at_hand:
            drop(other)
        self._spoiled += at_hand
        if self._pool is not None:
            await self._pool.expire_connections()

    def _at_once(self) -> Any:
        """A connection that is at hand, or None."""
        affinity = self._affinity
        if affinity is not None and running_loop() is not affinity.loop:
            affinity.refuse()
        while self._at_hand:
            connection = self._at_hand.pop()
            if not is_closed(connection):
                self._users += 1
                return connection
            self._spoiled.append(connection)
        return None

    async def _wait_for_one(self) -> Any:
        pool = self._pool
        if pool is None:
            raise StoreError(
                f"PostgreSQL at {self.place} isn't open: `await database.open()` first"
            )
        self._users += 1
        self._waiting += 1
        try:
            while self._spoiled:
                await pool.release(self._spoiled.pop(), timeout=self.timeout)
            return await pool.acquire(timeout=self.timeout)
        except BaseException as error:
            self._gone()
            if isinstance(error, TimeoutError):
                raise StoreUnavailable(
                    f"no connection to PostgreSQL at {self.place} within {self.timeout:g} s: check "
                    f"that it answers, or raise max_size={self._max_size}"
                ) from error
            raise
        finally:
            self._waiting -= 1

    def _keep(self, connection: Any) -> bool:
        """Put a sound connection at hand if there is room; whether there was."""
        if self._waiting or len(self._at_hand) >= self._kept:
            return False
        self._at_hand.append(connection)
        self._gone()
        return True

    async def _give_back(self, connection: Any, sound: bool) -> None:
        if sound and self._keep(connection):
            return
        pool = self._pool
        try:
            if pool is None:  # It was closed without waiting any longer.
                drop(connection)
            else:
                await pool.release(connection, timeout=self.timeout)
        finally:
            self._gone()

    def _gone(self) -> None:
        self._users -= 1
        if not self._users:
            self._idle.set()

    @asynccontextmanager
    async def begin(self, *, freely: bool = False) -> AsyncIterator[Any]:
        """A connection in a transaction: committed at the end, rolled back if the block raises.

        `freely`: its statements are planned anew, each for itself. Driver errors come through.
        """
        async with self.acquire() as connection:
            await self.begin_on(connection, freely=freely)
            try:
                yield connection
            except BaseException:  # whatever ends the block: what it wrote doesn't count
                await self.roll_back(connection)
                raise
            await self.commit(connection)

    async def begin_on(self, connection: Any, *, freely: bool) -> None:
        """BEGIN."""
        await connection.execute(self._begin_freely if freely else self._begin)

    async def commit(self, connection: Any, failed: BaseException | None = None) -> None:
        """COMMIT. Raises `StoreError` when the transaction had failed: nothing is written.

        `failed` is the error of the statement that failed, as far as is known. Driver errors come
        through; then it may have been committed.
        """
        # PostgreSQL answers COMMIT in a failed transaction with a friendly ROLLBACK.
        if await connection.execute("COMMIT") != "COMMIT":
            raise rolled_back(self.place, failed) from failed

    async def roll_back(self, connection: Any) -> None:
        """ROLLBACK, or drop the connection when that can't be done."""
        try:
            await connection.execute("ROLLBACK")
        except BaseException as error:
            # Ends the transaction as well: the server rolls back when the connection goes.
            drop(connection)
            if not isinstance(error, DRIVER_ERRORS):
                raise


async def run(fetch: Fetch, script: Script[T]) -> T:
    """Carry out a script by running each of its statements.

    Of one that is `many` the rows are counted, for which it must be one that can return them.
    """
    rows: Any = None
    while True:
        try:
            sql, args, many = script.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        if many:
            rows = [(sum([len(await fetch(f"{sql} RETURNING 1", *one)) for one in args]),)]
        else:
            rows = await fetch(sql, *args)


def drop(connection: Any) -> None:
    """Cut the connection, when its state isn't known; the pool makes another."""
    with suppress(asyncpg.InterfaceError):  # It is gone already.
        connection.terminate()


def is_closed(connection: Any) -> bool:
    """Whether the connection is gone."""
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:  # It is gone, and asyncpg's pool knows.
        return True
    return closed


def _is_sound(connection: Any) -> bool:
    """Whether it is open and in no transaction: as good as new for the next call."""
    return not (is_closed(connection) or connection.is_in_transaction())


async def _reset(connection: Any) -> None:
    # The library's statements leave nothing else behind, and a transaction of the user's cleans up.
    # One may be open when BEGIN or COMMIT was cut short, by a cancellation say.
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
