"""What can be seen of the sagas of a database: rows, timelines, what is stuck, whole journals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.ids import parse_id
from standfast.ports.journal import Filter, Instance
from standfast.saga.export import record
from standfast.saga.handle import SagaHandle
from standfast.saga.pending import Pending
from standfast.saga.registry import PATTERN
from standfast.saga.sagas import Sagas
from standfast.saga.status import STATUSES, STUCK
from standfast.saga.stuck_groups import Grouping, StuckGroup
from standfast.saga.timeline import Timeline
from standfast.text import checked

PAGE = 500
"""Rows that are read at once."""
JOURNALS = 100
"""Journals that are read at once."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the instances that match, newest first. `next`: where the next page begins."""

    instances: Sequence[Instance]
    next: UUID | None


class Finding:
    """Finds sagas of one open app, and tells of them. It changes nothing."""

    def __init__(self, sagas: Sagas) -> None:
        self.sagas: Sagas = sagas

    def select(
        self,
        *,
        name: str = "",
        statuses: Sequence[str] = (),
        key: str = "",
        step: str = "",
        version: int | None = None,
        older_than: Duration | None = None,
        newer_than: Duration | None = None,
    ) -> Filter:
        """A filter; ages count from the start, in seconds or text.

        Raises `ConfigurationError`, also for text that no database can hold.
        """
        for text, of in ((name, "name"), (key, "key"), (step, "step")):
            checked(text, name=of)
        for status in statuses:
            if status not in STATUSES:
                raise ConfigurationError(
                    f"status={status!r}: choose from {', '.join(sorted(STATUSES))}"
                )
        now = self.sagas.clock.now()
        return Filter(
            pattern=PATTERN,
            name=name,
            statuses=tuple(statuses),
            key=key,
            step=step,
            version=version,
            created_before=None
            if older_than is None
            else now - seconds(older_than, name="older_than", positive=False),
            created_after=None
            if newer_than is None
            else now - seconds(newer_than, name="newer_than", positive=False),
        )

    async def page(self, filter: Filter, *, limit: int = 50, after: UUID | None = None) -> Page:
        """One page of what matches. `after`: the `next` of the page before."""
        if limit < 1:
            raise ConfigurationError(f"limit={limit}: must be 1 or more")
        found = await self.sagas.store.find(filter, limit=limit + 1, after=after)
        more = len(found) > limit
        return Page(found[:limit], found[limit - 1].id if more else None)

    async def each(self, filter: Filter, *, after: UUID | None = None) -> AsyncIterator[Instance]:
        """All that match, newest first, read in pages; with `after` those below that id."""
        while True:
            page = await self.page(filter, limit=PAGE, after=after)
            for instance in page.instances:
                yield instance
            if page.next is None:
                return
            after = page.next

    async def locate(self, address: str) -> Instance:
        """The instance at an address: an id, its beginning or its end, or ``name/key``.

        Of an id, as much is needed as only one has; its end is looked for in the whole table.
        Raises `SagaNotFound`, also when it fits several, and `ConfigurationError` for text that no
        database can hold.
        """
        checked(address, name="address")
        name, slash, key = address.partition("/")
        if slash:
            found = await self.sagas.store.by_key(PATTERN, name, key)
            if found is None:
                raise SagaNotFound(f"no saga {name!r} has the key {key!r}")
            return found
        id = parse_id(address)
        if id is not None:
            return await self.sagas.instance(id)
        return await self._by_part(address)

    async def _by_part(self, address: str) -> Instance:
        digits = address.replace("-", "").lower()
        if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
            raise SagaNotFound(
                f"{address!r} is no address of a saga: give an id, its beginning or end, or "
                "name/key"
            )
        lowest = UUID(digits.ljust(32, "0"))
        highest = UUID(digits.ljust(32, "f"))
        above = None if highest.int == 2**128 - 1 else UUID(int=highest.int + 1)
        found = await self.sagas.store.find(Filter(pattern=PATTERN), limit=2, after=above)
        fit = {instance.id: instance for instance in found if instance.id >= lowest}
        ending = Filter(pattern=PATTERN, id_end=digits)
        fit |= {one.id: one for one in await self.sagas.store.find(ending, limit=2)}
        if not fit:
            raise SagaNotFound(f"no saga's id begins or ends with {address!r}")
        if len(fit) > 1:
            raise SagaNotFound(f"several sagas' ids begin or end with {address!r}: give more of it")
        (one,) = fit.values()
        return one

    async def timeline(self, saga: SagaHandle[Any] | UUID | str) -> Timeline:
        """All that happened to an instance, and what it does or waits for now.

        `saga` is a handle, an id or an address as `locate` takes. Raises `SagaNotFound`.
        """
        if isinstance(saga, str):
            return await self.sagas.timeline((await self.locate(saga)).id)
        return await self.sagas.timeline(saga.id if isinstance(saga, SagaHandle) else saga)

    async def pending(self, instances: Sequence[Instance]) -> dict[UUID, Sequence[Pending]]:
        """What unfinished instances do or wait for, as far as the code at hand can read them.

        It reads their journals, a hundred at a time. Those that it can't read are left out.
        """
        known = self.sagas.definitions.by_kind
        ids = [
            one.id
            for one in instances
            if one.finished_at is None and (PATTERN, one.name, one.version) in known
        ]
        found: dict[UUID, Sequence[Pending]] = {}
        holders = await self.sagas.workers.holders() if ids else {}
        for begin in range(0, len(ids), JOURNALS):
            for loaded in await self.sagas.store.load(ids[begin : begin + JOURNALS]):
                timeline = self.sagas.timeline_of(loaded, holders)
                if not timeline.problem:
                    found[loaded.instance.id] = timeline.pending
        return found

    async def stuck(self, filter: Filter | None = None) -> list[StuckGroup]:
        """The sagas that wait for an operator, in groups by saga, step and error; largest first.

        Errors count as the same that differ only in numbers, ids, times and quoted values. `filter`
        narrows them; its statuses don't count. It reads the rows of all that are stuck, in pages.
        """
        grouping = Grouping()
        async for one in self.each(replace(filter or self.select(), statuses=STUCK)):
            grouping.add(one)
        return grouping.groups()

    async def counts(self) -> Mapping[tuple[str, str], int]:
        """How many instances there are, by (name, status)."""
        return await self.sagas.store.count(PATTERN)

    async def export(
        self, filter: Filter, *, after: UUID | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """All that is stored of each instance that matches, as plain JSON values, newest first.

        A journal that can't be read comes too: what isn't JSON in it comes as the text it is. What
        changes meanwhile comes as it is when its page is read. With `after` those below that id.
        """
        while True:
            page = await self.page(filter, limit=JOURNALS, after=after)
            for loaded in await self.sagas.store.load([one.id for one in page.instances]):
                yield record(loaded)
            if page.next is None:
                return
            after = page.next
