"""Those in this process who wait for a saga that runs in it too."""

from __future__ import annotations

import asyncio
from uuid import UUID

from standfast.saga.definition import Definition
from standfast.saga.state import SagaState


class Gone(Exception):
    """The instance left this process without an end: look for it in the store."""


class Watchers:
    """Futures by instance, each for one who waits."""

    def __init__(self) -> None:
        self._futures: dict[UUID, list[asyncio.Future[tuple[Definition, SagaState]]]] = {}

    def watch(self, id: UUID) -> asyncio.Future[tuple[Definition, SagaState]]:
        """How the instance stands when it has ended or parked. Raises `Gone`."""
        future: asyncio.Future[tuple[Definition, SagaState]]
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(id, []).append(future)
        return future

    def settled(self, id: UUID, definition: Definition, state: SagaState) -> None:
        """Tell those who wait that the instance ended or parked."""
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_result((definition, state))

    def forget(self, id: UUID) -> None:
        """Tell those who wait that the instance left this process."""
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_exception(Gone())
