"""Hints that something may have changed in the file, for those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from standfast.errors import StoreError
from standfast.resilience.deadline import without_deadline

Topic: TypeAlias = Literal["due", "freed"]
log = logging.getLogger("standfast.sqlite")
_POLL = 0.05
"""Seconds between looks for commits of other processes, while somebody has subscribed."""


class Hints:
    """Calls back when another process has committed anything, or when told to.

    `data_version` asks for the number that changes by the commits of others. One task looks at it
    for all who have subscribed.
    """

    def __init__(self, data_version: Callable[[], Awaitable[int]]) -> None:
        self._data_version = data_version
        self._subscriptions: dict[object, tuple[Topic, Callable[[], None]]] = {}
        self._poll: asyncio.Task[None] | None = None

    def subscribe(self, topic: Topic, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back from now on. Returns a function that ends it."""
        subscription = object()
        self._subscriptions[subscription] = (topic, callback)
        if self._poll is None:
            with without_deadline():  # it is for all who subscribe
                self._poll = asyncio.get_running_loop().create_task(self._watch())

        def unsubscribe() -> None:
            self._subscriptions.pop(subscription, None)
            if not self._subscriptions and self._poll is not None:
                self._poll.cancel()
                self._poll = None

        return unsubscribe

    def tell(self, topic: Topic) -> None:
        """Call those back, soon, who wait for that: this process itself has done it."""
        if self._subscriptions:
            asyncio.get_running_loop().call_soon(self._call, topic)

    async def close(self) -> None:
        """End all subscriptions."""
        self._subscriptions.clear()
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await poll

    async def _watch(self) -> None:
        version = None
        while True:
            try:
                seen = await self._data_version()
            except StoreError:
                seen = None  # Whoever writes next gets this error; here it only means no hint.
            if seen is not None and seen != version:
                if version is not None:
                    self._call(None)
                version = seen
            await asyncio.sleep(_POLL)

    def _call(self, topic: Topic | None) -> None:
        for its_topic, callback in tuple(self._subscriptions.values()):
            if topic is None or its_topic == topic:
                try:
                    callback()
                except Exception:
                    # Its own fault, and no reason to leave the others without hints.
                    log.exception("a callback for hints failed")
