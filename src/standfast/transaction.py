"""An open transaction, below all patterns: SQL, and what is to happen once it is durable."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from standfast.checks import is_async
from standfast.errors import ConfigurationError, Unsupported
from standfast.inside import OwnBlock, forget_ended, innermost, inside_while, refuse_second
from standfast.ports.database import (
    Database,
    Row,
    Script,
    StoreTransaction,
    carry_out,
)
from standfast.ports.providing import Dialect
from standfast.savepoints import Savepoints
from standfast.text import class_of

W_co = TypeVar("W_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U", bound="UnitOfWork")
log = logging.getLogger("standfast")


class Rides(Protocol[W_co]):
    """A port usable inside a transaction."""

    def within(self, tx: StoreTransaction) -> W_co:
        """The port as part of `tx`."""
        ...


class Ending(Protocol):
    """The end of a transaction: what is to follow its commit."""

    @property
    def known(self) -> bool:
        """Whether anybody here learns that it has committed."""
        ...

    @property
    def over(self) -> bool:
        """Whether it has ended, as far as that is known."""
        ...

    def add(self, act: Callable[[], None], /) -> None:
        """Call `act` once what was written until now is durable, never if it is rolled back."""
        ...


class OwnEnding:
    """The `Ending` of a transaction that the app ends itself, or is told of."""

    known: bool = True

    def __init__(self) -> None:
        self.over: bool = False
        self._acts: list[Callable[[], None]] = []

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""
        self._acts.append(act)

    @property
    def has_acts(self) -> bool:
        """Whether anything is to follow."""
        return bool(self._acts)

    def committed(self) -> None:
        """Run what was to follow; exceptions are logged. Called by whoever committed."""
        while self._acts:
            act = self._acts.pop(0)
            try:
                act()
            except Exception:
                # Nothing can be taken back any more, and the others must hear of it too.
                log.exception("what was to follow a commit failed")
            except BaseException:
                self.committed()  # the others first: the commit is a fact
                raise
        self.over = True

    def rolled_back(self) -> None:
        """Drop what was to follow. Called by whoever rolled back."""
        self._acts.clear()
        self.over = True


class LaterEnding:
    """The `Ending` of a transaction, whose acts are left to `after`.

    They may block, which the thread of the event loop must not.
    """

    def __init__(self, ending: Ending, after: OwnEnding) -> None:
        self._ending = ending
        self._after = after

    @property
    def known(self) -> bool:
        """See `Ending.known`."""
        return self._ending.known

    @property
    def over(self) -> bool:
        """See `Ending.over`: it isn't before the acts have been called."""
        return self._after.over

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`."""
        if self._ending.over:  # by an act that runs now
            self._after.add(act)
        else:
            self._ending.add(partial(self._after.add, act))


class _Act:
    """What is to follow a commit, unless it is undone before."""

    __slots__ = ("_act", "is_undone")

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self.is_undone = False

    def __call__(self) -> None:
        if not self.is_undone:
            self._act()


class UnitOfWork:
    """An open transaction. SQL takes ``$1, $2 …`` on every backend.

    Errors of the driver come out as `StoreError` (`ConstraintViolated`, `StoreUnavailable` …).
    """

    def __init__(self, database: Database, store: StoreTransaction, ending: Ending) -> None:
        self.database: Database = database
        self.store: StoreTransaction = store
        self.block: OwnBlock | None = None
        """The block in which the app has opened it; None of one that is adopted."""
        self._ending = ending
        self._acts: list[_Act] = []
        self._savepoints = Savepoints(store)

    @property
    def dialect(self) -> Dialect:
        """The SQL that it speaks."""
        return self.store.dialect

    def tell_inside(self) -> None:
        """Say that what runs here is inside this transaction. Each use of it says so.

        It may have been opened in another context: by a dependency of FastAPI's, or another thread.
        """
        if self.block is not None:
            inside_while(self.database, self.block)

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched."""
        self.tell_inside()
        return await self.store.execute(_text(sql), *args)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """All rows, each readable by column name or position."""
        self.tell_inside()
        return await self.store.fetch(_text(sql), *args)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""
        self.tell_inside()
        return await self.store.fetch_one(_text(sql), *args)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        self.tell_inside()
        return await self.store.fetch_value(_text(sql), *args)

    async def run_script(self, script: Script[T]) -> T:
        """Carry out a script of a port in this transaction; what the script returns.

        Raises what its statements raise; then the transaction is to be rolled back.
        """
        self.tell_inside()
        return await carry_out(self.store, script)

    def within(self, protocol: Callable[..., Rides[W_co]]) -> W_co:
        """A port as part of this transaction: what is written through it commits with it.

        `protocol` is the port's, as for `Database.port`. Raises `Unsupported`.
        """
        self.tell_inside()
        port: Rides[W_co] = self.database.port(cast(type[Rides[W_co]], protocol))
        return port.within(self.store)

    def on_commit(self, act: Callable[[], None]) -> None:
        """Call `act` once this transaction is durable, in the order in which they were given.

        It isn't called after a rollback, nor if the process dies in between: hints only. What it
        raises is logged. One that is given while these are called is called too. Raises
        `ConfigurationError` for a coroutine function, which nobody would await, and once the
        transaction is over; `Unsupported` in an adopted transaction whose driver tells nobody of
        its commits.
        """
        given: object = act
        if not callable(given) or is_async(given):
            raise ConfigurationError(
                f"on_commit({act!r}): give a plain function of no arguments, not a coroutine "
                "function; it may begin a task"
            )
        if self._ending.over:
            raise ConfigurationError(
                "on_commit(…) after the end of its transaction: call it inside the block"
            )
        if not self._ending.known:
            raise Unsupported(
                "on_commit(…) in a transaction whose driver tells nobody of its commits: do it "
                "yourself, after your commit"
            )
        self._add(act)

    def hint(self, act: Callable[[], None]) -> None:
        """As `on_commit`, for what only makes things faster: dropped where commits aren't known.

        `act` is called in the app's event loop where it has one, whoever commits.
        """
        if self._ending.known:
            self._add(act)

    def _add(self, act: Callable[[], None]) -> None:
        follows = _Act(act)
        self._acts.append(follows)
        self._ending.add(follows)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A block inside the transaction: what is written in it is undone if it raises.

        So is what `on_commit` was given in it. The error comes out; whoever catches it goes on with
        what was written before the block. Blocks may stand in each other, but not beside each other
        in two threads or tasks: then the second raises `ConfigurationError`.
        """
        self.tell_inside()
        given = len(self._acts)
        try:
            async with self._savepoints.block():
                yield
        except BaseException:
            for act in self._acts[given:]:
                act.is_undone = True
            raise


def _text(sql: object) -> str:
    if not isinstance(sql, str):
        raise ConfigurationError(
            f"{class_of(sql)} isn't SQL as text: give text with $1, $2 … in it, and their values "
            "after it. A statement that your ORM or driver made is run by your own session or "
            "connection"
        )
    return sql


class BlockingUnitOfWork(Protocol):
    """A `UnitOfWork` for sync code, as far as patterns need it."""

    def entered(
        self, act: Callable[[UnitOfWork], AbstractAsyncContextManager[T]], /
    ) -> AbstractContextManager[T]:
        """What `act` answers for the transaction, an ``async with`` block, as a ``with`` block."""
        ...


@asynccontextmanager
async def unit_of_work(
    database: Database, make: Callable[[Database, StoreTransaction, Ending], U]
) -> AsyncIterator[U]:
    """A transaction that `make` wraps: committed at the end of the block, or rolled back."""
    if innermost() is not None and database.capabilities.write_lanes == 1:
        refuse_second(database)
    ending = OwnEnding()
    try:
        async with database.transaction() as store:
            tx = make(database, store, ending)
            tx.block = OwnBlock()
            with inside_of(tx):
                yield tx
    except BaseException:
        ending.rolled_back()
        raise
    ending.committed()


@contextmanager
def inside_of(tx: UnitOfWork) -> Iterator[None]:
    """The block of one of the app's own transactions, for `refuse_inside`."""
    tx.tell_inside()
    try:
        yield
    finally:
        # Tasks begun inside may still see it, and a generator may end in another context.
        if tx.block is not None:
            tx.block.ended = True
        forget_ended()
