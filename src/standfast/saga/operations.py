"""What an operator does to sagas: find them (`Finding`), and act on one or on many.

Acts travel as mail and are decided by the instance's own machine, so each is in its journal with
the one who asked (`by`), also when it came too late. What is asked of an instance that no live
worker has registered waits until one does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from standfast.checks import whole
from standfast.durations import Age, Duration, age
from standfast.errors import CodecError, ConfigurationError, CorruptRecord
from standfast.ports.journal import Filter, Instance
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.acts import APPLIES_TO, check
from standfast.saga.definition import Definition
from standfast.saga.finding import PAGE, Finding, Which
from standfast.saga.handle import SagaHandle
from standfast.saga.inputs import as_json, from_json, parsed
from standfast.saga.purging import purged
from standfast.saga.registry import PATTERN
from standfast.saga.saga import Saga
from standfast.saga.settling import settle
from standfast.saga.step import Step, name_of
from standfast.saga.unknown_fields import unknown_field
from standfast.text import class_of, on_one_line

Where: TypeAlias = Filter | Which | Iterable[Which]
"""Which instances an act is for: all that a filter (see `Operations.select`) lets through and that
the act can change; or one or many, each by a handle, an id or an address. Where one of those isn't
there, none is asked: `SagaNotFound`."""


class Progress(NamedTuple):
    """How far an act on many came: how many were told so far, and the ids of the last batch."""

    done: int
    ids: Sequence[UUID]

    @property
    def last(self) -> UUID:
        """The last one that was told."""
        return self.ids[-1]


class Operations(Finding):
    """All that an operator can do to the sagas of one open app, as ``app.operations``.

    What the command line does it does by this. It needs no worker in this process, and the code of
    the sagas only where it says so. Everything raises `StoreUnavailable` where the database is
    away.
    """

    # -- starting ----------------------------------------------------------------------------

    async def start(
        self,
        name: type[Saga[Any]] | str,
        input: bytes | str | msgspec.Raw,
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
        data = as_json(input, "input", "app.start")
        _check_fields(definition, data)
        return await self._start(definition, data, key, correlation_id, at=at, after=after)

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
        value = from_json(definition, input)
        return await self.sagas.starter.start(
            name, value, key=key, correlation_id=correlation_id, at=at, after=after
        )

    async def fork(
        self, saga: Which, *, key: str | None = None, replace: Mapping[str, Any] | None = None
    ) -> SagaHandle[Any]:
        """Start a new instance from the input of an old one, finished or not.

        `saga` is that one, as a handle, an id or an address. `replace` gives fields of the input
        other values (plain JSON values). The newest version of the saga runs it from the beginning;
        its correlation id is ``fork of ID``. The old instance isn't touched: what it did is done
        again. Raises as `start`, `SagaNotFound`, and `CorruptRecord` where the old input can't be
        read.
        """
        id = await self._id_of(saga)
        instance = await self.sagas.instance(id)
        definition = self.sagas.definitions.of(instance.name)
        input: Any = msgspec.json.decode(await self._input(id))
        if replace:
            changes = _fields(replace)
            if not isinstance(input, dict):
                raise ConfigurationError(
                    f"saga {id} has an input without fields: there is nothing to replace in it"
                )
            _check_fields(definition, changes)
            input = {**input, **replace}
        data = msgspec.json.encode(input)
        return await self._start(definition, data, key, f"fork of {id}")

    async def _input(self, id: UUID) -> msgspec.Raw:
        """The input as it stands, read past whatever can't be read behind it."""
        (loaded,) = await self.sagas.journal.load([id])
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

    async def retry(self, where: Where, *, at: Step[Any, Any] | str = "", by: str = "") -> int:
        """Try again what is parked, or an undo that failed; how many were asked.

        `where` is a filter by `select`, or one or many instances, each as an address, id or handle.
        `at`: only that step, itself or by name. Like all acts it is sent as mail: a worker acts on
        it, and the journal keeps who asked (`by`), also where it came too late. Raises
        `SagaNotFound`, and asks none, where one of those named isn't there.
        """
        return await self._ask(ev.RetryAsked(name_of(at, option="at"), by), where)

    async def skip(
        self, where: Where, *, reason: str, at: Step[Any, Any] | str = "", by: str = ""
    ) -> int:
        """Take what is parked as done, or its undo; how many were asked. See `retry`.

        Raises `ConfigurationError` without a reason.
        """
        return await self._ask(ev.SkipAsked(name_of(at, option="at"), reason, by), where)

    async def resolve(self, where: Where, outcome: str, *, reason: str, by: str = "") -> int:
        """End what is stuck or waits as "completed" or "compensated", without running anything.

        One whose code no live worker has is ended by this process, and one whose journal can't be
        read by a worker. One that is given by itself may also pause before its next attempt. Child
        sagas that it waits for go on: its timeline, and a warning in the log, names them.
        Answers how many were asked; see `retry`. Raises `ConfigurationError`.
        """
        return await self._ask(ev.ResolveAsked(outcome, reason, by), where)

    async def cancel(
        self, where: Where, *, reason: str = "", force: bool = False, by: str = ""
    ) -> int:
        """Ask for compensation, as `SagaHandle.cancel`; how many were asked."""
        return await self._ask(ev.CancelAsked(reason, by, force), where)

    async def signal(
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
        where = await self._checked(where)
        act = self.signalled(name, payload, await self._examples(ev.Signalled, where))
        return await self._ask(act, where, mail_id=mail_id)

    async def migrate(self, where: Where, version: int, *, by: str = "") -> int:
        """Ask instances to move to another version of their saga; how many were asked.

        Those that are being run move when the attempts in flight have ended. One that can't move
        stays as it is, with the reason in its journal. Raises `ConfigurationError` where the code
        at hand knows already that one can't.
        """
        where = await self._checked(where)
        act = self.moved(version, await self._examples(ev.MigrateAsked, where), by=by)
        return await self._ask(act, where)

    async def _ask(self, act: ev.Mailed, where: Where, *, mail_id: str | None = None) -> int:
        return sum([len(told.ids) async for told in self.tell(act, where, mail_id=mail_id)])

    async def _checked(self, where: Where) -> Filter | list[UUID]:
        """What an act is for: a filter as it is, all else as ids that are there."""
        return where if isinstance(where, Filter) else await self.ids_of(where)

    async def _examples(self, act: type[ev.Mailed], where: Filter | list[UUID]) -> list[Instance]:
        """One instance of each kind that the act is for."""
        if isinstance(where, Filter):
            found = {(one.name, one.version): one async for one in self.matching(act, where)}
            return list(found.values())
        kinds: dict[tuple[str, int], Instance] = {}
        for begin in range(0, len(where), PAGE):
            some = Filter(pattern=PATTERN, ids=tuple(where[begin : begin + PAGE]))
            kinds |= {(one.name, one.version): one async for one in self.each(some)}
        return list(kinds.values())

    def signalled(
        self, name: str, payload: bytes | str | msgspec.Raw, instances: Sequence[Instance]
    ) -> ev.Signalled:
        """A signal, for `tell`, checked against the waits of each instance's known definition."""
        data = as_json(payload, "payload", "handle.signal")
        value = parsed(data, f"the payload of signal {name!r}")
        for kind in {(PATTERN, one.name, one.version) for one in instances}:
            definition = self.sagas.definitions.by_kind.get(kind)
            if definition is None:
                continue
            try:
                definition.check_signal(name, value)
            except CodecError as error:
                raise ConfigurationError(f"{error}") from error
        return ev.Signalled(name, msgspec.Raw(data))

    def moved(
        self, version: int, instances: Sequence[Instance], *, by: str = ""
    ) -> ev.MigrateAsked:
        """The act, for `tell`, that moves instances, checked against the code at hand."""
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

    async def matching(
        self, act: type[ev.Mailed], filter: Filter, *, after: UUID | None = None
    ) -> AsyncIterator[Instance]:
        """Those of `filter` that such an act can change, newest first, read in pages."""
        possible = APPLIES_TO[act]
        statuses = tuple(one for one in filter.statuses or possible if one in possible)
        if statuses:  # without any, a filter would let all through
            async for one in self.each(replace(filter, statuses=statuses), after=after):
                yield one

    async def tell(
        self,
        act: ev.Mailed,
        where: Where,
        *,
        after: UUID | None = None,
        batch: int = 200,
        mail_id: str | None = None,
    ) -> AsyncIterator[Progress]:
        """Send an act in batches; after each, how far it came. One may stop there.

        Instances of a filter are read in pages while it goes on, newest first, so memory holds one
        page; `after` goes on below the `last` of an act that was stopped (of ids, give those that
        are left instead). With a `mail_id`, sending it again to an instance changes nothing. Raises
        `ConfigurationError` for a skip or resolve without a reason, a wrong outcome, a `batch`
        below 1, an `after` with ids, or inside this app's own transaction; and `SagaNotFound`,
        before any is told, for one that isn't there.
        """
        self.sagas.refuse_inside()
        check(act)
        whole(batch, name="batch")
        if after is not None and not isinstance(where, Filter):
            raise ConfigurationError("after= goes with a filter: give the ids that are left")
        done = 0
        chosen = await self._checked(where)
        async for batched in self._batches(type(act), chosen, after, batch):
            mails = [self.sagas.mail(id, act, mail_id=mail_id) for id in batched]
            # One may have been deleted since it was looked for.
            known = await self.sagas.journal.send(mails)
            some = [id for id, is_there in zip(batched, known, strict=True) if is_there]
            if not some:
                continue
            if isinstance(act, ev.MigrateAsked):  # so that workers of that version may claim them
                await self.sagas.journal.reassign(some, version=act.version)
            if isinstance(act, ev.ResolveAsked):
                await self._settle(some)
            for id in some:
                self.sagas.executor.sent(id)
            done += len(some)
            yield Progress(done, some)

    async def _settle(self, ids: Sequence[UUID]) -> None:
        """End those here whose code is gone: neither this process nor any live worker has it."""
        sagas, known = self.sagas, self.sagas.definitions.by_kind
        which = Filter(pattern=PATTERN, ids=tuple(ids))
        gone = [
            one.id
            for one in await sagas.journal.find(which, limit=len(ids))
            if one.owner is None
            and (PATTERN, one.name, one.version) not in known
            and await sagas.workers.lack((PATTERN, one.name, one.version))
        ]
        if gone:
            leases = sagas.host.database.port(LeaseStore)
            for mail in await settle(sagas.journal, leases, gone, sagas.clock):
                sagas.executor.sent(mail.to)

    async def _batches(
        self,
        act: type[ev.Mailed],
        where: Filter | list[UUID],
        after: UUID | None,
        batch: int,
    ) -> AsyncIterator[Sequence[UUID]]:
        if not isinstance(where, Filter):
            for begin in range(0, len(where), batch):
                yield where[begin : begin + batch]
            return
        some: list[UUID] = []
        async for one in self.matching(act, where, after=after):
            some.append(one.id)
            if len(some) == batch:
                yield some
                some = []
        if some:
            yield some

    async def count_finished(self, *, finished_for: Age) -> int:
        """How many `purge` would delete. Raises `ConfigurationError` as that does."""
        before = self.sagas.clock.now() - age(finished_for, name="finished_for")
        return await self.sagas.journal.count_finished(PATTERN, finished_before=before)

    async def purge(self, *, finished_for: Age, batch: int = 1000) -> AsyncIterator[int]:
        """Delete what finished longer ago than that, in batches; after each, how many so far.

        A child saga is kept for as long as its parent is, which may have to undo it yet. Raises
        `ConfigurationError` for a number without a unit, which may be meant in days, and a `batch`
        below 1.
        """
        before, done = self.sagas.clock.now() - age(finished_for, name="finished_for"), 0
        whole(batch, name="batch")
        async with aclosing(
            purged(self.sagas.journal, finished_before=before, batch=batch)
        ) as batches:
            async for gone in batches:
                if gone:
                    done += gone
                    yield done


def _fields(replace: object) -> bytes:
    """New values for fields, as JSON. Raises `ConfigurationError` for what can't be that."""
    try:
        if isinstance(replace, Mapping):
            return msgspec.json.encode(replace)
        problem = f"not {class_of(replace)}"
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"and plain JSON values: {error}"
    raise ConfigurationError(
        f"replace={on_one_line(repr(replace), 80)}: give a dict of fields, {problem}"
    )


def _check_fields(definition: Definition, data: bytes | msgspec.Raw) -> None:
    """Raise `ConfigurationError` for a field that the input's type doesn't have."""
    unknown = unknown_field(definition.input_type, data)
    if unknown:
        raise ConfigurationError(f"the input of saga {definition.name!r} {unknown}")
