"""In-process waiting for a saga that runs in the same process: for its end, or for any change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from standfast.saga.definition import Definition
from standfast.saga.state import SagaState


class Gone(Exception):
    """The instance left this process without an end: look for it in the store."""


class Watchers:
    """Who waits in this process, by instance: for how it settles, or for any change."""

    def __init__(self) -> None:
        self._followers: dict[UUID, list[asyncio.Event]] = {}
        self._futures: dict[UUID, list[asyncio.Future[tuple[Definition, SagaState]]]] = {}

    def watch(self, id: UUID) -> asyncio.Future[tuple[Definition, SagaState]]:
        """A future of how the instance stands once it has ended or parked. It may raise `Gone`."""
        future: asyncio.Future[tuple[Definition, SagaState]]
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(id, []).append(future)
        return future

    @contextmanager
    def follow(self, id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set at each change of the instance here; the follower clears it."""
        news = asyncio.Event()
        self._followers.setdefault(id, []).append(news)
        try:
            yield news
        finally:
            followers = self._followers[id]
            followers.remove(news)
            if not followers:
                del self._followers[id]

    def changed(self, id: UUID) -> None:
        """Tell those that follow an instance that something of it was stored, or that it left."""
        if self._followers:  # hardly anybody follows
            for news in self._followers.get(id, ()):
                news.set()

    def settled(self, id: UUID, definition: Definition, state: SagaState) -> None:
        """Resolve the futures of an instance that ended or parked."""
        self.changed(id)
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_result((definition, state))

    def forget(self, id: UUID) -> None:
        """Fail the futures of an instance that left this process, with `Gone`."""
        self.changed(id)
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_exception(Gone())
