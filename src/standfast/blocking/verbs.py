"""The verbs of `app` for sync code.

Written by tools/blocking_twins.py from `AppDoors`: `make twins`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, overload
from uuid import UUID

from standfast.doors.app import AppDoors
from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.durations import Duration
from standfast.saga import Change, SagaHandle
from standfast.saga.saga import I, S, SagaClass
from standfast.stepping import Complete, iterated


class BlockingVerbs:
    """What an app does with its patterns, for sync code."""

    def __init__(self, app: AppDoors, complete: Complete) -> None:
        self._app = app
        self._complete = complete

    @overload
    def start(
        self,
        saga: SagaClass[I, S],
        input: I,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[S]: ...

    @overload
    def start(
        self,
        saga: str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[Any]: ...

    def start(
        self,
        saga: Any,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[Any]:
        """Start a saga in a transaction of its own; idempotent by (saga, key).

        Starting again with the same key and input answers with the one there is, running or
        finished (``handle.created`` tells which). `at` (a datetime with a time zone) or `after`
        (seconds or text, from now) let it begin later: until then it is ``"waiting"``, and can be
        cancelled and signalled. Its `deadline` counts from its beginning. The time isn't part of
        what makes two starts the same, so the first one's stays.

        Raises `SagaConflict` for another input, `ConfigurationError` for a saga that isn't added, a
        wrong type of input, a key that can't be stored, a time without a zone, or inside this app's
        own transaction (`BlockingTransaction.start` is for there), `CodecError`,
        `StoreUnavailable`.
        """
        return BlockingSagaHandle(
            self._complete(
                self._app.start(
                    saga, input, key=key, correlation_id=correlation_id, at=at, after=after
                )
            ),
            self._complete,
        )

    @overload
    def saga(self, saga: type[S], key: str) -> BlockingSagaHandle[S]: ...

    @overload
    def saga(self, saga: str, key: str) -> BlockingSagaHandle[Any]: ...

    def saga(self, saga: Any, key: str) -> BlockingSagaHandle[Any]:
        """The instance that was started with `key`. Raises `SagaNotFound`."""
        return BlockingSagaHandle(self._complete(self._app.saga(saga, key)), self._complete)

    def handle(self, id: UUID | str) -> BlockingSagaHandle[Any]:
        """A handle by id; nothing is looked up until it is used.

        Raises `ConfigurationError` for text that isn't an id.
        """
        return BlockingSagaHandle(self._app.handle(id), self._complete)

    def progress(
        self,
        saga: BlockingSagaHandle[Any] | SagaHandle[Any] | UUID | str,
        *,
        after: int = 0,
        timeout: Duration | None = None,
    ) -> Iterator[Change]:
        """Follow a saga: what came to its timeline, change by change, until it is at rest.

        ::

            for change in app.blocking.progress(handle):
                print(change.status, *(entry.text for entry in change.entries))

        The first change comes at once and tells what happened until now, or since the change whose
        `number` is `after`, the last that you have. So whoever comes back misses nothing, and is
        told no entry twice. An `after` that it hasn't come to, another saga's say, is as 0. It ends
        with the change that says `at_rest`, and without one after `timeout` (seconds or text, by
        default none).

        Of a saga that is run in this process it learns at once; of one that is run elsewhere within
        half a second, and sooner where something changed just now. Changes that come close together
        are told as one. Who stops early closes it (`contextlib.closing`).

        Raises `SagaNotFound`, and `StoreUnavailable` while the database is away, with the first
        step of the iteration or a later one; `ConfigurationError` for wrong options at once.
        """
        return iterated(
            self._complete, lambda: self._app.progress(with_ids(saga), after=after, timeout=timeout)
        )
