"""Awaiting a coroutine in a context of its own, without a task of its own."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class InContext(Generic[T]):
    """Await it, and `coroutine` runs in `context`, in the task that awaits.

    Context variables that are set inside don't show outside, as with a task, but nothing has to go
    through the event loop for it.
    """

    __slots__ = ("_run", "cr_await")

    def __init__(self, context: Context, coroutine: Coroutine[Any, Any, T]) -> None:
        self._run = context.run
        self.cr_await: Coroutine[Any, Any, T] = coroutine
        """What it runs, named as a coroutine names it, for whoever looks for where a task is."""

    def __await__(self) -> Generator[Any, Any, T]:
        return cast("Generator[Any, Any, T]", self)  # it has all of a generator that await uses

    def __iter__(self) -> InContext[T]:
        return self

    def __next__(self) -> Any:
        return self._run(self.cr_await.send, None)

    def send(self, value: Any) -> Any:
        """Go on."""
        return self._run(self.cr_await.send, value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception, such as a cancellation."""
        return self._run(self.cr_await.throw, *error)

    def close(self) -> None:
        """End it where it is."""
        self._run(self.cr_await.close)
