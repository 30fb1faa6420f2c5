"""One source for async and sync code: a coroutine that never has to wait is run where it stands.

What patterns write inside a transaction is decided by coroutines that wait for nothing but the
transaction's own statements. Over a driver that blocks, each of these is done when it answers, so
the whole coroutine ends without an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from standfast.errors import ConfigurationError

T = TypeVar("T")

entered_block: ContextVar[object | None] = ContextVar("standfast_block", default=None)
"""The innermost block of those that `entered` enters for sync code, that the code is inside of."""

_nested: ContextVar[asyncio.Task[Any] | None] = ContextVar("standfast_nested", default=None)


class Complete(Protocol):
    """Carries coroutines out for sync code: `step`, or the event loop of another thread."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Answer what `coroutine` returns, or raise what it raises."""
        ...


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends; what it returns or raises.

    Raises `RuntimeError` for one that would have to wait for an event loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for an event loop, and here is none")


def nest() -> None:
    """Say that the running task works for code that is inside a transaction, and waits for it.

    So where the database has one writer, that code may have it, and this task would wait for ever.
    """
    _nested.set(asyncio.current_task())


nested: Callable[[], asyncio.Task[Any] | None] = _nested.get
"""The task that has said so, in this context; None where none has. To be asked on hot paths."""


def is_nested() -> bool:
    """Whether the running task has said so; tasks that it began may wait for the writer."""
    task = _nested.get()
    return task is not None and task is asyncio.current_task()


@contextmanager
def entered(complete: Complete, block: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """An ``async with`` block for sync code, which is then the `entered_block` there, too."""
    manager, outer = block(), entered_block.get()
    value, inner = complete(_enter(manager))
    entered_block.set(inner)
    try:
        yield value
    except BaseException as error:
        if not complete(_leave(manager, error)):
            raise
    else:
        complete(_leave(manager, None))
    finally:
        if entered_block.get() is inner:  # a generator may end in another context
            entered_block.set(outer)


async def _enter(manager: AbstractAsyncContextManager[T]) -> tuple[T, object | None]:
    return await manager.__aenter__(), entered_block.get()


async def _leave(
    manager: AbstractAsyncContextManager[Any], error: BaseException | None
) -> bool | None:
    if error is None:
        return await manager.__aexit__(None, None, None)
    return await manager.__aexit__(type(error), error, error.__traceback__)


def iterated(complete: Complete, source: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
    """An async iterator for sync code. Raises what `source` raises, at once.

    One that isn't gone through to its end is closed by its event loop when it is let go. A step
    after that loop has ended raises `ConfigurationError`.
    """
    return _steps(complete, source())


def _steps(complete: Complete, iterator: AsyncIterator[T]) -> Iterator[T]:
    end: Any = object()
    while (item := complete(_next(iterator, end))) is not end:
        yield item


async def _next(iterator: AsyncIterator[T], end: T) -> T:
    if getattr(iterator, "ag_frame", iterator) is None:  # else it would be taken for its end
        raise ConfigurationError(
            "app.blocking was closed, or its event loop ended, while this iterator was in use, so "
            "that what was to follow is missing: close it after the last step, and begin anew"
        )
    return await anext(iterator, end)
