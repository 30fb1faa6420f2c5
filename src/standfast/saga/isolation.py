"""What keeps the attempts of one saga apart: none sees what another left in its context."""

from __future__ import annotations

from asyncio import Task, current_task
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_MISSING = object()


class Isolation:
    """Keeps attempts from what an earlier one of their saga left in its context.

    Hardly any attempt leaves something behind, and a context of its own is dear: it is entered anew
    each time that the attempt goes on. So an attempt has that of the task which drives its saga,
    and afterwards `look` compares this one with what it was. A variable can't be unset from
    outside: once something was left, all later attempts run in copies of what there was before,
    with what the engine itself has set since, such as an open transaction.
    """

    __slots__ = ("_before", "_left")

    def __init__(self, before: Context, left: Context) -> None:
        self._before = before
        self._left = left

    def enclosed(self, attempt: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """The attempt, in a context of its own."""
        return InContext(self.context(), attempt)

    def context(self) -> Context:
        """A copy of this task's context, without what was left there."""
        context = self._before.copy()
        for variable, value in copy_context().items():
            if self._left.get(variable, _MISSING) is not value:
                context.run(variable.set, value)
        return context


def look(before: Context, driver: Task[Any]) -> Isolation | None:
    """What later attempts need, if the one that has just ended in this task left something.

    `before` is what its context was, and `driver` the task that drives its saga: what one in a task
    of its own leaves ends with that.
    """
    after = copy_context()
    try:
        # Where nothing was set they share their content, and this takes no time.
        if before == after:
            return None
    except BaseException:  # noqa: BLE001, S110 - of the user's `__eq__`, so they differ
        pass
    return Isolation(before, after) if current_task() is driver else None


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
