"""What can be seen of the sagas of a database: rows, timelines, what is stuck, whole journals."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from uuid import UUID

from standfast.checks import whole
from standfast.durations import Age, age
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.ids import parse_id
from standfast.ports.journal import Filter, Instance, Mail
from standfast.saga.definition import LONGEST_NAME
from standfast.saga.export import record
from standfast.saga.handle import SagaHandle
from standfast.saga.pending import Pending
from standfast.saga.registry import PATTERN
from standfast.saga.saga import Saga
from standfast.saga.sagas import Sagas
from standfast.saga.status import STATUSES, STUCK
from standfast.saga.step import Step, name_of
from standfast.saga.stuck_groups import Grouping, StuckGroup
from standfast.saga.timeline import Timeline
from standfast.text import checked

Which: TypeAlias = SagaHandle[Any] | UUID | str
"""One instance: a handle, an id, or text as `Finding.locate` takes (an id, a part of one, or
``name/key``)."""

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
        if isinstance(name, type) and issubclass(name, Saga):
            name = name.saga_name()
        step = name_of(step, option="step")
        for option, value in (("name", name), ("key", key), ("step", step)):
            checked(value, name=option)
        if version is not None:
            whole(version, name="version")
        if isinstance(statuses, str):
            statuses = (statuses,)
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
            created_before=None if older_than is None else now - age(older_than, name="older_than"),
            created_after=None if newer_than is None else now - age(newer_than, name="newer_than"),
        )

    async def page(self, filter: Filter, *, limit: int = 50, after: UUID | None = None) -> Page:
        """One page of what matches. `after`: the `next` of the page before.

        Raises `ConfigurationError` for a limit below 1, or what is no filter.
        """
        whole(limit, name="limit")
        if not isinstance(filter, Filter):
            raise ConfigurationError(
                f"filter={filter!r}: make one by operations.select(…), such as "
                'select(statuses=["parked"])'
            )
        found = await self.sagas.journal.find(filter, limit=limit + 1, after=after)
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

    async def ids_of(self, which: Which | Iterable[Which]) -> list[UUID]:
        """The ids of one or many instances that are there, each once, in the order given.

        Raises `SagaNotFound` where one of them isn't there, `ConfigurationError` for what can't
        name one.
        """
        if isinstance(which, (SagaHandle, UUID, str)):
            which = (which,)
        given: object = which
        if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
            raise _names_none(given)
        found: dict[UUID, None] = {}
        unseen: list[UUID] = []
        for one in which:
            if isinstance(one, str):
                found[(await self.locate(one)).id] = None
            elif isinstance(one, (SagaHandle, UUID)):
                id = one.id if isinstance(one, SagaHandle) else one
                found[id] = None
                unseen.append(id)
            else:
                raise _names_none(one)
        for begin in range(0, len(unseen), PAGE):
            some = dict.fromkeys(unseen[begin : begin + PAGE])
            rows = await self.sagas.journal.find(
                Filter(pattern=PATTERN, ids=tuple(some)), limit=PAGE
            )
            missing = some.keys() - {row.id for row in rows}
            for id in some:
                if id in missing:
                    raise self.sagas.unknown(id)
        return list(found)

    async def locate(self, address: str) -> Instance:
        """The instance at an address: an id, its beginning or its end, or ``name/key``.

        Of an id, as much is needed as only one has; its end is looked for in the whole table.
        Raises `SagaNotFound`, also when it fits several, and `ConfigurationError` for text that no
        database can hold.
        """
        checked(address, name="address")
        if "/" in address:
            return await self._by_key(address)
        id = parse_id(address)
        if id is not None:
            return await self.sagas.instance(id)
        return await self._by_part(address)

    async def _by_key(self, address: str) -> Instance:
        """The one at ``name/key``, wherever the slash is between them: either may have others."""
        fit: list[Instance] = []
        for at, sign in enumerate(address):
            if sign == "/" and 0 < at <= LONGEST_NAME:
                found = await self.sagas.journal.by_key(PATTERN, address[:at], address[at + 1 :])
                fit += [] if found is None else [found]
        if not fit:
            name, _, key = address.partition("/")
            raise self.sagas.no_key(name, key)
        if len(fit) > 1:
            told = " or ".join(f"{one.id} (saga {one.name!r}, key {one.key!r})" for one in fit)
            raise SagaNotFound(f"several sagas have the address {address!r}: give an id, {told}")
        return fit[0]

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
        found = await self.sagas.journal.find(Filter(pattern=PATTERN), limit=2, after=above)
        fit = {instance.id: instance for instance in found if instance.id >= lowest}
        ending = Filter(pattern=PATTERN, id_end=digits)
        fit |= {one.id: one for one in await self.sagas.journal.find(ending, limit=2)}
        if not fit:
            raise SagaNotFound(f"no saga's id begins or ends with {address!r}")
        if len(fit) > 1:
            raise SagaNotFound(f"several sagas' ids begin or end with {address!r}: give more of it")
        (one,) = fit.values()
        return one

    async def timeline(self, saga: Which) -> Timeline:
        """All that happened to an instance, and what it does or waits for now.

        `saga` is a handle, an id or an address as `locate` takes. Raises `SagaNotFound`.
        """
        return await self.sagas.timeline(await self._id_of(saga))

    async def _id_of(self, saga: Which) -> UUID:
        """The id of one instance that is there. Raises as `ids_of`."""
        if not isinstance(saga, (SagaHandle, UUID, str)):
            raise _names_none(saga)
        (id,) = await self.ids_of(saga)
        return id

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
            for loaded in await self.sagas.journal.load(ids[begin : begin + JOURNALS]):
                full = await self.sagas.workers.full(loaded.instance)
                timeline = self.sagas.timeline_of(loaded, holders, full)
                if not timeline.problem:
                    found[loaded.instance.id] = timeline.pending
        return found

    async def unread(self, instances: Sequence[Instance]) -> dict[UUID, Sequence[Mail]]:
        """What stuck instances were told and no worker has acted on yet, oldest first.

        It reads the journals of those that are due, a hundred at a time.
        """
        now = self.sagas.clock.now()
        ids = [
            one.id
            for one in instances
            if one.status in STUCK and one.owner is None and (one.wake_at or math.inf) <= now
        ]
        found: dict[UUID, Sequence[Mail]] = {}
        for begin in range(0, len(ids), JOURNALS):
            for loaded in await self.sagas.journal.load(ids[begin : begin + JOURNALS]):
                if loaded.mails:
                    found[loaded.instance.id] = loaded.mails
        return found

    async def stuck(self, filter: Filter | None = None) -> list[StuckGroup]:
        """The sagas that wait for an operator, in groups by saga, step and error; largest first.

        Errors count as the same that differ only in numbers, ids, times and quoted values. `filter`
        narrows them; its statuses don't count. It reads the rows of all that are stuck, in pages.
        """
        grouping = Grouping(self.sagas.clock.now())
        async for one in self.each(replace(filter or self.select(), statuses=STUCK)):
            grouping.add(one)
        return grouping.groups()

    async def counts(self) -> Mapping[tuple[str, str], int]:
        """How many instances there are, by (name, status)."""
        return await self.sagas.journal.count(PATTERN)

    async def export(
        self, filter: Filter, *, after: UUID | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """All that is stored of each instance that matches, as plain JSON values, newest first.

        A journal that can't be read comes too: what isn't JSON in it comes as the text it is. What
        changes meanwhile comes as it is when its page is read. With `after` those below that id.
        """
        while True:
            page = await self.page(filter, limit=JOURNALS, after=after)
            for loaded in await self.sagas.journal.load([one.id for one in page.instances]):
                yield record(loaded)
            if page.next is None:
                return
            after = page.next


def _names_none(given: object) -> ConfigurationError:
    return ConfigurationError(
        f"{given!r} names no saga: give an address (an id, or name/key), a UUID or a handle, "
        "several of them in a list, or a filter by operations.select(…)"
    )
