"""The savepoints of a transaction, whose blocks stand in each other and nowhere else.

A database has one stack of them for a transaction. So if two threads, or two tasks, were each in a
block of their own, what the one undoes would take with it what the other has written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from standfast.errors import ConfigurationError
from standfast.ports.database import StoreTransaction, savepoint
from standfast.stepping import entered_block


class Savepoints:
    """The blocks that are open in one transaction."""

    def __init__(self, store: StoreTransaction) -> None:
        self._store = store
        self._open: list[_Block] = []

    @asynccontextmanager
    async def block(self) -> AsyncIterator[None]:
        """A block: what is written in it is undone if it raises.

        Raises `ConfigurationError` where the last that is open is of a thread or a task that this
        one isn't part of, and where blocks inside it are still open at its end.
        """
        outer = entered_block.get()
        block = _Block(savepoint(self._store), outer)
        if self._open and not block.is_inside(self._open[-1]):
            raise ConfigurationError(
                "another thread or task is inside a savepoint of this transaction, so that either "
                "would undo what the other writes: let one end before the other begins, or use a "
                "transaction for each"
            )
        self._open.append(block)  # now: others may come while it is entered
        try:
            await block.manager.__aenter__()
        except BaseException:
            self._open.remove(block)
            raise
        entered_block.set(block)
        try:
            yield
        except BaseException as error:
            self._check_last(block)
            await self._leave(block, error)
            raise
        else:
            self._check_last(block)
            await self._leave(block, None)
        finally:
            if entered_block.get() is block:  # a generator may end in another context
                entered_block.set(outer)

    def _check_last(self, block: _Block) -> None:
        if self._open[-1] is not block:  # it stays there, and so is never undone in another's place
            raise ConfigurationError(
                "a savepoint is left while one inside it is open, which another thread or task "
                "has, or which was never left: let those end first. Roll this transaction back"
            )

    async def _leave(self, block: _Block, error: BaseException | None) -> None:
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        try:
            await block.manager.__aexit__(kind, error, trace)
        finally:
            self._open.remove(block)


class _Block:
    """A savepoint, as the code in its block sees it, and the tasks that were begun there."""

    __slots__ = ("manager", "outer")

    def __init__(self, manager: AbstractAsyncContextManager[None], outer: object | None) -> None:
        self.manager: AbstractAsyncContextManager[None] = manager
        self.outer: object | None = outer

    def is_inside(self, other: _Block) -> bool:
        """Whether it was begun in the block of `other`."""
        outer = self.outer
        while isinstance(outer, _Block) and outer is not other:
            outer = outer.outer
        return outer is other
