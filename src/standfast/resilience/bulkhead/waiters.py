"""Who waits for a permit: a task in its event loop, or a thread."""

from __future__ import annotations

import asyncio
import threading


class ThreadWaiter:
    """A thread that waits."""

    __slots__ = ("event", "has_permit")

    def __init__(self) -> None:
        self.event = threading.Event()
        self.has_permit = False

    def wake(self) -> bool:
        """Tell it to look."""
        self.event.set()
        return True


class TaskWaiter:
    """A task that waits in its own event loop, woken from any thread."""

    __slots__ = ("expired", "future", "has_permit", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.expired = self.has_permit = False
        self.again()

    def again(self) -> None:
        """Be about to wait, once more."""
        self.future: asyncio.Future[None] = self.loop.create_future()

    def wake(self) -> bool:
        """Tell it to look, as soon as its loop runs. False if that is closed."""
        try:
            self.loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            return False
        return True

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Handed:
    """Permits that were handed to tasks which haven't taken them up yet.

    A task's event loop may stop just then, and the permit with it. Whoever holds the bulkhead's
    lock may call these.
    """

    __slots__ = ("_to",)

    def __init__(self) -> None:
        self._to: dict[TaskWaiter, None] = {}

    def give(self, waiter: TaskWaiter | ThreadWaiter) -> bool:
        """Let `waiter` have a permit. False if it can't take one up: it will wait again."""
        if isinstance(waiter, TaskWaiter):
            if not waiter.loop.is_running():  # it may stand still for ever
                return False
            self._to[waiter] = None
        waiter.has_permit = True
        return True

    def take_up(self, waiter: TaskWaiter) -> bool:
        """`waiter` looks; whether it has a permit."""
        self._to.pop(waiter, None)
        return waiter.has_permit

    def take_back(self, waiter: TaskWaiter | ThreadWaiter) -> bool:
        """Whether `waiter` had a permit, which it has no more."""
        if isinstance(waiter, TaskWaiter):
            self._to.pop(waiter, None)
        had, waiter.has_permit = waiter.has_permit, False
        return had

    def stranded(self) -> list[TaskWaiter]:
        """Those whose loops stand still by now.

        The one that has its permit longest is asked: others take theirs up in no time.
        """
        for oldest in self._to:
            if oldest.loop.is_running():
                break
            return [waiter for waiter in self._to if not waiter.loop.is_running()]
        return []
