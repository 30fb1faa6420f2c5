"""Opening a connection: to the right one of several hosts, and also through a pooler."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import asyncpg

from standfast.backends.postgres.options import PostgresOptions, each_host, option_of

_log = logging.getLogger("standfast.postgres")

# The statements of the library are kept as prepared plans, made when a table may still be small;
# without these a plan that walks through the whole table (or its index, to join it with a list)
# could stay in use while the table grows. Left to choose, the server would plan most writes anew
# each time, since it takes a list of one for cheaper than a list whose length it doesn't know:
# dearer than the write itself.
_PLANNING = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
}
# A division by zero where the settings of the connection didn't reach the server. It takes one
# message and prepares nothing, so that it is harmless through a pooler.
_SETTINGS_HOLD = "SELECT 1 / (current_setting('plan_cache_mode') = 'force_generic_plan')::int"

_ASK_THE_NEXT = (
    OSError,  # TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


class Connector:
    """Connects to the first of the hosts in the URL that answers and takes writes.

    Each host has the whole ``connect_timeout``, and the one that served last is asked first. A
    standby is refused, unless the URL says otherwise by ``target_session_attrs``.

    `is_pooled`: the server is behind a pooler, such as pgbouncer, that hands out its connections
    for one transaction each. Then nothing is kept in a session: no prepared statement, no setting.
    That is told by ``statement_cache_size=0``, or found out with the first connection.
    """

    def __init__(self, dsn: str, place: str, options: PostgresOptions) -> None:
        self.dsn: str = dsn
        self.place: str = place
        self._options = options
        self._hosts: Sequence[str] = each_host(dsn)
        self._served = 0
        self.is_pooled: bool = not options.statement_cache_size

    async def connect(self, *_: Any, **given: Any) -> asyncpg.Connection:
        """A new connection. `given` comes from asyncpg's pool. Driver errors come through."""
        last: Exception | None = None
        for step in range(len(self._hosts)):
            number = (self._served + step) % len(self._hosts)
            try:
                connection = await self._connect_to(self._hosts[number], given)
            except _ASK_THE_NEXT as error:
                last = error
            else:
                self._served = number
                return connection
        assert last is not None  # there is one host at least
        raise last

    async def _connect_to(self, dsn: str, given: dict[str, Any]) -> asyncpg.Connection:
        if not self.is_pooled:
            connection = await self._directly(dsn, given)
            if connection is not None:
                return connection
            self.is_pooled = True
            _log.warning(
                "PostgreSQL at %s is behind a pooler (pgbouncer?) that keeps no session, so no "
                "prepared statements are used from now on; say so with statement_cache_size=0 in "
                "the URL",
                self.place,
            )
        return await self._open(dsn, given, statement_cache_size=0, server_settings=self._named())

    async def _directly(self, dsn: str, given: dict[str, Any]) -> asyncpg.Connection | None:
        """A connection with a session of its own; None where a pooler keeps it from having one."""
        try:
            connection = await self._open(
                dsn,
                given,
                statement_cache_size=self._options.statement_cache_size,
                server_settings=self._named() | _PLANNING,
                **self._wanted(),
            )
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):
                raise
            return None
        try:
            await connection.execute(_SETTINGS_HOLD)
        except asyncpg.DivisionByZeroError:
            connection.terminate()
            return None
        except BaseException:  # whatever ends the question: nobody else would close it
            connection.terminate()
            raise
        return connection

    async def _open(self, dsn: str, given: dict[str, Any], **settings: Any) -> asyncpg.Connection:
        return await asyncpg.connect(
            dsn,
            timeout=self._options.connect_seconds,  # pyright: ignore[reportArgumentType]
            command_timeout=self._options.timeout_seconds,
            **settings,
            **given,
        )

    def _named(self) -> dict[str, str]:
        name = option_of(self.dsn, "application_name") or os.environ.get("PGAPPNAME")
        return {"application_name": name or "standfast"}

    def _wanted(self) -> dict[str, str]:
        """A server that takes writes, unless the user wants another."""
        told = (
            option_of(self.dsn, "target_session_attrs")
            or option_of(self.dsn, "service")
            or os.environ.get("PGTARGETSESSIONATTRS")
        )
        return {} if told else {"target_session_attrs": "primary"}
