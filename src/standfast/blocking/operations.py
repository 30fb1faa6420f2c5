"""What operators do to sagas, for sync code.

Written by tools/blocking_twins.py from `Finding` and `Operations`: `make twins`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from standfast.doors.blocking_handle import BlockingSagaHandle, with_ids
from standfast.durations import Age, Duration
from standfast.ports.journal import Filter, Instance, Mail
from standfast.saga import events as ev
from standfast.saga.finding import Page
from standfast.saga.finding import Which as AsyncWhich
from standfast.saga.operations import Operations, Progress
from standfast.saga.pending import Pending
from standfast.saga.saga import Saga
from standfast.saga.step import Step
from standfast.saga.stuck_groups import StuckGroup
from standfast.saga.timeline import Timeline
from standfast.stepping import Complete, iterated

Which: TypeAlias = BlockingSagaHandle[Any] | AsyncWhich
"""One instance: a handle, an id, or text as `BlockingOperations.locate` takes."""

Where: TypeAlias = Filter | Which | Iterable[Which]
"""Which instances an act is for, as of `Operations`."""


class BlockingOperations:
    """All that an operator can do to sagas, for sync code, as ``app.blocking.operations``.

    The methods of `Operations`, without ``await``; what is an async iterator there is an iterator
    here.
    """

    def __init__(self, operations: Operations, complete: Complete) -> None:
        self._operations = operations
        self._complete = complete

    def select(
        self,
        *,
        name: type[Saga[Any]] | str = "",
        statuses: Sequence[str] = (),
        key: str = "",
        step: Step[Any, Any] | str = "",
        version: int | None = None,
        older_than: Age | None = None,
        newer_than: Age | None = None,
    ) -> Filter:
        """A filter. Raises `ConfigurationError`.

        `name` may be the saga's class, `step` a step of it, and `statuses` a single one. Ages count
        from the start, as text with a unit or a timedelta (a number is refused, for 3 may be meant
        in days). A name, key or step that no instance has is no error: it matches nothing.
        """
        return self._operations.select(
            name=name,
            statuses=statuses,
            key=key,
            step=step,
            version=version,
            older_than=older_than,
            newer_than=newer_than,
        )

    def page(self, filter: Filter, *, limit: int = 50, after: UUID | None = None) -> Page:
        """One page of what matches. `after`: the `next` of the page before.

        Raises `ConfigurationError` for a limit below 1, or what is no filter.
        """
        return self._complete(self._operations.page(filter, limit=limit, after=after))

    def each(self, filter: Filter, *, after: UUID | None = None) -> Iterator[Instance]:
        """All that match, newest first, read in pages; with `after` those below that id."""
        return iterated(self._complete, lambda: self._operations.each(filter, after=after))

    def ids_of(self, which: Which | Iterable[Which]) -> list[UUID]:
        """The ids of one or many instances that are there, each once, in the order given.

        Raises `SagaNotFound` where one of them isn't there, `ConfigurationError` for what can't
        name one.
        """
        return self._complete(self._operations.ids_of(with_ids(which)))

    def locate(self, address: str) -> Instance:
        """The instance at an address: an id, its beginning or its end, or ``name/key``.

        Of an id, as much is needed as only one has; its end is looked for in the whole table.
        Raises `SagaNotFound`, also when it fits several, and `ConfigurationError` for text that no
        database can hold.
        """
        return self._complete(self._operations.locate(address))

    def timeline(self, saga: Which) -> Timeline:
        """All that happened to an instance, and what it does or waits for now.

        `saga` is a handle, an id or an address as `locate` takes. Raises `SagaNotFound`.
        """
        return self._complete(self._operations.timeline(with_ids(saga)))

    def pending(self, instances: Sequence[Instance]) -> dict[UUID, Sequence[Pending]]:
        """What unfinished instances do or wait for, as far as the code at hand can read them.

        It reads their journals, a hundred at a time. Those that it can't read are left out.
        """
        return self._complete(self._operations.pending(instances))

    def unread(self, instances: Sequence[Instance]) -> dict[UUID, Sequence[Mail]]:
        """What stuck instances were told and no worker has acted on yet, oldest first.

        It reads the journals of those that are due, a hundred at a time.
        """
        return self._complete(self._operations.unread(instances))

    def stuck(self, filter: Filter | None = None) -> list[StuckGroup]:
        """The sagas that wait for an operator, in groups by saga, step and error; largest first.

        Errors count as the same that differ only in numbers, ids, times and quoted values. `filter`
        narrows them; its statuses don't count. It reads the rows of all that are stuck, in pages.
        """
        return self._complete(self._operations.stuck(filter))

    def counts(self) -> Mapping[tuple[str, str], int]:
        """How many instances there are, by (name, status)."""
        return self._complete(self._operations.counts())

    def export(self, filter: Filter, *, after: UUID | None = None) -> Iterator[dict[str, Any]]:
        """All that is stored of each instance that matches, as plain JSON values, newest first.

        A journal that can't be read comes too: what isn't JSON in it comes as the text it is. What
        changes meanwhile comes as it is when its page is read. With `after` those below that id.
        """
        return iterated(self._complete, lambda: self._operations.export(filter, after=after))

    def start(
        self,
        name: type[Saga[Any]] | str,
        input: bytes | str | msgspec.Raw,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> BlockingSagaHandle[Any]:
        """Start the newest version of a saga from JSON; idempotent by (saga, key).

        `at` and `after` are as in `BlockingClient.start`. Raises `ConfigurationError` for an
        unknown saga, an input that isn't its type or a field that the type doesn't have, and
        `SagaConflict` as `BlockingClient.start`.
        """
        return BlockingSagaHandle(
            self._complete(
                self._operations.start(
                    name, input, key=key, correlation_id=correlation_id, at=at, after=after
                )
            ),
            self._complete,
        )

    def fork(
        self, saga: Which, *, key: str | None = None, replace: Mapping[str, Any] | None = None
    ) -> BlockingSagaHandle[Any]:
        """Start a new instance from the input of an old one, finished or not.

        `saga` is that one, as a handle, an id or an address. `replace` gives fields of the input
        other values (plain JSON values). The newest version of the saga runs it from the beginning;
        its correlation id is ``fork of ID``. The old instance isn't touched: what it did is done
        again. Raises as `start`, `SagaNotFound`, and `CorruptRecord` where the old input can't be
        read.
        """
        return BlockingSagaHandle(
            self._complete(self._operations.fork(with_ids(saga), key=key, replace=replace)),
            self._complete,
        )

    def retry(self, where: Where, *, at: Step[Any, Any] | str = "", by: str = "") -> int:
        """Try again what is parked, or an undo that failed; how many were asked.

        `where` is a filter by `select`, or one or many instances, each as an address, id or handle.
        `at`: only that step, itself or by name. Like all acts it is sent as mail: a worker acts on
        it, and the journal keeps who asked (`by`), also where it came too late. Raises
        `SagaNotFound`, and asks none, where one of those named isn't there.
        """
        return self._complete(self._operations.retry(with_ids(where), at=at, by=by))

    def skip(
        self, where: Where, *, reason: str, at: Step[Any, Any] | str = "", by: str = ""
    ) -> int:
        """Take what is parked as done, or its undo; how many were asked. See `retry`.

        Raises `ConfigurationError` without a reason.
        """
        return self._complete(self._operations.skip(with_ids(where), reason=reason, at=at, by=by))

    def resolve(self, where: Where, outcome: str, *, reason: str, by: str = "") -> int:
        """End what is stuck or waits as "completed" or "compensated", without running anything.

        One whose code no live worker has is ended by this process, and one whose journal can't be
        read by a worker. One that is given by itself may also pause before its next attempt. Child
        sagas that it waits for go on: its timeline, and a warning in the log, names them.
        Answers how many were asked; see `retry`. Raises `ConfigurationError`.
        """
        return self._complete(
            self._operations.resolve(with_ids(where), outcome, reason=reason, by=by)
        )

    def cancel(self, where: Where, *, reason: str = "", force: bool = False, by: str = "") -> int:
        """Ask for compensation, as `BlockingSagaHandle.cancel`; how many were asked."""
        return self._complete(
            self._operations.cancel(with_ids(where), reason=reason, force=force, by=by)
        )

    def signal(
        self,
        where: Where,
        name: str,
        payload: bytes | str | msgspec.Raw = b"null",
        *,
        mail_id: str | None = None,
    ) -> int:
        """Send a signal with a payload as JSON; to how many.

        With a `mail_id`, sending it again changes nothing. Raises `ConfigurationError` where one of
        the sagas that this code knows waits for no such signal, or the payload doesn't fit.
        """
        return self._complete(
            self._operations.signal(with_ids(where), name, payload, mail_id=mail_id)
        )

    def migrate(self, where: Where, version: int, *, by: str = "") -> int:
        """Ask instances to move to another version of their saga; how many were asked.

        Those that are being run move when the attempts in flight have ended. One that can't move
        stays as it is, with the reason in its journal. Raises `ConfigurationError` where the code
        at hand knows already that one can't.
        """
        return self._complete(self._operations.migrate(with_ids(where), version, by=by))

    def signalled(
        self, name: str, payload: bytes | str | msgspec.Raw, instances: Sequence[Instance]
    ) -> ev.Signalled:
        """A signal, for `tell`, checked against the waits of each instance's known definition."""
        return self._operations.signalled(name, payload, instances)

    def moved(
        self, version: int, instances: Sequence[Instance], *, by: str = ""
    ) -> ev.MigrateAsked:
        """The act, for `tell`, that moves instances, checked against the code at hand."""
        return self._operations.moved(version, instances, by=by)

    def matching(
        self, act: type[ev.Mailed], filter: Filter, *, after: UUID | None = None
    ) -> Iterator[Instance]:
        """Those of `filter` that such an act can change, newest first, read in pages."""
        return iterated(self._complete, lambda: self._operations.matching(act, filter, after=after))

    def tell(
        self,
        act: ev.Mailed,
        where: Where,
        *,
        after: UUID | None = None,
        batch: int = 200,
        mail_id: str | None = None,
    ) -> Iterator[Progress]:
        """Send an act in batches; after each, how far it came. One may stop there.

        Instances of a filter are read in pages while it goes on, newest first, so memory holds one
        page; `after` goes on below the `last` of an act that was stopped (of ids, give those that
        are left instead). With a `mail_id`, sending it again to an instance changes nothing. Raises
        `ConfigurationError` for a skip or resolve without a reason, a wrong outcome, a `batch`
        below 1, an `after` with ids, or inside this app's own transaction; and `SagaNotFound`,
        before any is told, for one that isn't there.
        """
        return iterated(
            self._complete,
            lambda: self._operations.tell(
                act, with_ids(where), after=after, batch=batch, mail_id=mail_id
            ),
        )

    def count_finished(self, *, finished_for: Age) -> int:
        """How many `purge` would delete. Raises `ConfigurationError` as that does."""
        return self._complete(self._operations.count_finished(finished_for=finished_for))

    def purge(self, *, finished_for: Age, batch: int = 1000) -> Iterator[int]:
        """Delete what finished longer ago than that, in batches; after each, how many so far.

        A child saga is kept for as long as its parent is, which may have to undo it yet. Raises
        `ConfigurationError` for a number without a unit, which may be meant in days, and a `batch`
        below 1.
        """
        return iterated(
            self._complete, lambda: self._operations.purge(finished_for=finished_for, batch=batch)
        )
