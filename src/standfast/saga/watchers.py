"""In-process waiting for a saga that runs in the same process."""

from __future__ import annotations

import asyncio
from uuid import UUID

from standfast.saga.definition import Definition
from standfast.saga.state import SagaState


class Gone(Exception):
    """The instance left this process without an end: look for it in the store."""


class Watchers:
    """In-process futures waiting for an instance to settle, by instance."""

    def __init__(self) -> None:
        self._futures: dict[UUID, list[asyncio.Future[tuple[Definition, SagaState]]]] = {}

    def watch(self, id: UUID) -> asyncio.Future[tuple[Definition, SagaState]]:
        """A future of how the instance stands once it has ended or parked. It may raise `Gone`."""
        future: asyncio.Future[tuple[Definition, SagaState]]
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(id, []).append(future)
        return future

    def settled(self, id: UUID, definition: Definition, state: SagaState) -> None:
        """Resolve the futures of an instance that ended or parked."""
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_result((definition, state))

    def forget(self, id: UUID) -> None:
        """Fail the futures of an instance that left this process, with `Gone`."""
        for future in self._futures.pop(id, ()):
            if not future.done():
                future.set_exception(Gone())
