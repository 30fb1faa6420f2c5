"""Which transactions the running code is inside of, so that it can't wait for itself.

A write through the app needs the database's writer. Where there is one, inside a transaction's own
block it would wait for the end of the very block that waits for it; anywhere, it would stay though
the transaction is rolled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from standfast.errors import ConfigurationError


class Block:
    """The block of a transaction, as the tasks begun inside see it."""

    __slots__ = ("outer", "over", "owner")

    def __init__(self, owner: object, outer: Block | None) -> None:
        self.owner: object = owner
        self.outer: Block | None = outer
        self.over: bool = False


_block: ContextVar[Block | None] = ContextVar("standfast_transaction", default=None)


@contextmanager
def transaction_open(owner: object) -> Iterator[None]:
    """The block of a transaction of `owner`, for `refuse_inside`."""
    block = Block(owner, _block.get())
    _block.set(block)
    try:
        yield
    finally:
        # Tasks begun inside may still see it, and a generator may end in another context.
        block.over = True
        if _block.get() is block:
            _block.set(block.outer)


def refuse_inside(owner: object, act: str, instead: str) -> None:
    """Raise `ConfigurationError` inside an open transaction of `owner`."""
    block = _block.get()
    while block is not None:
        if block.owner is owner and not block.over:
            raise ConfigurationError(
                f"can't {act} through the app inside its own transaction: use {instead}, which "
                "commits with it, or do it after the block"
            )
        block = block.outer
