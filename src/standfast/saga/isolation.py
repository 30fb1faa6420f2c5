"""What keeps the attempts of one saga apart: none sees what another left in its context."""

from __future__ import annotations

from asyncio import Task, current_task
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_MISSING = object()


class Isolation:
    """Gives each attempt of a saga the context of the worker, with nothing of earlier attempts.

    Hardly any attempt leaves something behind, and a context of its own is dear: it is entered anew
    each time that the attempt goes on. So an attempt has that of the task which drives its saga,
    and afterwards this one looks whether it is as it was. A variable can't be unset from outside:
    once something was left, all later attempts run in copies of what there was before, with what
    the engine itself has set since, such as an open transaction.

    What an attempt in a task of its own leaves ends with that task.
    """

    __slots__ = ("_before", "_left", "is_needed")

    def __init__(self) -> None:
        self._before: Context | None = None
        self._left: Context | None = None
        self.is_needed: bool = False
        """Whether an attempt must be `enclosed`, lest it see what others left."""

    def enclosed(self, attempt: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """The attempt, in a context of its own where it needs one."""
        return InContext(self.context(), attempt) if self.is_needed else attempt

    def look(self, before: Context, driver: Task[Any]) -> None:
        """Look at what an attempt left that has ended in this task, since its context was `before`.

        `driver` is the task that drives its saga.
        """
        after = copy_context()
        if not _is_same(before, after) and current_task() is driver:
            self._before, self._left, self.is_needed = before, after, True

    def context(self) -> Context:
        """A copy of this task's context, without what attempts left there."""
        current = copy_context()
        if self._before is None or self._left is None:
            return current
        context = self._before.copy()
        for variable, value in current.items():
            if self._left.get(variable, _MISSING) is not value:
                context.run(variable.set, value)
        return context


def _is_same(before: Context, after: Context) -> bool:
    # Where nothing was set they share their content, and this takes no time.
    try:
        return before == after
    except BaseException:  # noqa: BLE001 - raised by the user's `__eq__`, so they differ
        return False


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
