"""One call of sync code into an event loop that runs in another thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from asyncio import AbstractEventLoop
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from standfast.affinity import running_loop
from standfast.errors import ConfigurationError

T = TypeVar("T")

LOOKS_EVERY = 1.0
"""Seconds between two looks whether the loop that is waited for still runs."""
ENDS_WITHIN = 5.0
"""Seconds that what was cancelled may take to end."""


def carry_out(loop: AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in `loop`, with the caller's context variables; what it returns or raises.

    The calling thread is blocked meanwhile. What interrupts it there, as Ctrl-C does, cancels the
    coroutine, which has some seconds to end. Raises `ConfigurationError` in the loop's own thread,
    and where the loop ends before the coroutine has.
    """
    if running_loop() is loop:
        coroutine.close()
        raise ConfigurationError(
            "app.blocking was called in the app's own event loop, which would wait for itself for "
            "ever: await the app's own method there (await app.start(…)), or call this from "
            "another thread (asyncio.to_thread)"
        )
    return _Call(coroutine).wait(loop)


class _Call(Generic[T]):
    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._given_up = False

    def wait(self, loop: AbstractEventLoop) -> T:
        """Block until it is done."""
        running = self._run()
        try:
            future = asyncio.run_coroutine_threadsafe(running, loop)
            result, error = self._outcome(future, loop)
        except (RuntimeError, concurrent.futures.CancelledError) as gone:
            self._forget(running)
            raise ConfigurationError(
                "app.blocking was closed, or its event loop ended, during a call: whether that has "
                "had its effect isn't known. Close it after the last call has returned"
            ) from gone
        except BaseException:
            self._given_up = True
            self._end(loop)
            raise
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # without an error it is one

    def _outcome(
        self, future: concurrent.futures.Future[tuple[T | None, BaseException | None]], loop: Any
    ) -> tuple[T | None, BaseException | None]:
        while True:
            try:
                return future.result(LOOKS_EVERY)
            except TimeoutError:
                if not loop.is_running():
                    raise concurrent.futures.CancelledError from None

    async def _run(self) -> tuple[T | None, BaseException | None]:
        self._task = asyncio.current_task()
        if self._given_up:
            self._coroutine.close()
            return None, None
        try:
            return await self._coroutine, None
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the caller's, and no end of this loop
            return None, error

    def _end(self, loop: AbstractEventLoop) -> None:
        """Cancel it, and wait for its end: it may hold what the caller uses next."""
        ending = self._cancelled()
        with suppress(RuntimeError, TimeoutError, concurrent.futures.CancelledError):
            asyncio.run_coroutine_threadsafe(ending, loop).result(ENDS_WITHIN)
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
