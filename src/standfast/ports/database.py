"""A database as a whole: opening, migrating, and the transaction that ties everything together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from standfast.clock import Clock
from standfast.errors import StandfastError
from standfast.ports.journal import Append, Instance, JournalStore, Mail, Start, Started
from standfast.ports.leases import WorkerLeases


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do.

    `durable`: what is committed survives a crash. `many_workers`: several workers may run at once.
    `many_processes`: other processes may start, signal and read. `write_lanes`: how many commits
    are usefully in flight at once.
    """

    durable: bool
    many_workers: bool
    many_processes: bool
    write_lanes: int


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of the schema, as SQL that is complete: it also notes itself as applied."""

    number: int
    name: str
    sql: str


class Row(Protocol):
    """A fetched row: by column name or position."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def keys(self) -> Any:
        """The column names."""
        ...


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark already there: who set it (`reason`) and the `result` (JSON text) kept with it."""

    reason: str
    result: str | None


class StoreTransaction(Protocol):
    """One open transaction. SQL uses ``$1, $2 …``; driver errors come out as `StoreError`."""

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched (0 when the engine doesn't say)."""
        ...

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """All rows."""
        ...

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""
        ...

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        ...

    async def start(self, starts: Sequence[Start], *, owner: int | None) -> list[Started]:
        """`JournalStore.start`, as part of this transaction."""
        ...

    async def append(self, owner: int, append: Append) -> StandfastError | None:
        """`JournalStore.append` of one, as part of this transaction. On an error, roll back."""
        ...

    async def send(self, mails: Sequence[Mail]) -> list[bool]:
        """`JournalStore.send`, as part of this transaction."""
        ...

    async def instance(self, id: UUID) -> Instance | None:
        """The searchable row as this transaction sees it, None where there is none."""
        ...

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """Set the mark (key, operation); None if it is new, else the one already there.

        Serialised against other transactions that set the same mark: the second waits for the first
        to end.
        """
        ...

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """Keep a JSON text with a mark set in this transaction."""
        ...


class Database(Protocol):
    """One database. Open it before use, in the event loop that uses it."""

    @property
    def url(self) -> str:
        """The address, without any password."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def journal(self) -> JournalStore:
        """Its journal."""
        ...

    @property
    def leases(self) -> WorkerLeases:
        """Its workers' leases."""
        ...

    @property
    def migrations(self) -> Sequence[Migration]:
        """All migrations, in order."""
        ...

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        ...

    async def schema_version(self) -> int:
        """The number of the last migration applied, 0 for none."""
        ...

    async def migrate(self) -> list[Migration]:
        """Apply what is missing, atomically, safely beside others who do so too; what it did."""
        ...

    async def clock_offset(self, clock: Clock) -> float:
        """By how many seconds the store's own clock is ahead of `clock`; 0 if it has none."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """A transaction: commits at the end of the block, rolls back if it raises.

        On cancellation it rolls back. Where the engine has a single writer, others wait meanwhile.
        """
        ...

    async def count_marks(self, *, before: float) -> int:
        """How many marks were set before that time (seconds since the epoch)."""
        ...

    async def purge_marks(self, *, before: float, limit: int) -> int:
        """Delete up to `limit` marks set before that time (seconds since the epoch)."""
        ...
