"""An ``async with`` block that sync code keeps open in an event loop."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from standfast.stepping import nest

T = TypeVar("T")

_ending: set[asyncio.Task[Any]] = set()
"""Those whose end nobody waits for: a loop itself doesn't keep its tasks."""


class Block(Generic[T]):
    """A block that is entered and left by one task of the loop, as much of what is async demands.

    Its methods are for that loop. The task lives in the context of whoever entered, `nested` where
    that is inside a transaction.
    """

    def __init__(self, manager: AbstractAsyncContextManager[T], *, nested: bool = False) -> None:
        self._manager = manager
        self._nested = nested
        self._task: asyncio.Task[bool | None] | None = None
        self._raised: BaseException | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is something to leave, or to abandon."""
        return self._task is not None and not self._task.done()

    async def enter(self) -> T:
        """What the block gives. Raises what entering raises."""
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[T] = loop.create_future()
        self._leaving: asyncio.Future[BaseException | None] = loop.create_future()
        task = self._task = loop.create_task(self._outcome())
        either: set[asyncio.Future[Any]] = {task, self._entered}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.abandon()
            raise
        if not self._entered.done():
            self._check()  # raises, else it has been entered
        return self._entered.result()

    async def leave(self, error: BaseException | None) -> bool | None:
        """Leave it, with the error that ended the block; whether that is to be dropped.

        One that was never entered, or is over already, is left as it is.
        """
        if self._task is None or self._task.done():
            return None
        if not self._entered.done():
            await self.abandon()
            return None
        if not self._leaving.done():
            self._leaving.set_result(error)
        drops = await self._task
        del self._leaving  # its error's traceback may hold whoever holds this
        self._check()
        return drops

    def _check(self) -> None:
        """Raise what the block raised, once."""
        error, self._raised = self._raised, None
        try:
            if error is not None:
                raise error
        finally:
            del error

    async def abandon(self) -> None:
        """Cancel it, wherever it stands, and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def let_go(self) -> None:
        """As `abandon`, for sync code in that loop, which can't wait for its end."""
        if self._task is not None and self._task.cancel():
            _ending.add(self._task)
            self._task.add_done_callback(_ending.discard)

    async def _outcome(self) -> bool | None:
        try:
            return await self._live()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - of whoever waits, and no end of this loop
            self._raised = error
            return None

    async def _live(self) -> bool | None:
        manager = self._manager
        if self._nested:
            nest()
        self._entered.set_result(await manager.__aenter__())
        try:
            error = await self._leaving
        except asyncio.CancelledError as cancelled:
            await manager.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
            raise
        if error is None:
            return await manager.__aexit__(None, None, None)
        return await manager.__aexit__(type(error), error, error.__traceback__)


class KeptBlock(AbstractContextManager[None]):
    """A ``with`` block that is kept `among` others while it is open, whoever lets it go."""

    def __init__(self, manager: AbstractContextManager[None], among: set[KeptBlock]) -> None:
        self._manager = manager
        self._among = among

    def __enter__(self) -> None:
        self._manager.__enter__()
        self._among.add(self)

    def __exit__(self, *raised: Any) -> bool | None:
        self._among.discard(self)
        return self._manager.__exit__(*raised)


class TransactionBlock(AbstractContextManager[T]):
    """A ``with`` block whose transaction is what it gives, and is told apart from it."""

    def __init__(self, manager: AbstractContextManager[T]) -> None:
        self._manager = manager

    def __enter__(self) -> T:
        return self._manager.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:
        return self._manager.__exit__(*raised)

    if not TYPE_CHECKING:  # to type checkers, every name would be there

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"app.blocking.transaction() has no {name!r}, but the transaction that it begins: "
                "write `with app.blocking.transaction() as tx:`, and call that of tx in the block"
            )
