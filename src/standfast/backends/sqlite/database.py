"""SQLite as the database: one file, one writer, readers beside it.

Guarantees: what is answered is on disk (WAL, ``synchronous=FULL``); every batch is one commit,
whole or not at all, also when the process is killed. Other processes may start, signal and read,
but one worker runs at a time. Keep the file on a local disk: SQLite's locks don't hold on network
shares.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from standfast.backends.sqlite.file import SqliteFile
from standfast.backends.sqlite.transaction import SqliteTransaction
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, StoreUnavailable, Unsupported
from standfast.ports.database import Capabilities, StoreTransaction
from standfast.ports.providing import Dialect, Ports
from standfast.ports.schema import SchemaLine

P = TypeVar("P")
_PREFIX = "sqlite:///"
_OPTIONS = ("busy_timeout", "readers", "inline_below")
_OLDEST = (3, 37, 0)


class SqliteDatabase:
    """A `Database` in an SQLite file.

    `url` is ``sqlite:///relative.db``, ``sqlite:///~/at_home.db`` or
    ``sqlite:////absolute/path.db``; the file is made when it isn't there, its folder isn't. Its
    query may hold options, which win over those given by name:
    ``sqlite:///shop.db?busy_timeout=10s&readers=4``. A ``?`` in the name of a file is written
    ``%3F``, all else as it is.

    `busy_timeout` is how long to wait for another process's write, then it is `StoreUnavailable`.
    `readers` is how many reads may run at once. As long as commits lately took less than
    `inline_below`, a small one that finds no other under way is made by the event loop's own
    thread, which it holds up for that long; 0 leaves every commit to the writer's thread. `clock`
    tells the time of leases: the machine's own, unless you test.

    Raises `ConfigurationError` for a wrong option.
    """

    dialect: Dialect = "sqlite"
    capabilities = Capabilities(
        durable=True, many_workers=False, many_processes=True, write_lanes=1
    )

    def __init__(
        self,
        url: str,
        *,
        busy_timeout: Duration = "5s",
        readers: int = 2,
        inline_below: Duration = "1ms",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._given: dict[str, Any] = {
            "busy_timeout": busy_timeout,
            "readers": readers,
            "inline_below": inline_below,
            "clock": clock,
        }
        self.url = url
        self.path, options = parse(url)
        if "readers" in options:
            readers = _whole(options["readers"])
        if readers < 1:
            raise ConfigurationError(f"readers={readers!r}: must be at least 1")
        busy_timeout = _duration(options.get("busy_timeout", "")) or busy_timeout
        inline_below = _duration(options.get("inline_below", "")) or inline_below
        self.file = SqliteFile(
            self.path,
            busy_timeout=seconds(busy_timeout, name="busy_timeout", positive=False),
            readers=readers,
            inline_below=seconds(inline_below, name="inline_below", positive=False),
            now=clock.now,
        )
        self._ports = Ports(self, "standfast.backends.sqlite")
        self._open = False

    def anew(self) -> SqliteDatabase:
        """The same, unopened, for a process that was forked from the one that has this open."""
        return SqliteDatabase(self.url, **self._given)

    def port(self, protocol: type[P]) -> P:
        """See `Database.port`."""
        return self._ports.get(protocol)

    def lines(self, protocols: Iterable[type]) -> Sequence[SchemaLine]:
        """See `Database.lines`."""
        return self._ports.lines(protocols)

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`, or `CorruptRecord` if it isn't an SQLite file."""
        if self._open:
            return
        if sqlite3.sqlite_version_info < _OLDEST:
            raise Unsupported(
                f"SQLite {sqlite3.sqlite_version} is too old: Python must be linked with "
                f"{'.'.join(map(str, _OLDEST))} or newer"
            )
        _check_place(Path(self.path))
        await self.file.open()
        self._open = True

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        if not self._open:
            return
        self._open = False
        for port in self._ports.made():
            if hasattr(port, "close"):
                await port.close()
        await self.file.close()

    async def clock_offset(self, clock: Clock) -> float:
        """Always 0: there is no clock but the machine's own."""
        return 0.0

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. Nothing else writes meanwhile, in any process.

        Cancelled while the commit itself runs, it may be committed.
        """
        return SqliteTransaction(self.file)


def parse(url: str) -> tuple[str, dict[str, str]]:
    """The path of the file, and the options in the query. Raises `ConfigurationError`."""
    named, _, query = url.partition("?")
    path = named.removeprefix(_PREFIX).replace("%3F", "?").replace("%3f", "?")
    if not path or not named.startswith(_PREFIX):
        raise ConfigurationError(
            f"url={url!r}: write sqlite:///relative.db or sqlite:////absolute/path.db"
        )
    if path == ":memory:" or path.startswith("file:"):
        raise ConfigurationError(
            f"url={url!r}: a file is needed, for several connections share it. "
            "For a store in memory use memory://"
        )
    if "\0" in path:
        raise ConfigurationError(f"url={url!r}: a path can't hold a NUL character")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = ", ".join(sorted(options.keys() - set(_OPTIONS)))
    if unknown:
        raise ConfigurationError(
            f"url={url!r}: there is no option {unknown}; there are {', '.join(_OPTIONS)}"
        )
    return str(Path(path).expanduser()) if path.startswith("~") else path, options


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreUnavailable(
            f"{path}: the folder {path.parent.absolute()} doesn't exist: create it"
        )
    if path.is_dir():
        raise StoreUnavailable(f"{path} is a folder: name a file in it")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigurationError(f"readers={text!r}: must be a whole number") from error


def _duration(text: str) -> str:
    return f"{text}s" if text.replace(".", "", 1).isdigit() else text
