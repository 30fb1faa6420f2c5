"""Blocks: which ``with`` statement a shared policy is leaving.

A policy is shared, so what a block must remember until its end can't stand in the policy, and
Python doesn't hand ``__exit__`` what ``__enter__`` returned. The task or the context variables tell
it only while a block ends where it began. A generator that is closed by the event loop, a fixture,
or a dependency of a web framework whose halves run in different threads does not. What stays the
same is the frame of the ``with`` statement: that is what a block is bound to.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from standfast.resilience.policy import Policy

T = TypeVar("T")
B = TypeVar("B")

# What enters and leaves blocks on behalf of the statement.
_BETWEEN = frozenset(
    (
        "contextlib",
        "standfast.resilience.blocks",
        "standfast.resilience.bulkhead.adaptive",
        "standfast.resilience.pipeline",
        "standfast.resilience.timeout",
    )
)


def statement() -> FrameType:
    """The frame of the ``with`` statement that is entering or leaving a policy."""
    frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to the caller's frame
    while frame.f_globals.get("__name__") in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    return frame


def iterated(frame: FrameType) -> bool:
    """Whether `frame` is an async generator that somebody iterates, and no context manager.

    Between its steps such a block guards nothing, and what runs then is its consumer.
    """
    if not frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
        return False
    driver = frame.f_back
    return driver is None or driver.f_globals.get("__name__") != "contextlib"


class OpenBlocks(Generic[B]):
    """The blocks of one policy that were entered and not left."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        # Per frame the last entered last, each with the thread or task that entered it.
        self._open: dict[FrameType, list[tuple[object, B]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def enter(self, block: B) -> None:
        """Remember `block` for the statement that is entering."""
        self._open.setdefault(statement(), []).append((_who(), block))

    def leave(self, *, any_will_do: bool) -> B:
        """The block of the statement that is leaving.

        One that was entered by hand, in another function, is found by its task or thread. Failing
        that, `any_will_do` says whether blocks are as good as each other; else there must be only
        one. Raises ``RuntimeError`` if it can't be told.
        """
        frame = statement()
        if frame not in self._open:
            found = self._find(any_will_do)
            if found is None:
                raise RuntimeError(
                    f"can't tell which of {len(self)} open blocks this is: it was entered in "
                    "another function and in another task or thread. Write `with` or `async with`, "
                    "or enter `policy.block()`, which is an object of that one block"
                )
            frame = found
        blocks = self._open[frame]
        _, block = blocks.pop()
        if not blocks:
            del self._open[frame]
        return block

    def _find(self, any_will_do: bool) -> FrameType | None:
        who, opened = _who(), list(self._open.items())
        for frame, blocks in reversed(opened):
            if blocks[-1][0] == who:
                return frame
        return opened[-1][0] if opened and (any_will_do or len(self) == 1) else None


def _who() -> object:
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:  # no event loop runs in this thread
        return threading.get_ident()


class AsyncBlocks(Policy, Generic[T]):
    """A policy that stands around ``async with`` blocks, each an object made by `block`."""

    __slots__ = ()

    _any_will_do = True
    _blocks: OpenBlocks[Any]

    async def __aenter__(self) -> T:
        block = self.block()
        entered: T = await block.__aenter__()
        self._blocks.enter(block)
        return entered

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._blocks.leave(any_will_do=self._any_will_do).__aexit__(kind, error, traceback)


class Blocks(AsyncBlocks[T]):
    """A policy that stands around ``with`` blocks too."""

    __slots__ = ()

    def __enter__(self) -> T:
        block = self.block()
        entered: T = block.__enter__()
        self._blocks.enter(block)
        return entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._blocks.leave(any_will_do=self._any_will_do).__exit__(kind, error, traceback)
