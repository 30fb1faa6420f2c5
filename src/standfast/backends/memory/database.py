"""The memory backend's database, and the transaction in which its ports change what they hold.

The same contract as every other backend, without durability and without SQL. Several workers of one
process may share a `MemoryDatabase`; each object is a store of its own.

A port stands in the module of its name. What it holds is a state object, which the database keeps
(`MemoryDatabase.state`); what it changes in a transaction is staged (`MemoryTransaction.staged`)
until that commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, cast

from standfast.affinity import Affinity
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.errors import ConfigurationError, StoreError, Unsupported
from standfast.ports.database import TRANSACTION_OVER, Capabilities, Row, StoreTransaction
from standfast.ports.providing import Dialect, Ports
from standfast.ports.schema import SchemaLine
from standfast.stepping import is_nested

P = TypeVar("P")
S = TypeVar("S")


class Staged(Protocol):
    """What a transaction changes of one port: only itself sees it until `commit`."""

    def commit(self) -> None:
        """Make it true. It must not fail, for other ports commit with it."""
        ...

    def copy(self) -> Staged:
        """The same, which doesn't change with it."""
        ...


C = TypeVar("C", bound=Staged)


class MemoryTransaction:
    """`StoreTransaction` in memory: what it did is seen by others when it commits.

    It has no SQL; a subclass may have some.
    """

    dialect: Dialect = "memory"

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self.over = False
        self._staged: dict[object, Staged] = {}

    def staged(self, make: Callable[[S], C], state: S) -> C:
        """The change of one port, ``make(state)`` when first asked for.

        Raises `StoreError` once the transaction is over.
        """
        if self.over:
            raise StoreError(TRANSACTION_OVER)
        staged = self._staged.get(make)
        if staged is None:
            staged = self._staged[make] = make(state)
        return cast(C, staged)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`."""
        before = {make: staged.copy() for make, staged in self._staged.items()}
        try:
            yield
        except BaseException:  # whatever ended the block, what it wrote is undone
            self._staged = before
            raise

    def commit(self) -> None:
        """Make true what all ports have staged."""
        for staged in self._staged.values():
            staged.commit()

    async def execute(self, sql: str, *args: Any) -> int:
        """`Unsupported`: there are no tables of yours in memory."""
        _no_sql(sql)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """`Unsupported`, as `execute`."""
        _no_sql(sql)


def _no_sql(sql: str) -> NoReturn:
    raise Unsupported(
        f"memory:// has no SQL, so this can't run: {sql}. Use sqlite:/// or postgresql:// for "
        "transactions with rows of your own"
    )


class MemoryDatabase:
    """A `Database` in memory. `url` is ``memory://``; `clock` tells the time of leases.

    Raises `ConfigurationError` for another URL.

    A subclass can put ports of its own in the place of these (`makes`), give its transactions more
    than they have (`begin`), and act before and after each commit (`transaction`)::

        class Recording(MemoryDatabase):
            makes = {JournalStore: RecordingJournal}

            @asynccontextmanager
            async def transaction(self):
                async with super().transaction() as tx:
                    yield tx
                    ...  # what raises here rolls back
                ...  # it is committed
    """

    capabilities = Capabilities(
        durable=False, many_workers=True, many_processes=False, write_lanes=1
    )
    dialect: Dialect = "memory"
    makes: ClassVar[Mapping[type, Callable[[Any], Any]]] = {}
    """How a subclass makes a port itself: called with the database when it is first asked for."""

    def __init__(self, url: str = "memory://", *, clock: Clock = SYSTEM_CLOCK) -> None:
        if url != "memory://":
            raise ConfigurationError(f"url={url!r}: write memory://")
        self.url = url
        self.now = clock.now
        self._ports = Ports(self, "standfast.backends.memory")
        self._own: dict[type, Any] = {}
        self._states: dict[type, Any] = {}
        self._lock = asyncio.Lock()
        self._holder: asyncio.Task[Any] | None = None
        self._affinity: Affinity | None = None

    def port(self, protocol: type[P]) -> P:
        """See `Database.port`."""
        if protocol not in self.makes:
            return self._ports.get(protocol)
        if protocol not in self._own:
            self._own[protocol] = self.makes[protocol](self)
        return cast(P, self._own[protocol])

    def lines(self, protocols: Iterable[type]) -> Sequence[SchemaLine]:
        """See `Database.lines`: the ports of this backend need no tables."""
        return self._ports.lines(protocols)

    def state(self, kind: type[S]) -> S:
        """What is committed, of one kind: ``kind()`` when first asked for.

        For the ports of this backend, and for tests that look inside.
        """
        state = self._states.get(kind)
        if state is None:
            state = self._states[kind] = kind()
        return cast(S, state)

    async def open(self) -> None:
        """Nothing to connect to: from now on it belongs to this event loop, until it is closed."""
        if self._affinity is not None:
            self._affinity.check()
        self._affinity = Affinity(self.url)

    async def close(self) -> None:
        """End all subscriptions. What was stored stays with this object."""
        self._affinity = None
        for port in (*self._ports.made(), *self._own.values()):
            if hasattr(port, "close"):
                await port.close()

    async def clock_offset(self, clock: Clock) -> float:
        """Always 0: there is no clock but the machine's own."""
        return 0.0

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """See `Database.transaction`. `execute` and the fetches are `Unsupported`."""
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[StoreTransaction]:
        async with self.exclusive() as tx:
            self._holder = asyncio.current_task()
            try:
                yield tx
            finally:
                self._holder = None

    def begin(self) -> MemoryTransaction:
        """A new transaction: for a block of a user's, and for each act of a port."""
        return MemoryTransaction(self)

    def mine(self, tx: StoreTransaction) -> MemoryTransaction:
        """`tx`, which is one of this database. Raises `Unsupported` for any other."""
        if isinstance(tx, MemoryTransaction) and tx.database is self:
            return tx
        raise Unsupported(
            f"{tx!r} isn't a transaction of this memory:// database: use one of its transaction()"
        )

    def exclusive(self) -> AbstractAsyncContextManager[MemoryTransaction]:
        """The one writer's turn: committed at the end, dropped if the block raises."""
        if is_nested() or (self._holder is not None and self._holder is asyncio.current_task()):
            raise StoreError(
                "there is a transaction open here, and there is one writer: use that transaction "
                "(`tx.start(...)`, `tx.signal(...)`), or end its block first"
            )
        return self._turn()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[MemoryTransaction]:
        if self._affinity is not None:
            self._affinity.check()
        async with self._lock:
            tx = self.begin()
            try:
                yield tx
                tx.commit()
            finally:
                tx.over = True
