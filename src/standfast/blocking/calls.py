"""One call of sync code into an event loop that runs in another thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from standfast.affinity import Affinity, running_loop
from standfast.errors import ConfigurationError

T = TypeVar("T")

LOOKS_EVERY = 1.0
"""Seconds between two looks whether the loop that is waited for still runs."""
ENDS_WITHIN = 5.0
"""Seconds that what was cancelled may take to end."""


class Calls:
    """The calls in flight, wherever they are."""

    def __init__(self) -> None:
        self.tasks: dict[asyncio.Task[Any], Affinity] = {}

    def cancel(self) -> None:
        """Cancel all, and wait for their end. Raises `ConfigurationError` in a loop of theirs."""
        for place in set(self.tasks.copy().values()):
            if place.loop.is_running():
                carry_out(place, self._cancelled(place))

    async def _cancelled(self, place: Affinity) -> None:
        tasks = {task for task, its_place in self.tasks.copy().items() if its_place is place}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDS_WITHIN)


def carry_out(place: Affinity, coroutine: Coroutine[Any, Any, T], among: Calls | None = None) -> T:
    """Run a coroutine in a loop, with the caller's context variables; what it returns or raises.

    The calling thread is blocked meanwhile. What interrupts it there, as Ctrl-C does, cancels the
    coroutine, which has some seconds to end. Raises `ConfigurationError` in the loop's own thread,
    in a process that was forked from the loop's, and where the loop ends before the coroutine has.
    """
    if running_loop() is place.loop:
        coroutine.close()
        raise ConfigurationError(
            "app.blocking was called in the app's own event loop, which would wait for itself for "
            "ever: await the app's own method there (await app.start(…)), or call this from "
            "another thread (asyncio.to_thread)"
        )
    if place.inherited:
        coroutine.close()
        place.refuse()
    return _Call(coroutine, place, among or Calls()).wait()


class _Call(Generic[T]):
    def __init__(self, coroutine: Coroutine[Any, Any, T], place: Affinity, calls: Calls) -> None:
        self._coroutine = coroutine
        self._place = place
        self._tasks = calls.tasks
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False

    def wait(self) -> T:
        """Block until it is done."""
        running = self._run()
        try:
            future = asyncio.run_coroutine_threadsafe(running, self._place.loop)
            result, error = self._outcome(future)
        except (RuntimeError, concurrent.futures.CancelledError) as gone:
            self._forget(running)
            raise ConfigurationError(
                "app.blocking was closed, or its event loop ended, during a call: whether that has "
                "had its effect isn't known. Close it after the last call has returned"
            ) from gone
        except BaseException:
            self._given_up = True
            self._end()
            raise
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error it is one

    def _outcome(
        self, future: concurrent.futures.Future[tuple[T | None, BaseException | None]]
    ) -> tuple[T | None, BaseException | None]:
        while True:
            try:
                return future.result(LOOKS_EVERY)
            except TimeoutError:
                if not self._place.loop.is_running():
                    raise concurrent.futures.CancelledError from None

    async def _run(self) -> tuple[T | None, BaseException | None]:
        task = self._task = asyncio.current_task()
        assert task is not None
        if self._given_up:
            self._coroutine.close()
            return None, None
        self._tasks[task] = self._place
        try:
            return await self._coroutine, None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the caller's, and no end of this loop
            return None, error
        finally:
            self._tasks.pop(task, None)

    def _end(self) -> None:
        """Cancel it, and wait for its end: it may hold what the caller uses next."""
        ending = self._cancelled()
        with suppress(RuntimeError, TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(ending, self._place.loop).result(ENDS_WITHIN)
        ending.close()

    async def _cancelled(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _forget(self, running: Coroutine[Any, Any, Any]) -> None:
        """Drop what never ran, without a warning that it was never awaited."""
        if self._task is None:
            running.close()
            self._coroutine.close()
