"""Opening a connection: to the right one of several hosts, and also through a pooler."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from standfast.backends.postgres.options import OPTIONS, PostgresOptions, each_host, option_of
from standfast.errors import ConfigurationError
from standfast.text import did_you_mean

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
# Lists go to the server as text in which None is null: a word like others where this is off.
_READING = {"array_nulls": "on"}
# A division by zero where the settings of the connection didn't reach the server. It takes one
# message and prepares nothing, so that it is harmless through a pooler.
_SETTINGS_HOLD = "SELECT 1 / (current_setting('plan_cache_mode') = 'force_generic_plan')::int"

_NO_SETTING = re.compile(r'unrecognized configuration parameter "([^"]+)"')

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
        self._leaving: list[Callable[[], Awaitable[None]]] = []
        self.is_pooled: bool = not options.statement_cache_size
        self._reads_nulls = self._has_warned = False

    def on_leaving(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have `act` called when the connections of now are to be left, for the wrong server."""
        self._leaving.append(act)

    async def leave(self) -> None:
        """Let all who have connections leave them, however each is used.

        The address may lead to the primary by now, or soon.
        """
        for act in self._leaving:
            await act()

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
                self._look_at_encoding(connection)
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
        connection = await self._open(
            dsn, given, statement_cache_size=0, server_settings=self._named()
        )
        if not self._reads_nulls:
            try:
                self._reads_nulls = await connection.fetchval("SHOW array_nulls") == "on"
            finally:
                if not self._reads_nulls:
                    connection.terminate()
        if not self._reads_nulls:
            raise ConfigurationError(
                f"PostgreSQL at {self.place} has array_nulls=off, by which nothing (null) would be "
                "stored as a word, and behind a pooler that can't be set for a connection: "
                "ALTER DATABASE (or ROLE) … SET array_nulls = on"
            )
        return connection

    def _look_at_encoding(self, connection: asyncpg.Connection) -> None:
        """Warn, once, of a database that can't hold every text."""
        encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
        if encoding == "UTF8" or self._has_warned:
            return
        self._has_warned = True
        _log.warning(
            "the database at %s has the encoding %s: a saga parks at a text that it can't hold, "
            "even in the message of an error. Move to one made by CREATE DATABASE … ENCODING "
            "'UTF8' TEMPLATE template0",
            self.place,
            encoding,
        )

    async def _directly(self, dsn: str, given: dict[str, Any]) -> asyncpg.Connection | None:
        """A connection with a session of its own; None where a pooler keeps it from having one."""
        try:
            connection = await self._open(
                dsn,
                given,
                statement_cache_size=self._options.statement_cache_size,
                server_settings=self._named() | _PLANNING | _READING,
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
        try:
            return await asyncpg.connect(
                dsn,
                timeout=self._options.connect_seconds,  # pyright: ignore[reportArgumentType]
                command_timeout=self._options.timeout_seconds,
                **settings,
                **given,
            )
        except asyncpg.UndefinedObjectError as error:
            # What neither we nor the driver know goes to the server, as a setting.
            found = _NO_SETTING.search(str(error))
            if found is None:
                raise
            raise ConfigurationError(
                f"the PostgreSQL URL: there is no option {found[1]}"
                f"{did_you_mean(found[1], OPTIONS)}, and the server has no setting of that name. "
                f"Options are {', '.join(OPTIONS)}; those of libpq, such as sslmode; and settings "
                "of the server"
            ) from error

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
