"""What an operator does to sagas: find them, and act on one or on many.

Acts travel as mail and are decided by the instance's own machine, so each is in its journal with
the one who asked (`by`), also when it came too late. What is asked of an instance that no live
worker has registered waits until one does.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, SagaNotFound
from standfast.ids import new_id, parse_id
from standfast.ports.database import Database
from standfast.ports.journal import Filter, Instance, Mail
from standfast.saga import events as ev
from standfast.saga.client import PATTERN, Sagas
from standfast.saga.state import FINISHED, STATUSES, UNFINISHED

PAGE = 500
STUCK = ("parked", "compensation_failed")

APPLIES_TO: dict[type[ev.Mailed], tuple[str, ...]] = {
    ev.Signalled: UNFINISHED,
    ev.CancelAsked: ("running", "waiting", "parked"),
    ev.RetryAsked: STUCK,
    ev.SkipAsked: STUCK,
    ev.ResolveAsked: (*STUCK, "waiting"),
    ev.MigrateAsked: UNFINISHED,
}
"""The statuses in which an act can change something."""


def operating_user() -> str:
    """The name of the OS user, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry in passwd
        return f"uid {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the instances that match, newest first. `next`: where the next page begins."""

    instances: Sequence[Instance]
    next: UUID | None


class Operations:
    """All that an operator can do to the sagas of one open database."""

    def __init__(self, sagas: Sagas, database: Database) -> None:
        self.sagas: Sagas = sagas
        self.database: Database = database

    # -- finding -----------------------------------------------------------------------------

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
        """A filter; ages count from the start, in seconds or text. Raises `ConfigurationError`."""
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

    async def each(self, filter: Filter) -> AsyncIterator[Instance]:
        """All that match, read in pages."""
        after: UUID | None = None
        while True:
            page = await self.page(filter, limit=PAGE, after=after)
            for instance in page.instances:
                yield instance
            if page.next is None:
                return
            after = page.next

    async def locate(self, address: str) -> Instance:
        """The instance at an address: an id, the unique beginning of one, or ``name/key``.

        Raises `SagaNotFound`, also when the beginning fits several.
        """
        name, slash, key = address.partition("/")
        if slash:
            found = await self.sagas.store.by_key(PATTERN, name, key)
            if found is None:
                raise SagaNotFound(f"no saga {name!r} has the key {key!r}")
            return found
        id = parse_id(address)
        if id is not None:
            return await self.sagas.instance(id)
        return await self._by_beginning(address)

    async def _by_beginning(self, address: str) -> Instance:
        digits = address.replace("-", "").lower()
        if not digits or len(digits) > 32 or set(digits) - set("0123456789abcdef"):
            raise SagaNotFound(
                f"{address!r} is no address of a saga: give an id, its beginning, or name/key"
            )
        lowest = UUID(digits.ljust(32, "0"))
        highest = UUID(digits.ljust(32, "f"))
        above = None if highest.int == 2**128 - 1 else UUID(int=highest.int + 1)
        found = await self.sagas.store.find(Filter(pattern=PATTERN), limit=2, after=above)
        found = [instance for instance in found if instance.id >= lowest]
        if not found:
            raise SagaNotFound(f"no saga's id begins with {address!r}")
        if len(found) > 1:
            raise SagaNotFound(f"several sagas' ids begin with {address!r}: give more of it")
        return found[0]

    # -- acting ------------------------------------------------------------------------------

    async def matching(self, act: ev.Mailed, filter: Filter) -> list[Instance]:
        """Those of `filter` that the act can change, for a dry run or for `tell`."""
        possible = APPLIES_TO[type(act)]
        return [one async for one in self.each(filter) if one.status in possible]

    async def tell(
        self, act: ev.Mailed, ids: Sequence[UUID], *, batch: int = 200
    ) -> AsyncIterator[int]:
        """Send an act in batches; after each, how many were sent so far. One may stop there.

        Raises `ConfigurationError` for a skip or resolve without a reason or a wrong outcome.
        """
        _check(act)
        kind, body = ev.to_mail(act)
        for begin in range(0, len(ids), batch):
            some = ids[begin : begin + batch]
            now = self.sagas.clock.now()
            await self.sagas.store.send([Mail(id, str(new_id()), kind, body, now) for id in some])
            for id in some:
                self.sagas.on_sent(id)
            yield begin + len(some)

    async def migrate(
        self, ids: Sequence[UUID], version: int, *, by: str = "", batch: int = 200
    ) -> AsyncIterator[int]:
        """Ask instances to move to a version; after each batch, how many were asked so far.

        Those that are being run move when the attempts in flight have ended. One that can't move
        stays as it is, with the reason in its journal.
        """
        told = 0
        async for done in self.tell(ev.MigrateAsked(version, by=by), ids, batch=batch):
            await self.sagas.store.reassign(ids[told:done], version=version)
            for id in ids[told:done]:
                self.sagas.on_sent(id)
            told = done
            yield done

    async def purge(self, *, finished_for: Duration, batch: int = 1000) -> AsyncIterator[int]:
        """Delete what finished longer ago than that, in batches; after each, how many so far."""
        age = seconds(finished_for, name="finished_for", positive=False)
        before, done = self.sagas.clock.now() - age, 0
        while gone := await self.sagas.store.purge(PATTERN, finished_before=before, limit=batch):
            done += gone
            yield done

    async def purge_marks(self, *, older_than: Duration, batch: int = 1000) -> AsyncIterator[int]:
        """Delete barrier marks older than that, in batches; after each, how many so far."""
        age = seconds(older_than, name="older_than", positive=False)
        before, done = self.sagas.clock.now() - age, 0
        while gone := await self.database.purge_marks(before=before, limit=batch):
            done += gone
            yield done


def _check(act: ev.Mailed) -> None:
    if isinstance(act, (ev.SkipAsked, ev.ResolveAsked)) and not act.reason.strip():
        raise ConfigurationError("a reason is needed: it is kept in the journal")
    if isinstance(act, ev.ResolveAsked) and act.outcome not in FINISHED:
        raise ConfigurationError(f"outcome={act.outcome!r}: choose completed or compensated")
