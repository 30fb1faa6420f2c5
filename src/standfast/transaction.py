"""An open transaction, below all patterns: SQL, and what is to happen once it is durable.

It also remembers which transactions the running code is inside of, so that code can't wait for
itself: a write through the app needs the database's writer. Where there is one, inside a
transaction's own block it would wait for the end of the very block that waits for it; anywhere, it
would stay though the transaction is rolled back.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

from standfast.checks import is_async
from standfast.errors import ConfigurationError
from standfast.ports.database import Database, Row, Script, StoreTransaction, carry_out
from standfast.ports.providing import Dialect

W_co = TypeVar("W_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U", bound="UnitOfWork")
log = logging.getLogger("standfast")


class Rides(Protocol[W_co]):
    """A port usable inside a transaction."""

    def within(self, tx: StoreTransaction) -> W_co:
        """The port as part of `tx`."""
        ...


class UnitOfWork:
    """An open transaction. SQL takes ``$1, $2 …`` on every backend.

    Errors of the driver come out as `StoreError` (`ConstraintViolated`, `StoreUnavailable` …).
    """

    def __init__(self, database: Database, store: StoreTransaction) -> None:
        self.database: Database = database
        self.store: StoreTransaction = store
        self._after: list[Callable[[], None]] = []
        self._over = False

    @property
    def dialect(self) -> Dialect:
        """The SQL that it speaks."""
        return self.store.dialect

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched."""
        return await self.store.execute(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """All rows, each readable by column name or position."""
        return await self.store.fetch(sql, *args)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""
        return await self.store.fetch_one(sql, *args)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self.store.fetch_value(sql, *args)

    async def run_script(self, script: Script[T]) -> T:
        """Carry out a script of a port in this transaction; what the script returns.

        Raises what its statements raise; then the transaction is to be rolled back.
        """
        return await carry_out(self.store, script)

    def within(self, protocol: Callable[..., Rides[W_co]]) -> W_co:
        """A port as part of this transaction: what is written through it commits with it.

        `protocol` is the port's, as for `Database.port`. Raises `Unsupported`.
        """
        port: Rides[W_co] = self.database.port(cast(type[Rides[W_co]], protocol))
        return port.within(self.store)

    def on_commit(self, act: Callable[[], None]) -> None:
        """Call `act` once this transaction is durable, in the order in which they were given.

        It isn't called after a rollback, nor if the process dies in between: hints only. What it
        raises is logged. One that is given while these are called is called too. Raises
        `ConfigurationError` for a coroutine function, which nobody would await, and once the
        transaction is over.
        """
        given: object = act
        if not callable(given) or is_async(given):
            raise ConfigurationError(
                f"on_commit({act!r}): give a plain function of no arguments, not a coroutine "
                "function; it may begin a task"
            )
        if self._over:
            raise ConfigurationError(
                "on_commit(…) after the end of its transaction: call it inside the block"
            )
        self._after.append(act)

    def committed(self) -> None:
        """Run the after-commit callbacks; exceptions are logged. Called by whoever committed."""
        while self._after:
            act = self._after.pop(0)
            try:
                act()
            except Exception:
                # Nothing can be taken back any more, and the others must hear of it too.
                log.exception("what was to follow a commit failed")
            except BaseException:
                self.committed()  # the others first: the commit is a fact
                raise
        self._over = True

    def rolled_back(self) -> None:
        """Drop the after-commit callbacks. Called by whoever rolled back."""
        self._after.clear()
        self._over = True


@asynccontextmanager
async def unit_of_work(
    database: Database, make: Callable[[Database, StoreTransaction], U]
) -> AsyncIterator[U]:
    """A transaction that `make` wraps: committed at the end of the block, or rolled back."""
    tx: U | None = None
    try:
        async with database.transaction() as store:
            tx = make(database, store)
            with _inside(database):
                yield tx
    except BaseException:
        if tx is not None:
            tx.rolled_back()
        raise
    assert tx is not None
    tx.committed()


class _Block:
    """The block of a transaction, as the tasks begun inside see it."""

    __slots__ = ("outer", "over", "owner")

    def __init__(self, owner: object, outer: _Block | None) -> None:
        self.owner: object = owner
        self.outer: _Block | None = outer
        self.over: bool = False


_block: ContextVar[_Block | None] = ContextVar("standfast_transaction", default=None)
innermost: Callable[[], object | None] = _block.get
"""The innermost transaction that the running code may be inside of; None: it is in none."""


@contextmanager
def _inside(owner: object) -> Iterator[None]:
    """The block of a transaction of `owner`, for `refuse_inside`."""
    block = _Block(owner, _block.get())
    _block.set(block)
    try:
        yield
    finally:
        # Tasks begun inside may still see it, and a generator may end in another context.
        block.over = True
        if _block.get() is block:
            _block.set(block.outer)


def refuse_inside(database: Database, act: str, instead: str) -> None:
    """Raise `ConfigurationError` inside an open transaction of `database`."""
    if is_inside(database):
        raise ConfigurationError(
            f"can't {act} through the app inside its own transaction: use {instead}, which "
            "commits with it, or do it after the block"
        )


def is_inside(database: Database) -> bool:
    """Whether the running code is inside an open transaction of `database`."""
    block = _block.get()
    while block is not None:
        if block.owner is database and not block.over:
            return True
        block = block.outer
    return False
