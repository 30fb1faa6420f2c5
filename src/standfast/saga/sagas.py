"""The pattern of sagas, as an app has it: starting them, speaking to them, reading them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID

import msgspec

from standfast.checks import is_unawaited
from standfast.clock import Clock
from standfast.coordination.service import Service, ServiceOptions
from standfast.coordination.worker import Worker
from standfast.errors import (
    ConfigurationError,
    CorruptRecord,
    SagaNotFound,
    SagaParked,
    StoreUnavailable,
    TimedOut,
)
from standfast.ids import new_id, parse_id
from standfast.inside import is_inside, refuse_inside
from standfast.pattern import Host, Pattern
from standfast.ports.journal import Filter, Instance, JournalStore, Loaded, Mail
from standfast.ports.leases import LeaseStore
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.appending import mail
from standfast.saga.executor import SagaExecutor
from standfast.saga.handle import SagaHandle, SagaResult, Story, outcome
from standfast.saga.pending import Pending, pending
from standfast.saga.polling import Poller, next_look, sight
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.saga import Saga
from standfast.saga.starting import Starter
from standfast.saga.status import AT_REST, Status
from standfast.saga.step import Step, signal_name
from standfast.saga.stuck import StuckCount, is_measured
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.threads import Threads
from standfast.saga.timeline import Timeline, entries
from standfast.saga.verdict import Seen, judge
from standfast.saga.watchers import Gone
from standfast.saga.workers import Workers
from standfast.text import NAME_LENGTH, checked, did_you_mean
from standfast.transaction import UnitOfWork

log = logging.getLogger("standfast.saga")

LOOK_FOR_WORKERS = 5.0
"""Seconds between two looks whether a worker has what is waited for."""


class Sagas(Pattern):
    """All sagas of one database, seen from one process: a `Pattern`.

    `definitions` and `telemetry` are for tests; by default it makes its own.
    """

    ports: Sequence[type] = (JournalStore, LeaseStore)

    def __init__(
        self, definitions: Definitions | None = None, telemetry: SagaTelemetry | None = None
    ) -> None:
        self.telemetry: SagaTelemetry = telemetry or SagaTelemetry()
        self.poll: float = 0.5
        self._definitions = definitions

    # -- as a pattern ------------------------------------------------------------------------

    def attach(self, host: Host) -> None:
        """See `Pattern.attach`."""
        super().attach(host)
        self.clock: Clock = host.clock
        # Attached anew, in a forked process, it has the threads and the sagas that it had.
        self.threads: Threads = vars(self).get("threads") or Threads(
            host.blocking_transaction, ServiceOptions().threads, host.clock
        )
        self.definitions: Definitions = self._definitions or Definitions(host.codec, self.threads)
        self._definitions = self.definitions
        self.telemetry.threads = self.threads
        self.store: JournalStore = host.database.port(JournalStore)
        self.executor: SagaExecutor = SagaExecutor(host, self.definitions, self.telemetry)
        self.workers: Workers = Workers(host.database.port(LeaseStore), self.store, host.clock)
        self.starter: Starter = Starter(self.store, self.executor, self)
        self._database = host.database
        self.poller: Poller = Poller(self.store, host.clock, host.check_open)

    def add(self, part: Any) -> None:
        """Register a saga, as an instance. Raises `DefinitionError`."""
        self.telemetry.expect(self.definitions.add(part))

    async def open(self) -> None:
        """See `Pattern.open`. An OpenTelemetry SDK may be set until then."""
        self.telemetry.connect()
        self.starter.open(self._database.capabilities.write_lanes)

    async def close(self) -> None:
        """See `Pattern.close`."""
        await self.starter.close()

    def services(self, options: ServiceOptions) -> Sequence[Service]:
        """The worker, and the count of what is stuck where an OpenTelemetry SDK is set.

        Raises `DefinitionError` where a saga has a child that isn't added.
        """
        self.definitions.check_children()
        self.threads.limit = options.threads
        counting = StuckCount(self.store, self.telemetry, self.clock)
        return [
            Worker(
                "sagas",
                self.executor,
                self.store,
                clock=self.clock,
                exclusive=not self._database.capabilities.many_workers,
                max_in_flight=options.max_in_flight,
                poll=options.poll_seconds,
                linger=options.linger_seconds,
            ),
            # One that tells nobody would keep it from those that do.
            *([counting] if is_measured() else []),
        ]

    @property
    def journal(self) -> JournalStore:
        """The journal, of an app that is open. Raises `ConfigurationError` for one that isn't."""
        self.host.check_open()
        return self.store

    # -- speaking ----------------------------------------------------------------------------

    async def send(self, id: UUID, event: ev.Mailed, *, mail_id: str | None = None) -> None:
        """Send an event to an instance. Raises `SagaNotFound`, `ConfigurationError`."""
        self._refuse_inside()
        (known,) = await self.journal.send([self.mail(id, event, mail_id=mail_id)])
        if not known:
            raise self.unknown(id)
        self.executor.sent(id)

    def _refuse_inside(self) -> None:
        refuse_inside(
            self._database, "send to a saga", "tx.signal(handle, …) or tx.cancel(handle, …)"
        )

    async def send_within(
        self, tx: UnitOfWork, id: UUID, event: ev.Mailed, *, mail_id: str | None = None
    ) -> None:
        """As `send`, as part of a transaction."""
        (known,) = await tx.within(JournalStore).send([self.mail(id, event, mail_id=mail_id)])
        if not known:
            raise self.unknown(id)
        tx.hint(partial(self.executor.sent, id))

    def mail(self, id: UUID, event: ev.Mailed, *, mail_id: str | None = None) -> Mail:
        """The mail by which an event travels. Raises `ConfigurationError` for unfit text."""
        for field in event.__struct_fields__:
            value = getattr(event, field)
            if isinstance(value, str):
                checked(value, name=field)
        if mail_id is not None:
            checked(mail_id, name="id", longest=NAME_LENGTH)
        return mail(id, mail_id or str(new_id()), event, self.clock.now())

    async def signal(
        self,
        id: UUID,
        signal: Step[Any, Any] | str,
        payload: Any = None,
        *,
        mail_id: str | None = None,
    ) -> None:
        """See `SagaHandle.signal`."""
        name = signal_name(signal)
        self._refuse_inside()  # at first: nobody sees what was started in there
        event = self._signalled(await self.instance(id), name, payload)
        await self.send(id, event, mail_id=mail_id)

    async def signal_within(
        self,
        tx: UnitOfWork,
        saga: SagaHandle[Any] | UUID | str,
        signal: Step[Any, Any] | str,
        payload: Any,
        *,
        mail_id: str | None,
    ) -> None:
        """See `Transaction.signal`."""
        id, name = self.handle(saga).id, signal_name(signal)
        row = await tx.within(JournalStore).instance(id)
        if row is None:
            raise self.unknown(id)
        await self.send_within(tx, id, self._signalled(row, name, payload), mail_id=mail_id)

    async def cancel_within(
        self,
        tx: UnitOfWork,
        saga: SagaHandle[Any] | UUID | str,
        reason: str,
        *,
        force: bool,
        by: str,
    ) -> None:
        """See `Transaction.cancel`."""
        await self.send_within(tx, self.handle(saga).id, ev.CancelAsked(reason, by, force))

    def _signalled(self, instance: Instance, name: str, payload: Any) -> ev.Signalled:
        """A signal as an event, its payload checked. Raises `CodecError`, `ConfigurationError`."""
        known = self.definitions.by_kind.get((PATTERN, instance.name, instance.version))
        codec = self.definitions.codec
        data = codec.encode(payload) if known is None else known.check_signal(name, payload)
        return ev.Signalled(name, msgspec.Raw(data))

    # -- reading -----------------------------------------------------------------------------

    def handle(self, saga: SagaHandle[Any] | UUID | str) -> SagaHandle[Any]:
        """A handle by id; nothing is looked up. Raises `ConfigurationError` for what is no id."""
        return saga if isinstance(saga, SagaHandle) else SagaHandle(self, id_of(saga))

    async def get(self, saga: type[Saga[Any]] | str, key: str) -> SagaHandle[Any]:
        """The instance of a saga that was started with `key`. Raises `SagaNotFound`."""
        name = self._named(saga, key)
        found = await self.journal.by_key(PATTERN, name, key)
        if found is None:
            raise self.no_key(name, key)
        return SagaHandle(self, found.id)

    async def get_within(
        self, tx: UnitOfWork, saga: type[Saga[Any]] | str, key: str
    ) -> SagaHandle[Any]:
        """See `Transaction.saga`."""
        name = self._named(saga, key)
        found = await tx.within(JournalStore).by_key(PATTERN, name, key)
        if found is None:
            raise self.no_key(name, key, within=True)
        return SagaHandle(self, found.id)

    def _named(self, saga: type[Saga[Any]] | str, key: str) -> str:
        name = saga if isinstance(saga, str) else self.definitions.of(saga).name
        checked(name, name="saga")
        checked(key, name="key", longest=NAME_LENGTH)
        return name

    def no_key(self, name: str, key: str, *, within: bool = False) -> SagaNotFound:
        """The error for a key that no saga of that name has; it tells of a misspelt name.

        `within`: it was looked for in the transaction that is open here.
        """
        known = {definition.name for definition in self.definitions.by_kind.values()}
        near = "" if name in known else did_you_mean(name, known)
        not_yet = "" if within else self._not_yet()
        return SagaNotFound(f"no saga {name!r} has the key {key!r}{near}{not_yet}")

    def unknown(self, id: UUID) -> SagaNotFound:
        """The error for an id that nobody has."""
        return SagaNotFound(f"no saga has the id {id}{self._not_yet()}")

    def _not_yet(self) -> str:
        """What to add inside a transaction, whose own sagas nobody sees before it commits."""
        if not is_inside(self._database):
            return ""
        return (
            ": if it was started in the transaction that is open here, its transaction hasn't "
            "committed yet, so ask after the block, or tx.saga(…) for its key"
        )

    async def instance(self, id: UUID) -> Instance:
        """The searchable row. Raises `SagaNotFound`."""
        found = await self.journal.find(Filter(ids=(id,)), limit=1)
        if not found:
            raise self.unknown(id)
        return found[0]

    async def stories(self, ids: Iterable[UUID]) -> list[Story]:
        """All that happened to these instances. Raises `SagaNotFound` if one is unknown."""
        ids = list(ids)
        loaded = {one.instance.id: one for one in await self.journal.load(ids)}
        out: list[Story] = []
        for id in ids:
            if id not in loaded:
                raise self.unknown(id)
            out.append(self._story(loaded[id]))
        return out

    def _story(self, loaded: Loaded) -> Story:
        facts: list[fx.AnyFact] = []
        try:
            for number, text in enumerate(loaded.facts):
                facts.append(fx.decode(text, number))
            _, state = self.definitions.machine(loaded)
        except Exception as error:  # noqa: BLE001 — told in `problem`: reading must go on
            return Story(loaded.instance, facts, None, f"{error}")
        return Story(loaded.instance, facts, state)

    async def timeline(self, id: UUID) -> Timeline:
        """See `SagaHandle.timeline`."""
        loaded = await self.journal.load([id])
        if not loaded:
            raise self.unknown(id)
        row = loaded[0].instance
        holders = {} if row.owner is None else await self.workers.holders()
        return self.timeline_of(loaded[0], holders, await self.workers.full(row))

    def timeline_of(self, loaded: Loaded, holders: Mapping[int, str], full: str = "") -> Timeline:
        """The timeline of an instance that was read. `holders`: the processes, by their token.

        `full`: why nobody takes it though it is due, as `Workers.full` says.
        """
        story, row = self._story(loaded), loaded.instance
        now = self.clock.now()
        goes_on: Sequence[Pending] = ()
        if story.state is not None and row.finished_at is None:
            worker = "" if row.owner is None else holders.get(row.owner, f"lease {row.owner}")
            goes_on = pending(story.state, now=now, worker=worker, wake_at=row.wake_at, full=full)
        return Timeline(
            id=row.id,
            saga=row.name,
            version=row.version,
            key=row.key,
            status=cast(Status, row.status),
            entries=entries(story.facts),
            pending=goes_on,
            problem=story.problem,
            read_at=now,
        )

    def outcome(self, id: UUID, limit: float | None = None) -> Awaitable[SagaResult[Any]]:
        """Wait until the instance ends or parks, for `limit` seconds at most.

        Errors as in `SagaHandle.result`. Where it isn't run in this process, it is looked for in
        the store, every `poll` seconds at last and much more often at first, in one query for all
        who wait.
        """
        if limit is None:
            return self._outcome(id, Seen(), LOOK_FOR_WORKERS)
        return self._outcome_within(id, limit)

    async def _outcome_within(self, id: UUID, limit: float) -> SagaResult[Any]:
        seen = Seen()
        bound = asyncio.timeout(limit)
        try:
            async with bound:
                return await self._outcome(id, seen, min(1.0, limit / 2))
        except TimeoutError:
            if not bound.expired():  # somebody else's
                raise
            seen.away = self.poller.away
            still_at = self.clock.now() if getattr(self.clock, "is_manual", False) else None
            raise TimedOut(seen.too_long(id, limit, still_at)) from None

    async def _outcome(self, id: UUID, seen: Seen, patience: float) -> SagaResult[Any]:
        """Wait without a limit, and keep in `seen` what was seen.

        After `patience` seconds it begins to look whether any worker has the saga.
        """
        self.host.check_open()  # here is what a watcher, of another loop, would wait for
        begun = self.clock.monotonic()
        looks_at = begun + patience
        while True:
            active = self.executor.active.get(id)
            if active is not None:
                seen.here = active
                try:
                    definition, state = await self.executor.watchers.watch(id)
                except Gone:
                    continue
                return outcome(definition, state)
            row = await self.poller.row(id)
            if row is None:
                raise self.unknown(id)
            if row.status in AT_REST:
                result = await self._result_at_rest(id)
                if result is not None:
                    return result
            seen.here, seen.status = None, row.status
            seen.name, seen.version, seen.key = row.name, row.version, row.key
            if row.owner is not None:
                seen.full = ""
            now = self.clock.monotonic()
            if now >= looks_at:
                looks_at = now + LOOK_FOR_WORKERS
                await self._look_for_workers(row, seen)
            await self.clock.sleep(next_look(now, now - begun, self.poll) - now)

    async def _look_for_workers(self, row: Instance, seen: Seen) -> None:
        """Note, and warn once in a while, when no live worker has the saga that is waited for.

        Note, too, when all that have it have no slot for it.
        """
        kind = (PATTERN, seen.name, seen.version)
        try:
            seen.lacks_worker = await self.workers.lack(kind)
            seen.full = await self.workers.full(row)
        except StoreUnavailable:  # the next look at the saga tells
            return
        if seen.lacks_worker and self.workers.is_news(kind):
            log.warning("still waiting for saga %s (%s): %s", row.id, seen.status, seen.nobody)

    async def _result_at_rest(self, id: UUID) -> SagaResult[Any] | None:
        """The result of one that is at rest, or None if it moves again."""
        loaded = await self.poller.whole(id)
        if loaded is None:
            raise self.unknown(id)
        row, works_here = loaded.instance, self.executor.desk is not None
        if row.status not in AT_REST:
            return None
        try:
            definition, state = self.definitions.machine(loaded)
        except (SagaNotFound, CorruptRecord) as problem:
            if judge(sight(loaded, None, works_here=works_here)) == "wait":
                return None
            raise SagaParked(f"saga {id}: {problem}", cause=row.cause) from problem
        if judge(sight(loaded, state.status, works_here=works_here)) == "wait":
            return None
        return outcome(definition, state, row)


def id_of(id: UUID | str) -> UUID:
    """The id that was given, as text or not. Raises `ConfigurationError` if it is none."""
    found = parse_id(id) if isinstance(id, str) else id
    if not isinstance(found, UUID):
        look_up = "to look one up by its key, use app.saga(PlaceOrder, key)"
        hint = "await it" if is_unawaited(id) else look_up
        raise ConfigurationError(f"id={id!r} isn't the id of a saga (a UUID): {hint}")
    return found
