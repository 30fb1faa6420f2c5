"""Which transactions the running code is inside of, so that it can't wait for itself.

A write through the app needs the database's writer. Where there is one, inside a transaction's own
block it would wait for the end of the very block that waits for it; anywhere, it would stay though
the transaction is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar

from standfast.errors import ConfigurationError
from standfast.ports.database import Database


class OwnBlock:
    """Asks whether the block of one of the app's own transactions is open."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended: bool = False

    def __call__(self) -> bool:
        """Whether it is."""
        return not self.ended


class _Block:
    """A transaction, as what runs inside of it sees it, and the tasks that were begun there."""

    __slots__ = ("is_open", "outer", "owner")

    def __init__(self, owner: object, outer: _Block | None, is_open: Callable[[], bool]) -> None:
        self.owner: object = owner
        self.outer: _Block | None = outer
        self.is_open: Callable[[], bool] = is_open


_block: ContextVar[_Block | None] = ContextVar("standfast_transaction", default=None)
innermost: Callable[[], object | None] = _block.get
"""The innermost transaction that the running code may be inside of; None: it is in none."""


def forget_ended() -> _Block | None:
    """The innermost block that isn't over; those inside of it are forgotten."""
    found = block = _block.get()
    while block is not None and not block.is_open():
        block = block.outer
    if block is not found:
        _block.set(block)
    return block


def inside_while(owner: object, is_open: Callable[[], bool]) -> None:
    """From now on, what runs here is inside a transaction of `owner`, wherever that is ended.

    It is over, for `refuse_inside`, as soon as `is_open` says no. That must never be wrong in
    saying yes, must not keep the transaction open, and be equal for one and the same transaction.
    """
    block = _block.get()
    if block is not None and block.is_open is is_open:
        return  # as nearly always: it is quick to say again
    outer = block = forget_ended()
    while block is not None:
        if block.is_open == is_open:
            return
        block = block.outer
    _block.set(_Block(owner, outer, is_open))


def refuse_inside(database: Database, act: str, instead: str) -> None:
    """Raise `ConfigurationError` inside an open transaction of `database`."""
    if is_inside(database):
        raise ConfigurationError(
            f"can't {act} through the app inside its own transaction: use {instead}, which "
            "commits with it, or do it after its end"
        )


def refuse_second(database: Database) -> None:
    """Raise `ConfigurationError` inside an adopted transaction, where there is one writer."""
    if any(not isinstance(block.is_open, OwnBlock) for block in _open_blocks(database)):
        raise ConfigurationError(
            "can't begin a transaction through the app inside one that is adopted, for the "
            "database has one writer: use that (tx.start(…), tx.execute(…)), or do it after its end"
        )


def refuse_adopting(database: Database) -> None:
    """Raise `ConfigurationError` inside one of the app's own transactions of `database`."""
    if any(isinstance(block.is_open, OwnBlock) for block in _open_blocks(database)):
        raise ConfigurationError(
            "can't adopt a transaction inside one that the app has opened: they would be two, of "
            "which one may be committed without the other, and one may wait for the other for "
            "ever. Use the tx of the app's block for all (tx.start(…), tx.execute(…)), or adopt "
            "yours without opening another: before that block, or after its end"
        )


def is_inside(database: Database) -> bool:
    """Whether the running code is inside an open transaction of `database`."""
    return next(_open_blocks(database), None) is not None


def _open_blocks(database: Database) -> Iterator[_Block]:
    block = forget_ended()
    while block is not None:
        if block.owner is database and block.is_open():
            yield block
        block = block.outer
