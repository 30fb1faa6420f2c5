"""One call of sync code into an event loop that runs in another thread.

The loop itself is run by anyio's portal; calls don't go through it. Its `call` would block until
the end, whoever has given up the calling thread, and tells nobody of a loop that has ended; and a
call here is told that it is inside a transaction, and may go to a loop that no portal runs, where
the app is open already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from inspect import CORO_CREATED, getcoroutinestate
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from standfast.affinity import Affinity, running_loop
from standfast.errors import ConfigurationError, TimedOut
from standfast.resilience.deadline import telling_of_expiry
from standfast.stepping import nest

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


def carry_out(
    place: Affinity,
    coroutine: Coroutine[Any, Any, T],
    among: Calls | None = None,
    *,
    nested: bool = False,
) -> T:
    """Run a coroutine in a loop, with the caller's context variables; what it returns or raises.

    The calling thread is blocked meanwhile. If something interrupts it there, as Ctrl-C does, the
    coroutine is cancelled, and has some seconds to end.

    `among` are the calls that this one belongs to. It is then cancelled, too, once nobody waits for
    the calling thread any more: a `Timeout` around it has ended, say, or the saga has given up the
    step that calls. Then `TimedOut` is raised, as it is at once where that had happened before.

    `nested`: the caller is inside a transaction, so what would wait for its end is a `StoreError`.

    Raises `ConfigurationError` in the loop's own thread, in a process that was forked from the
    loop's, and where the loop ends before the coroutine has.
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
    if among is None:  # what ends something, and must be done in any case
        return _Call(coroutine, place, Calls(), nested=nested).wait()
    call = _Call(coroutine, place, among, nested=nested)
    with telling_of_expiry(call.let_go):
        return call.wait()


class _Call(Generic[T]):
    def __init__(
        self, coroutine: Coroutine[Any, Any, T], place: Affinity, calls: Calls, *, nested: bool
    ) -> None:
        self._coroutine = coroutine
        self._place = place
        self._tasks = calls.tasks
        self._nested = nested
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._is_over = False
        self._is_let_go = False
        # Of all that wakes a thread up, it costs least.
        self._outcome: SimpleQueue[tuple[T | None, BaseException | None] | None] = SimpleQueue()

    def wait(self) -> T:
        """Block until it is done."""
        try:
            outcome = self._waited() if self._is_let_go or self._post(self._begin) else None
            if outcome is None and self._is_let_go:
                raise TimedOut(
                    "app.blocking was called in a thread that nobody waits for any more, as the "
                    "attempt of a saga's step was given up, or a Timeout has ended: what wasn't "
                    "begun isn't done, and what was begun is cancelled"
                )
        except BaseException:  # Ctrl-C in the waiting thread, say
            self._give_up()
            raise
        if outcome is None:
            if getcoroutinestate(self._coroutine) == CORO_CREATED:
                self._coroutine.close()  # else Python says that nobody awaited it
            raise ConfigurationError(
                "app.blocking was closed, or its event loop ended, during a call: whether that has "
                "had its effect isn't known. Close it after the last call has returned"
            )
        result, error = outcome
        del outcome  # it, and below the error, or the traceback would hold what holds it
        if error is not None:
            try:
                raise error
            finally:
                del error
        return result  # type: ignore[return-value]  # without an error it is one

    def let_go(self) -> None:
        """Nobody waits for the calling thread any more."""
        self._is_let_go = True
        self._outcome.put(None)

    def _waited(self) -> tuple[T | None, BaseException | None] | None:
        while True:
            try:
                return self._outcome.get(timeout=LOOKS_EVERY)
            except Empty:
                if not self._place.loop.is_running():
                    return None

    def _give_up(self) -> None:
        """Cancel it, and wait for its end: it may hold what the caller uses next."""
        self._given_up = True
        if not self._is_over and self._post(self._cancel):
            with suppress(Empty):
                self._outcome.get(timeout=ENDS_WITHIN)

    def _post(self, act: Callable[[], None]) -> bool:
        """Have the loop call `act`, with the caller's context variables, unless it is closed."""
        try:
            self._place.loop.call_soon_threadsafe(act)
        except RuntimeError:
            return False
        return True

    def _begin(self) -> None:
        if not self._given_up:
            self._task = self._place.loop.create_task(self._run())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self._outcome.put(None)

    async def _run(self) -> None:
        task = self._task
        assert task is not None
        outcome: tuple[T | None, BaseException | None] | None = None
        self._tasks[task] = self._place
        if self._nested:
            nest()
        try:
            outcome = await self._coroutine, None
        except asyncio.CancelledError:
            pass  # told by the outcome that there is none
        except BaseException as error:  # noqa: BLE001 - the caller's, and no end of this loop
            outcome = None, error
        finally:
            self._tasks.pop(task, None)
        self._is_over = True
        self._outcome.put(outcome)
        del outcome  # its traceback may hold this frame
