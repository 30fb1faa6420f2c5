"""Retention: finished sagas are deleted after a while, in the background."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

from standfast.checks import whole
from standfast.coordination.purging import Purging
from standfast.coordination.service import Service, ServiceOptions
from standfast.durations import Age, Duration, age, seconds
from standfast.errors import ConfigurationError
from standfast.pattern import Pattern
from standfast.ports.journal import Filter, Instance, JournalStore
from standfast.ports.leases import LeaseStore
from standfast.saga.purging import purged
from standfast.saga.registry import PATTERN
from standfast.saga.saga import Saga
from standfast.saga.sagas import Sagas
from standfast.saga.status import FINISHED
from standfast.text import did_you_mean

log = logging.getLogger("standfast.retention")

PAGE = 500


class Retention(Pattern):
    """Deletes finished sagas, with their journals, a while after they ended.

    ::

        app.add(Retention(finished_for="30d", by_saga={SendNewsletter: "1d", PayOut: None}))

    `finished_for` is how long a saga is kept after its end, as text with a unit or a timedelta (a
    number is refused, for 30 may be meant in days); None keeps all but those of `by_saga`, which
    says it for some, by class or name (None there: for ever). `every`: how often it looks. `batch`:
    how many sagas one transaction looks at; between two it rests four times as long as one took, so
    that writers aren't held up.

    It is a service named ``retention``, run by one process at a time; `Standfast.running` and
    ``standfast run`` run it with the others. Unfinished sagas are never deleted, nor what those may
    still have to undo. A deleted saga's key is free again: a start repeated after that begins anew.
    With `by_saga` each run reads the rows of all finished sagas, in pages. Raises
    `ConfigurationError` for a duration that is none, for a saga named twice, or where nothing would
    ever be deleted; and when the app opens, for a saga in `by_saga` that isn't there: no class or
    name that was added, and no name that the database has a saga of, such as one whose code is
    gone. (A process without sagas of its own only logs a warning, for it can't know the names.)
    """

    ports: Sequence[type] = (JournalStore, LeaseStore)

    def __init__(
        self,
        finished_for: Age | None,
        *,
        by_saga: Mapping[type[Saga[Any]] | str, Age | None] = MappingProxyType({}),
        every: Duration = "1h",
        batch: int = 200,
    ) -> None:
        self._default = _kept("finished_for", finished_for)
        if not isinstance(by_saga, Mapping):
            raise ConfigurationError(
                f"by_saga={by_saga!r}: give a dict of sagas and how long to keep each, as in "
                '{PayOut: "365d", SendNewsletter: "1d"} (None: for ever)'
            )
        self._classes = [saga for saga in by_saga if not isinstance(saga, str)]
        self._by_name = {
            _name(saga): _kept(f"by_saga[{_name(saga)!r}]", kept) for saga, kept in by_saga.items()
        }
        if len(self._by_name) < len(by_saga):
            raise ConfigurationError(
                "by_saga names one saga twice, by its class and by its name: say once how long "
                "to keep it"
            )
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

    async def open(self) -> None:
        """See `Pattern.open`. Raises `ConfigurationError` for sagas that there aren't."""
        sagas = self.host.pattern(Sagas)
        known: set[str] = set()
        if sagas is not None and sagas.definitions.by_kind:
            known = {definition.name for definition in sagas.definitions.by_kind.values()}
            for saga in self._classes:
                sagas.definitions.of(saga)  # raises for one that wasn't added
        for name in self._by_name:
            if name in known or await self._has_any(name):
                continue
            said = (
                f"by_saga[{name!r}]: no saga is named so, here or in the database"
                f"{did_you_mean(name, known)}"
            )
            if known:
                raise ConfigurationError(
                    f"{said}. This app has {', '.join(sorted(known))}. Correct the name, for the "
                    "saga that is meant would be deleted as all others are; or leave it out"
                )
            log.warning("%s; if it is misspelt, the saga is deleted as all others are", said)

    async def _has_any(self, name: str) -> bool:
        store = self.host.database.port(JournalStore)
        return bool(await store.find(Filter(pattern=PATTERN, name=name), limit=1))

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
                    deleted, spared = deleted + done.count, spared + limit - done.count
                    yield done.count
                if not ids:
                    yield 0  # so that reading rests, too
                page = await store.find(filter, limit=PAGE, after=page[-1].id)
            goes_on = deleted > 0 and spared > 0

    def _has_expired(self, row: Instance, now: float) -> bool:
        kept = self._by_name.get(row.name, self._default)
        return kept is not None and row.finished_at is not None and row.finished_at < now - kept


def _kept(name: str, kept: Age | None) -> float | None:
    return None if kept is None else age(kept, name=name, without="to keep for ever")


def _name(saga: type[Saga[Any]] | str) -> str:
    if isinstance(saga, str):
        return saga
    name = getattr(saga, "saga_name", None)
    if name is None:
        raise ConfigurationError(f"by_saga: {saga!r} is no saga: give its class or its name")
    return str(name())
