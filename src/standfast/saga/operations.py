"""What an operator does to sagas: find them, and act on one or on many.

Acts travel as mail and are decided by the instance's own machine, so each is in its journal with
the one who asked (`by`), also when it came too late. What is asked of an instance that no live
worker has registered waits until one does.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from standfast.checks import whole
from standfast.codec import with_defaults
from standfast.durations import Duration, seconds
from standfast.errors import CodecError, ConfigurationError, CorruptRecord, SagaNotFound
from standfast.ids import parse_id
from standfast.ports.journal import Filter, Instance, parent_of
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.definition import Definition
from standfast.saga.export import record
from standfast.saga.fields import unknown_field
from standfast.saga.handle import SagaHandle
from standfast.saga.registry import PATTERN
from standfast.saga.sagas import Sagas
from standfast.saga.status import FINISHED, STATUSES, STUCK, UNFINISHED

PAGE = 500
EXPORT_PAGE = 100

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

    def __init__(self, sagas: Sagas) -> None:
        self.sagas: Sagas = sagas

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
        whole(limit, name="limit")
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

    async def counts(self) -> Mapping[tuple[str, str], int]:
        """How many instances there are, by (name, status)."""
        return await self.sagas.store.count(PATTERN)

    async def export(self, filter: Filter) -> AsyncIterator[dict[str, Any]]:
        """All that is stored of each instance that matches, as plain values (see `record`).

        A journal that can't be read comes too: what isn't JSON in it comes as the text it is. What
        changes meanwhile comes as it is when its page is read.
        """
        after: UUID | None = None
        while True:
            page = await self.page(filter, limit=EXPORT_PAGE, after=after)
            for loaded in await self.sagas.store.load([one.id for one in page.instances]):
                yield record(loaded)
            if page.next is None:
                return
            after = page.next

    # -- starting ----------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        input: bytes | msgspec.Raw,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]:
        """Start the newest version of a saga from JSON; idempotent by (saga, key).

        `at` and `after` are as in `Standfast.start`. Raises `ConfigurationError` for an unknown
        saga, an input that isn't its type or a field that the type doesn't have, and `SagaConflict`
        as `Standfast.start`.
        """
        definition = self.sagas.definitions.of(name)
        _check_fields(definition, input)
        return await self._start(definition, input, key, correlation_id, at=at, after=after)

    async def _start(
        self,
        definition: Definition,
        input: bytes | msgspec.Raw,
        key: str | None,
        correlation_id: str | None,
        *,
        at: datetime | None = None,
        after: Duration | None = None,
    ) -> SagaHandle[Any]:
        name = definition.name
        try:
            value = with_defaults(definition.codec.decode(input, definition.input_type))
        except CodecError as error:
            raise ConfigurationError(f"the input of saga {name!r}: {error}") from error
        return await self.sagas.starter.start(
            name, value, key=key, correlation_id=correlation_id, at=at, after=after
        )

    async def fork(
        self, id: UUID, *, key: str | None = None, replace: Mapping[str, Any] | None = None
    ) -> SagaHandle[Any]:
        """Start a new instance from the input of an old one, finished or not.

        `replace` gives fields of the input other values (plain JSON values). The newest version of
        the saga runs it from the beginning; its correlation id is ``fork of ID``. The old instance
        isn't touched: what it did is done again. Raises as `start`, and `CorruptRecord` where the
        old input can't be read.
        """
        instance = await self.sagas.instance(id)
        definition = self.sagas.definitions.of(instance.name)
        input: Any = msgspec.json.decode(await self._input(id))
        if replace:
            if not isinstance(input, dict):
                raise ConfigurationError(
                    f"saga {id} has an input without fields: there is nothing to replace in it"
                )
            _check_fields(definition, msgspec.json.encode(replace))
            input = {**input, **replace}
        data = msgspec.json.encode(input)
        return await self._start(definition, data, key, f"fork of {id}")

    async def _input(self, id: UUID) -> msgspec.Raw:
        """The input as it stands, read past whatever can't be read behind it."""
        (loaded,) = await self.sagas.store.load([id])
        found: msgspec.Raw | None = None
        for number, text in enumerate(loaded.facts):
            try:
                fact = fx.decode(text, number)
            except CorruptRecord:
                if found is None:
                    raise
                continue
            if isinstance(fact, (fx.Started, fx.Migrated)):
                found = fact.input
        if found is None:
            raise CorruptRecord(f"the journal of saga {id} doesn't begin with its start")
        return found

    # -- acting ------------------------------------------------------------------------------

    def signal(self, name: str, payload: bytes, instances: Sequence[Instance]) -> ev.Signalled:
        """A signal with a JSON payload, checked against the wait of each known definition.

        Raises `ConfigurationError` where it waits for no such signal, or the payload doesn't fit.
        """
        try:
            value = msgspec.json.decode(payload)
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"the payload isn't JSON ({error})") from error
        for kind in {(PATTERN, one.name, one.version) for one in instances}:
            definition = self.sagas.definitions.by_kind.get(kind)
            if definition is None:
                continue
            try:
                definition.check_signal(name, value)
            except CodecError as error:
                raise ConfigurationError(f"{error}") from error
        return ev.Signalled(name, msgspec.Raw(payload))

    async def matching(self, act: type[ev.Mailed], filter: Filter) -> list[Instance]:
        """Those of `filter` that such an act can change, for a dry run or for `tell`."""
        possible = APPLIES_TO[act]
        return [one async for one in self.each(filter) if one.status in possible]

    def move(self, version: int, instances: Sequence[Instance], *, by: str = "") -> ev.MigrateAsked:
        """The act, for `tell`, that moves instances to another version of their saga.

        Those that are being run move when the attempts in flight have ended. One that can't move
        stays as it is, with the reason in its journal. Raises `ConfigurationError` where the code
        at hand knows already that one can't.
        """
        for one in instances:
            known = {v for _, name, v in self.sagas.definitions.by_kind if name == one.name}
            definition = self.sagas.definitions.by_kind.get((PATTERN, one.name, version))
            if known and definition is None:
                raise ConfigurationError(
                    f"version {version} of saga {one.name!r} isn't registered: this app has "
                    f"{', '.join(map(str, sorted(known)))}"
                )
            if definition is not None and one.version not in (version, *definition.saga.migrations):
                raise ConfigurationError(
                    f"saga {one.id}: version {version} of {one.name!r} has no migration from "
                    f"version {one.version}: add migrations = {{{one.version}: Migration()}}"
                )
        return ev.MigrateAsked(version, by=by)

    async def tell(
        self, act: ev.Mailed, ids: Sequence[UUID], *, batch: int = 200, mail_id: str | None = None
    ) -> AsyncIterator[int]:
        """Send an act in batches; after each, how many were sent so far. One may stop there.

        With a `mail_id`, sending it again to an instance changes nothing. Raises
        `ConfigurationError` for a skip or resolve without a reason or a wrong outcome.
        """
        check(act)
        for begin in range(0, len(ids), batch):
            some = ids[begin : begin + batch]
            await self.sagas.store.send([self.sagas.mail(id, act, mail_id=mail_id) for id in some])
            if isinstance(act, ev.MigrateAsked):  # so that workers of that version may claim them
                await self.sagas.store.reassign(some, version=act.version)
            for id in some:
                self.sagas.executor.sent(id)
            yield begin + len(some)

    async def count_finished(self, *, finished_for: Duration) -> int:
        """How many `purge` would delete."""
        age = seconds(finished_for, name="finished_for", positive=False)
        before = self.sagas.clock.now() - age
        finished = self.select(statuses=sorted(FINISHED))
        parents = {
            one.id: parent_of(one.key)
            async for one in self.each(finished)
            if (one.finished_at or before) < before
        }
        others = list({parent for parent in parents.values() if parent not in parents} - {None})
        kept: set[UUID | None] = set()
        for begin in range(0, len(others), PAGE):
            some = tuple(id for id in others[begin : begin + PAGE] if id is not None)
            kept |= {one.id for one in await self.sagas.store.find(Filter(ids=some), limit=PAGE)}

        def is_kept(id: UUID | None) -> bool:
            while id in parents:
                id = parents[id]
            return id in kept

        return sum(not is_kept(id) for id in parents)

    async def purge(self, *, finished_for: Duration, batch: int = 1000) -> AsyncIterator[int]:
        """Delete what finished longer ago than that, in batches; after each, how many so far.

        A child saga is kept for as long as its parent is, which may have to undo it yet.
        """
        age = seconds(finished_for, name="finished_for", positive=False)
        before, done = self.sagas.clock.now() - age, 0
        while gone := await self.sagas.store.purge(PATTERN, finished_before=before, limit=batch):
            done += gone
            yield done


def check(act: ev.Mailed) -> None:
    """Raise `ConfigurationError` for a skip or resolve without a reason, or a wrong outcome."""
    if isinstance(act, (ev.SkipAsked, ev.ResolveAsked)) and not act.reason.strip():
        raise ConfigurationError("a reason is needed: it is kept in the journal")
    if isinstance(act, ev.ResolveAsked) and act.outcome not in FINISHED:
        raise ConfigurationError(f"outcome={act.outcome!r}: choose completed or compensated")


def _check_fields(definition: Definition, data: bytes | msgspec.Raw) -> None:
    """Raise `ConfigurationError` for a field that the input's type doesn't have."""
    unknown = unknown_field(definition.input_type, data)
    if unknown:
        raise ConfigurationError(f"the input of saga {definition.name!r} {unknown}")
