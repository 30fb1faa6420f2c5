"""Retention: finished sagas are deleted after a while, in the background."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from standfast.checks import whole
from standfast.coordination.purging import Purging
from standfast.coordination.service import Service, ServiceOptions
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.pattern import Pattern
from standfast.ports.journal import Filter, Instance, JournalStore
from standfast.ports.leases import LeaseStore
from standfast.saga.purging import purged
from standfast.saga.registry import PATTERN
from standfast.saga.saga import Saga
from standfast.saga.status import FINISHED

PAGE = 500


class Retention(Pattern):
    """Deletes finished sagas, with their journals, a while after they ended.

    ::

        app.add(Retention(finished_for="30d", by_saga={SendNewsletter: "1d", PayOut: None}))

    `finished_for` is how long a saga is kept after its end, in seconds or text; None keeps all but
    those of `by_saga`, which says it for some, by class or name (None there: for ever). `every`:
    how often it looks. `batch`: how many sagas one transaction looks at; between two it rests
    four times as long as one took, so that writers aren't held up.

    It is a service named ``retention``, run by one process at a time; `Standfast.running` and
    ``standfast run`` run it with the others. Unfinished sagas are never deleted, nor what those may
    still have to undo. A deleted saga's key is free again: a start repeated after that begins anew.
    With `by_saga` each run reads the rows of all finished sagas, in pages. Raises
    `ConfigurationError` for a duration that is none, or where nothing would ever be deleted.
    """

    ports: Sequence[type] = (JournalStore, LeaseStore)

    def __init__(
        self,
        finished_for: Duration | None,
        *,
        by_saga: Mapping[type[Saga[Any]] | str, Duration | None] = MappingProxyType({}),
        every: Duration = "1h",
        batch: int = 200,
    ) -> None:
        self._default = _kept("finished_for", finished_for)
        self._by_name = {
            _name(saga): _kept(f"by_saga[{_name(saga)!r}]", kept) for saga, kept in by_saga.items()
        }
        if all(kept is None for kept in (self._default, *self._by_name.values())):
            raise ConfigurationError(
                'Retention would never delete anything: say how long to keep, as in "30d"'
            )
        self._every = seconds(every, name="every")
        self._batch = whole(batch, name="batch")

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """See `Pattern.services`."""
        clock = self.host.clock
        return [
            Purging(
                "retention", self._expired, what="finished sagas", every=self._every, clock=clock
            )
        ]

    async def _expired(self) -> AsyncGenerator[int]:
        """Delete all that has expired by now; after each batch, how many were in it."""
        store = self.host.database.port(JournalStore)
        now = self.host.clock.now()
        if not self._by_name and self._default is not None:
            before = now - self._default
            async with aclosing(
                purged(store, finished_before=before, batch=self._batch)
            ) as batches:
                async for gone in batches:
                    yield gone
            return
        kept = [one for one in (self._default, *self._by_name.values()) if one is not None]
        # What finished longer ago than that has started longer ago, too.
        filter = Filter(
            pattern=PATTERN, statuses=tuple(sorted(FINISHED)), created_before=now - min(kept)
        )
        goes_on = True
        while goes_on:  # children are spared until their parents are gone: level by level
            deleted = spared = 0
            page = await store.find(filter, limit=PAGE)
            while page:
                ids = [one.id for one in page if self._has_expired(one, now)]
                for begin in range(0, len(ids), self._batch):
                    some = ids[begin : begin + self._batch]
                    limit = len(some)
                    done = await store.purge(PATTERN, finished_before=now, limit=limit, ids=some)
                    deleted, spared = deleted + done.number, spared + limit - done.number
                    yield done.number
                if not ids:
                    yield 0  # so that reading rests, too
                page = await store.find(filter, limit=PAGE, after=page[-1].id)
            goes_on = deleted > 0 and spared > 0

    def _has_expired(self, row: Instance, now: float) -> bool:
        kept = self._by_name.get(row.name, self._default)
        return kept is not None and row.finished_at is not None and row.finished_at < now - kept


def _kept(name: str, kept: Duration | None) -> float | None:
    return None if kept is None else seconds(kept, name=name, positive=False)


def _name(saga: type[Saga[Any]] | str) -> str:
    if isinstance(saga, str):
        return saga
    name = getattr(saga, "saga_name", None)
    if name is None:
        raise ConfigurationError(f"by_saga: {saga!r} is no saga: give its class or its name")
    return str(name())
