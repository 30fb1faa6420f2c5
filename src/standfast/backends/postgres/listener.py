"""Hints from other processes: LISTEN on a connection of its own, which reconnects by itself."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, TypeAlias

from standfast.backends.postgres.errors import DRIVER_ERRORS
from standfast.backends.postgres.pool import Pool
from standfast.resilience.backoff import Exponential

_log = logging.getLogger(__name__)
_BACKOFF = Exponential(initial=0.1, maximum=5.0, jitter="equal")
_PROBE = 30.0
"""Seconds between looks whether the connection still answers."""

Hear: TypeAlias = Callable[[str | None], None]
"""Gets what was said, or None when something may have been missed."""


class Listener:
    """Passes the notifications of any number of channels on to callbacks, by one connection.

    It connects with the first subscription and disconnects with the last.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        pool.on_leaving(self._leave)
        self._lost = asyncio.Event()
        self._callbacks: dict[str, list[Hear]] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, channel: str, callback: Hear) -> Callable[[], None]:
        """Call back for what is said on `channel` until the function returned is called."""
        self._callbacks.setdefault(channel, []).append(callback)
        self._news.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._listen(), name="standfast-listen"
            )

        def unsubscribe() -> None:
            callbacks = self._callbacks.get(channel, [])
            if callback in callbacks:
                callbacks.remove(callback)
            if not callbacks:
                self._callbacks.pop(channel, None)
            if not self._callbacks and self._task is not None:
                self._task.cancel()
                self._task = None

        return unsubscribe

    async def close(self) -> None:
        """End all subscriptions."""
        self._callbacks.clear()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _listen(self) -> None:
        attempt, delay = 0, 0.0
        while True:
            try:
                connection = await self._pool.connect()
            except DRIVER_ERRORS as error:
                attempt += 1
                # Whoever writes next is told; here it only means that no hints come.
                _log.debug("can't listen at %s yet: %s", self._pool.place, error)
                delay = _BACKOFF.delay(attempt, delay, random.random())  # noqa: S311 - only jitter
                await asyncio.sleep(delay)
                continue
            try:
                await self._stay(connection)
                attempt = 0
            except DRIVER_ERRORS as error:
                attempt += 1
                _log.debug("listening at %s ended: %s", self._pool.place, error)
            finally:
                connection.terminate()
            await asyncio.sleep(_BACKOFF.delay(max(1, attempt), 0.0, random.random()))  # noqa: S311

    def _leave(self, _: Any = None) -> None:
        """The connection is gone, or leads to the wrong server: take another."""
        self._lost.set()
        self._news.set()

    async def _stay(self, connection: Any) -> None:
        self._lost.clear()
        connection.add_termination_listener(self._leave)
        heard: set[str] = set()
        while not self._lost.is_set():
            self._news.clear()
            for channel in [name for name in self._callbacks if name not in heard]:
                heard.add(channel)
                await connection.add_listener(channel, self._heard)
                # What was said while nobody listened is gone.
                self._tell(channel, None)
            try:
                async with asyncio.timeout(_PROBE):
                    await self._news.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")

    def _heard(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        self._tell(channel, payload)

    def _tell(self, channel: str, payload: str | None) -> None:
        for callback in tuple(self._callbacks.get(channel, ())):
            try:
                callback(payload)
            except Exception:  # noqa: BLE001 - see the comment
                # The callback's own fault, and no reason to stop listening for the others.
                _log.exception("a callback for hints on %r failed", channel)
