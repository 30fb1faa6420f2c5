"""What all adopted transactions have in common: statements in, rows out, errors in our terms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

from standfast.adopted.rows import named_rows
from standfast.backends.control import refuse_control
from standfast.errors import StandfastError, StoreError
from standfast.ports.database import Row, Script, Statement, answered
from standfast.ports.providing import Dialect

T = TypeVar("T")

OF_PYTHON = (ValueError, OverflowError, TypeError)
"""What drivers let through, or raise themselves, for what they can't send: text that isn't UTF-8,
or holds NUL; integers beyond 64 bits; what JSON hasn't."""


class Answer(NamedTuple):
    """What a driver answered a statement with: `names` of the columns, rows, how many it touched.

    `touched` is -1, or 0, where it doesn't say.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    touched: int


class RidingTransaction(ABC):
    """A `StoreTransaction` on what somebody else opened and will end.

    A driver's says how one statement is run (`ask`), and what its errors mean (`translate`). Where
    `blocking`, `ask` never waits for an event loop, and so nothing here does.
    """

    dialect: Dialect
    blocking: bool
    place: str
    """The database, as errors tell it."""
    of_user: Exception | None = None
    """What code of the user's raised that a statement called, as a hook: it stays as it is."""

    @abstractmethod
    async def ask(self, sql: str, args: Sequence[Any], *, own: bool) -> Answer:
        """Run a statement in ``$1, $2 …``. `own`: it is the library's, not the user's.

        Raises `StoreError` once the transaction is over.
        """

    async def touch(self, sql: str, args: Sequence[Any], *, own: bool) -> int:
        """As `ask`, for how many rows the statement touched."""
        return max((await self.ask(sql, args, own=own)).touched, 0)

    @abstractmethod
    def translate(self, error: Exception, *, own: bool) -> StandfastError | None:
        """What an error of the driver means, None for what isn't the driver's."""

    async def execute(self, sql: str, *args: Any) -> int:
        """See `StoreTransaction.execute`."""
        refuse_control(sql, self.dialect)
        try:
            return await self.touch(sql, args, own=False)
        except Exception as error:  # noqa: BLE001 - raised anew
            self.tell(error, own=False)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """See `StoreTransaction.fetch`."""
        answer = await self._asked(sql, args)
        return named_rows(answer.names, answer.rows)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """See `StoreTransaction.fetch_one`."""
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `StoreTransaction.fetch_value`."""
        rows = (await self._asked(sql, args)).rows
        return rows[0][0] if rows else None

    async def run_script(self, script: Script[T]) -> T:
        """See `RunsScripts.run_script`."""
        return await answered(script, self._answer)

    async def _answer(self, statement: Statement) -> Sequence[Sequence[Any]]:
        sql, args, many = statement
        try:
            if many:
                return [(sum([await self.touch(sql, one, own=True) for one in args]),)]
            rows = (await self.ask(sql, args, own=True)).rows
            return _as_text(rows) if self.dialect == "postgresql" else rows
        except Exception as error:  # noqa: BLE001 - raised anew
            self.tell(error, own=True)

    async def _asked(self, sql: str, args: Sequence[Any]) -> Answer:
        refuse_control(sql, self.dialect)
        try:
            return await self.ask(sql, args, own=False)
        except Exception as error:  # noqa: BLE001 - raised anew
            self.tell(error, own=False)

    def tell(self, error: Exception, *, own: bool) -> NoReturn:
        """Raise what an error means, or the error itself."""
        if isinstance(error, StandfastError):
            raise error
        told = self.translate(error, own=own)
        if told is None and isinstance(error, OF_PYTHON) and error is not self.of_user:
            told = StoreError(f"{self.place}: {error}")
        if told is None:
            raise error
        raise told from error


def _as_text(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Rows of the library's own on PostgreSQL, none of which holds bytes.

    psycopg makes bytes of text where the connection's encoding is SQL_ASCII.
    """
    if not any(isinstance(value, bytes) for row in rows for value in row):
        return rows
    return [[one.decode() if isinstance(one, bytes) else one for one in row] for row in rows]
