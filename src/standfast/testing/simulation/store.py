"""The database of a simulation: in memory, with crashes before and after each commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

from standfast.backends.memory.database import MemoryDatabase, MemoryTransaction
from standfast.backends.memory.leases import LeaseState
from standfast.backends.sqlite.driver import touched
from standfast.clock import Clock
from standfast.errors import StandfastError, StoreUnavailable
from standfast.ports.database import Row, StoreTransaction
from standfast.ports.journal import Append, JournalStore, JournalWriter, Start, StartAnswer
from standfast.ports.providing import Dialect
from standfast.ports.schema import SchemaLine
from standfast.testing.simulation.tables import Tables
from standfast.testing.virtual import VirtualLoop

P = TypeVar("P")


class Fate(Protocol):
    """Decides what becomes of each commit of a process."""

    async def before_commit(
        self, place: str, process: ProcessDatabase, appends: Sequence[Append]
    ) -> None:
        """A commit is about to be written."""
        ...

    async def after_commit(
        self, place: str, process: ProcessDatabase, appends: Sequence[Append]
    ) -> None:
        """A commit was written. Raises `StoreUnavailable` when its answer is to be lost."""
        ...

    def started(self, start: Start) -> None:
        """A step started a saga in its transaction."""
        ...

    def committed(self, append: Append) -> None:
        """Facts were stored."""
        ...

    def next_commit(self) -> str:
        """The name of a commit."""
        ...

    def violated(self, rule: str, text: str) -> None:
        """Something doesn't hold."""
        ...


class SharedDatabase(MemoryDatabase):
    """What all processes of a simulation share; the user's own rows are in SQLite in memory.

    `asked` is the function of the test kit that takes the `schema`.
    """

    def __init__(
        self, loop: VirtualLoop, clock: Clock, schema: str, asked: str = "simulate"
    ) -> None:
        super().__init__(clock=clock)
        self.loop = loop
        self.asked = asked
        self.tables: Tables | None = Tables(schema) if schema else None

    def begin(self) -> MemoryTransaction:
        """See `MemoryDatabase.begin`."""
        return SimulatedTransaction(self, self.tables)

    def holds(self, token: int | None) -> bool:
        """Whether nobody has ended that lease."""
        return token in self.state(LeaseState).held

    def let_run_out(self, token: int) -> None:
        """Let the time of a lease be over, as if its holder had been silent for all of it."""
        lease = self.state(LeaseState).held.get(token)
        if lease is not None:
            lease.expires_at = self.now()


class SimulatedTransaction(MemoryTransaction):
    """A transaction in memory, with the user's own rows in an SQLite database in memory."""

    def __init__(self, database: SharedDatabase, tables: Tables | None) -> None:
        super().__init__(database)
        self._tables = tables
        self._shared = database
        self.appends: list[Append] = []
        self.starts: list[Start] = []

    def _run(self, sql: str, args: tuple[Any, ...]) -> Any:
        if self._tables is None:
            asked, loop = self._shared.asked, self._shared.loop
            loop.refuse(
                f"SQL was run ({sql!r}) without tables: give {asked}(schema='CREATE TABLE …'), or "
                "your own transaction"
            )
        return self._tables.run(sql, args)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """See `HasSavepoints.savepoint`."""
        starts, appends, tables = len(self.starts), len(self.appends), self._tables
        if tables is not None:
            tables.run("SAVEPOINT standfast", ())
        try:
            async with super().savepoint():
                yield
        except BaseException:
            del self.starts[starts:], self.appends[appends:]
            if tables is not None:
                tables.run("ROLLBACK TO SAVEPOINT standfast", ())
            raise
        finally:
            if tables is not None:
                tables.run("RELEASE SAVEPOINT standfast", ())

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        before = 0 if self._tables is None else self._tables.changes
        return touched(self._run(sql, args), before)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        rows: Sequence[Row] = self._run(sql, args).fetchall()
        return rows

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        row: Row | None = self._run(sql, args).fetchone()
        return row

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        row = self._run(sql, args).fetchone()
        return None if row is None else row[0]


class ProcessDatabase:
    """The database as one process sees it: once that is dead, nothing answers it any more."""

    capabilities = MemoryDatabase.capabilities
    dialect: Dialect = "memory"
    url = "memory://"

    def __init__(self, shared: SharedDatabase, fate: Fate) -> None:
        self.shared = shared
        self.fate = fate
        self.is_dead = False
        self._ports: dict[type, Any] = {}
        self._subscriptions: list[Callable[[], None]] = []
        self._limbo: list[asyncio.Future[None]] = []  # kept, or their tasks would be garbage

    def port(self, protocol: type[P]) -> P:
        """See `Database.port`."""
        port = self._ports.get(protocol)
        if port is None:
            inner = self.shared.port(protocol)
            make = ProcessJournal if protocol is JournalStore else ProcessPort
            port = self._ports[protocol] = make(self, inner)
        return cast(P, port)

    def lines(self, protocols: Iterable[type]) -> Sequence[SchemaLine]:
        """None: memory has no tables."""
        return ()

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def clock_offset(self, clock: Clock) -> float:
        """Always 0."""
        return 0.0

    def die(self) -> None:
        """Let nothing come out any more, and nothing go in."""
        self.is_dead = True
        for end in self._subscriptions:
            end()

    async def alive(self) -> None:
        """Return if the process lives; else never: nobody is there to hear an answer."""
        if self.is_dead:
            future = self.shared.loop.create_future()
            self._limbo.append(future)
            await future

    def subscribed(self, end: Callable[[], None]) -> Callable[[], None]:
        """Note a subscription, so that it ends with the process."""
        self._subscriptions.append(end)
        return end

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[StoreTransaction]:
        """See `Database.transaction`: the process may die before its commit or after it."""
        await self.alive()
        fate, tables, place = self.fate, self.shared.tables, self.fate.next_commit()
        async with self.shared.transaction() as tx:
            assert isinstance(tx, SimulatedTransaction)
            if tables is not None:
                tables.begin()
            try:
                yield tx
                await fate.before_commit(place, self, tx.appends)
                await self.alive()
            except BaseException:
                if tables is not None:
                    tables.roll_back()
                raise
            if tables is not None:
                tables.commit()
        for start in tx.starts:
            fate.started(start)
        for append in tx.appends:
            fate.committed(append)
        await fate.after_commit(place, self, tx.appends)


class ProcessPort:
    """Any port, as one process sees it."""

    def __init__(self, process: ProcessDatabase, inner: Any) -> None:
        self._process = process
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name.startswith("on_"):
            return lambda callback: self._process.subscribed(found(callback))
        if not iscoroutinefunction(found):  # `within`, scripts, names of tables: nothing is asked
            return found

        async def call(*args: Any, **options: Any) -> Any:
            await self._process.alive()
            answer = await found(*args, **options)
            await self._process.alive()
            return answer

        setattr(self, name, call)
        return call


class ProcessJournal(ProcessPort):
    """The journal, as one process sees it."""

    def within(self, tx: StoreTransaction) -> JournalWriter:
        """See `JournalStore.within`."""
        assert isinstance(tx, SimulatedTransaction)
        return _NotedWriter(self._inner.within(tx), tx)

    async def append(
        self, owner: int, appends: Sequence[Append]
    ) -> Sequence[StandfastError | None]:
        """See `JournalStore.append`: a process may die before it or after it."""
        process, fate = self._process, self._process.fate
        place = fate.next_commit()
        await fate.before_commit(place, process, appends)
        await process.alive()
        answers: Sequence[StandfastError | None] = await self._inner.append(owner, appends)
        written = [a for a, problem in zip(appends, answers, strict=True) if problem is None]
        for append in written:
            fate.committed(append)
        await fate.after_commit(place, process, written)
        await process.alive()
        return answers

    async def set_aside(self, owner: int, id: UUID, *, status: str, cause: str) -> None:
        """The engine gives an instance up only when something is wrong with it."""
        await self._process.alive()
        self._process.fate.violated("set aside", f"the engine can't go on with the saga: {cause}")
        await self._inner.set_aside(owner, id, status=status, cause=cause)


class _NotedWriter:
    """The journal inside a transaction, which notes what facts and starts go with it."""

    def __init__(self, inner: JournalWriter, tx: SimulatedTransaction) -> None:
        self._inner = inner
        self._tx = tx
        self.send = inner.send
        self.by_key = inner.by_key
        self.instance = inner.instance

    async def start(self, starts: Sequence[Start]) -> list[StartAnswer]:
        """See `JournalWriter.start`."""
        answers = await self._inner.start(starts)
        self._tx.starts += [s for s, a in zip(starts, answers, strict=True) if a.created]
        return answers

    async def append(self, owner: int, append: Append) -> None:
        """See `JournalWriter.append`."""
        await self._inner.append(owner, append)
        self._tx.appends.append(append)


def answer_lost() -> StoreUnavailable:
    """The error of a commit that was written, and whose answer was lost."""
    return StoreUnavailable("simulated: the commit was written, but its answer was lost")
