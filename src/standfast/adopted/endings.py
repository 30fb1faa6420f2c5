"""How one learns of the end of a transaction that somebody else will end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import ref


class Unknown:
    """An `Ending` that nobody here learns of: workers learn of the commit from the database."""

    known = False
    over = False

    def add(self, act: Callable[[], None], /) -> None:
        """See `Ending.add`: never called."""


class GivesItsTransaction(Protocol):
    """A ``Session`` or ``Connection`` of SQLAlchemy."""

    def get_transaction(self) -> Any:
        """The outermost one that is open."""
        ...


class StillOpen:
    """Asks a session or connection whether one of its transactions is open; keeps neither alive."""

    __slots__ = ("_source", "_transaction")

    def __init__(self, source: GivesItsTransaction, transaction: object) -> None:
        self._source = ref(source)
        self._transaction: ref[Any] = ref(transaction)

    def __call__(self) -> bool:
        """Whether it is: no more while what follows its commit is done."""
        source, transaction = self._source(), self._transaction()
        if source is None or transaction is None:
            return False
        return source.get_transaction() is transaction and bool(transaction.is_active)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StillOpen) and self._transaction == other._transaction

    __hash__ = None  # type: ignore[assignment]
