"""A database as a whole: opening it, its ports, and the transaction that ties everything together.

A transaction runs SQL and knows nothing of any pattern. What patterns write is decided as data, a
`Script` of statements, so that it can ride any transaction, whoever opened it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from standfast.clock import Clock
from standfast.errors import StandfastError, Unsupported
from standfast.ports.providing import Dialect
from standfast.ports.schema import SchemaLine

P = TypeVar("P")
T = TypeVar("T")


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


class Row(Protocol):
    """A fetched row: by column name or position."""

    def __getitem__(self, key: Any, /) -> Any: ...
    def keys(self) -> Any:
        """The column names."""
        ...


TRANSACTION_OVER = (
    "this transaction is over: use it inside its block only. What comes later, as in a background "
    "task or a streamed body, begins its own: app.start(…), or app.transaction(), in sync code "
    "those of app.blocking"
)
"""What the `StoreError` says that a `StoreTransaction` raises after its end."""


class StoreTransaction(Protocol):
    """One open transaction. SQL uses ``$1, $2 …``; driver errors come out as `StoreError`."""

    @property
    def dialect(self) -> Dialect:
        """The SQL that it speaks."""
        ...

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


class Statement(NamedTuple):
    """One statement of a script, in ``$1, $2 …``, which is answered with its rows.

    With `many`, `args` are a sequence of arguments: the statement is run with each, and answered
    with one row that holds how many rows were touched in all, through a view too.
    """

    sql: str
    args: Sequence[Any] = ()
    many: bool = False


Script: TypeAlias = Generator[Statement, Any, T]
"""What a pattern writes, as data: it yields statements, is sent the rows of each, and returns.

Whoever carries it out may be async or not, and may commit afterwards or not. An error of a
statement ends it.
"""


class RunsScripts(Protocol):
    """A `StoreTransaction` that carries a whole script out in one go, faster than by statements."""

    async def run_script(self, script: Script[T]) -> T:
        """Carry it out; what it returns."""
        ...


class HasSavepoints(Protocol):
    """A `StoreTransaction` whose savepoints are made otherwise than by SQL."""

    def savepoint(self) -> AbstractAsyncContextManager[Any]:
        """A block: what is written in it is undone if it raises."""
        ...


def of_dialect(tx: StoreTransaction, dialect: Dialect) -> StoreTransaction:
    """`tx`, if it speaks that dialect. Raises `Unsupported` for any other."""
    if tx.dialect != dialect:
        raise Unsupported(
            f"this is a transaction of {tx.dialect}, and the port keeps its data in {dialect}: use "
            "a transaction of the app's own database"
        )
    return tx


_CHANGED = "SELECT total_changes()"


async def carry_out(tx: StoreTransaction, script: Script[T]) -> T:
    """Carry out a script inside a transaction of its dialect; what it returns.

    Raises what its statements raise; then the transaction is to be rolled back.
    """
    run = getattr(tx, "run_script", None)  # quicker than to ask whether it is a `RunsScripts`
    if run is not None:
        done: T = await run(script)
        return done

    async def answer(statement: Statement) -> Any:
        sql, args, many = statement
        if not many:
            return await tx.fetch(sql, *args)
        if tx.dialect != "sqlite":
            return [(sum([await tx.execute(sql, *one) for one in args]),)]
        before = await tx.fetch_value(_CHANGED)  # `execute` counts nothing that goes through a view
        count = sum([await tx.execute(sql, *one) for one in args])
        return [(count or await tx.fetch_value(_CHANGED) - before,)]

    return await answered(script, answer)


async def answered(script: Script[T], answer: Callable[[Statement], Awaitable[Any]]) -> T:
    """Carry out a script whose statements `answer` answers with their rows; what it returns."""
    rows: Any = None
    while True:
        try:
            statement = script.send(rows)
        except StopIteration as end:
            result: T = end.value
            return result
        rows = await answer(statement)


def savepoint(tx: StoreTransaction) -> AbstractAsyncContextManager[None]:
    """A block inside a transaction: what is written in it is undone if it raises."""
    own = getattr(tx, "savepoint", None)  # of one that `HasSavepoints`
    return savepoint_by_sql(tx) if own is None else own()


@asynccontextmanager
async def savepoint_by_sql(tx: StoreTransaction) -> AsyncIterator[None]:
    """As `savepoint`, by statements."""
    await carry_out(tx, _run("SAVEPOINT standfast"))
    try:
        yield
        # Refused after a statement that failed, whose error the block kept to itself.
        await carry_out(tx, _run("RELEASE SAVEPOINT standfast"))
    except BaseException:
        # Where this fails too, the transaction is lost, and with it what was written.
        with contextlib.suppress(StandfastError):
            await tx.execute("ROLLBACK TO SAVEPOINT standfast")
            await tx.execute("RELEASE SAVEPOINT standfast")
        raise


def _run(sql: str) -> Script[None]:
    yield Statement(sql)


class Database(Protocol):
    """One database. Open it before use, in the event loop that uses it."""

    @property
    def url(self) -> str:
        """The address, without any password."""
        ...

    @property
    def dialect(self) -> Dialect:
        """The SQL that it speaks."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def port(self, protocol: type[P]) -> P:
        """The port of that protocol, always the same object.

        Raises `Unsupported` where this backend has none.
        """
        ...

    def lines(self, protocols: Iterable[type]) -> Sequence[SchemaLine]:
        """The tables that these ports need, in the order in which to make them."""
        ...

    async def open(self) -> None:
        """Connect. Raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then disconnect. Closing twice is fine."""
        ...

    async def clock_offset(self, clock: Clock) -> float | None:
        """By how many seconds the store's own clock is ahead of `clock`; 0 if it has none.

        None if its answer took so long that nobody knows.
        """
        ...

    def transaction(self) -> AbstractAsyncContextManager[StoreTransaction]:
        """A transaction: commits at the end of the block, rolls back if it raises.

        On cancellation it rolls back. Where the engine has a single writer, others wait meanwhile.
        """
        ...
