"""`Standfast`: one app on one database. It registers patterns, opens transactions, runs workers."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from standfast.backends import open_database
from standfast.batching import Batcher
from standfast.clock import SYSTEM_CLOCK, AdjustedClock, Clock
from standfast.codec import JSON, Codec
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError, MigrationNeeded, StaleWriter
from standfast.ids import parse_id
from standfast.ports.database import Database, Mark, Row, StoreTransaction
from standfast.ports.journal import Mail, Start, Started
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.blocks import refuse_inside, transaction_open
from standfast.saga.client import Sagas, unknown
from standfast.saga.definition import Definition, Saga
from standfast.saga.handle import SagaHandle
from standfast.saga.registry import Definitions
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.worker import Worker

log = logging.getLogger("standfast")


class Standfast:
    """One app: its patterns, and the database that they share.

    `database` is a URL (``sqlite:///shop.db``, ``postgresql://…``, ``memory://``) or a `Database`.
    `migrate`: apply missing migrations on opening; the default is to do so except on PostgreSQL,
    where ``standfast migrate`` does it. `clock` is set right by the database's own, where it has
    one, so that machines whose clocks are off agree on what is due. Use it as ``async with app:``,
    or call `run`.
    """

    def __init__(
        self,
        database: str | Database,
        *,
        codec: Codec = JSON,
        clock: Clock = SYSTEM_CLOCK,
        migrate: bool | None = None,
    ) -> None:
        self.database: Database = open_database(database) if isinstance(database, str) else database
        self._time = AdjustedClock(clock)
        self.clock: Clock = self._time
        self.definitions: Definitions = Definitions(codec)
        self.sagas: Sagas = Sagas(self.database.journal, self.definitions, clock=self.clock)
        self.sagas.wrap = self._wrap
        self.worker: Worker | None = None
        # Made when opened: an SDK may be set until then.
        self.telemetry: SagaTelemetry | None = None
        self.migrate: bool | None = migrate
        self._opened: int = 0
        self._opening = asyncio.Lock()
        self._starts: Batcher[tuple[Start, int | None], Started] | None = None

    def add(self, *sagas: Saga[Any]) -> Self:
        """Register sagas, as instances. Raises `DefinitionError`: it names step and remedy."""
        for saga in sagas:
            if not isinstance(saga, Saga):
                raise ConfigurationError(f"add({saga!r}): give an instance of a Saga subclass")
            self.definitions.add(saga)
        return self

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with self._opening:
            if not self._opened:
                await self.database.open()
                try:
                    await self._check_schema()
                    await self._keep_time()
                except BaseException:
                    await self.database.close()
                    raise
                if self.telemetry is None:
                    self.telemetry = SagaTelemetry()
                lanes = self.database.capabilities.write_lanes
                self._starts = Batcher(self._write_starts, lanes=lanes)
            self._opened += 1
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._opening:
            self._opened -= 1
            if not self._opened:
                if self._starts is not None:
                    await self._starts.close()
                self._starts = None
                await self.database.close()

    async def _keep_time(self) -> None:
        await self._time.adjust(self.database.clock_offset)

    async def _check_schema(self) -> None:
        current = await self.database.schema_version()
        newest = max((m.number for m in self.database.migrations), default=0)
        if current >= newest:
            return
        automatic = self.migrate
        if automatic is None:
            automatic = not self.database.capabilities.many_workers or current == newest
            automatic = automatic or not self.database.capabilities.durable
        if not automatic:
            raise MigrationNeeded(
                f"the database is at migration {current}, this version needs {newest}: run "
                "`standfast migrate`, or make the app with Standfast(…, migrate=True)"
            )
        await self.database.migrate()

    @asynccontextmanager
    async def running(
        self,
        *,
        name: str | None = None,
        lease: Duration = 10.0,
        max_in_flight: int = 1000,
        drain: Duration = 30.0,
        poll: Duration = 2.0,
        linger: Duration = 1.0,
    ) -> AsyncIterator[Worker]:
        """Work in the background of the block: run sagas, take over from the dead.

        `lease`: within this time of its death others take over; stuck for less than half of it, it
        keeps its sagas. Give all workers the same. `max_in_flight`: sagas in memory at once.
        `drain`: how long the attempts in flight may take at the end. `poll`: how often to look for
        work that nobody hinted at. `linger`: sagas that sleep for longer leave memory. On SQLite,
        waits here while another process is the worker. Raises `DefinitionError` where a saga has a
        child that isn't added.
        """
        if self.worker is not None:
            raise ConfigurationError("this app is running already: one worker per app and process")
        self.definitions.check_children()
        if max_in_flight < 1:
            raise ConfigurationError(f"max_in_flight={max_in_flight}: must be 1 or more")
        patience = seconds(drain, name="drain", positive=False)
        async with self:
            worker = Worker(
                self.sagas,
                self.database,
                name=name,
                lease=seconds(lease, name="lease"),
                max_in_flight=max_in_flight,
                poll=seconds(poll, name="poll"),
                linger=seconds(linger, name="linger"),
                keep_time=self._keep_time,
                telemetry=self.telemetry,
            )
            await worker.start()
            self.worker = worker
            try:
                yield worker
            finally:
                self.worker = None
                await worker.stop(patience)

    async def run(self, **options: Any) -> None:
        """Work until SIGTERM or SIGINT, then drain. Options as in `running`."""
        stop, begun = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        async def work() -> None:
            async with self.running(**options):
                begun.set()
                log.info("working; stop with SIGTERM or Ctrl-C")
                await stop.wait()
                log.info("draining")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        working, stopping = loop.create_task(work()), loop.create_task(stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set() or working.done():
                await working
        finally:
            # Standing by for a lease, it would not see the stop.
            stopping.cancel()
            working.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    # -- sagas -------------------------------------------------------------------------------

    async def start(
        self,
        saga: type[Saga[Any]] | str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> SagaHandle[Any]:
        """Start a saga in a transaction of its own; idempotent by (saga, key).

        Starting again with the same key and input answers with the one there is, running or
        finished (``handle.created`` tells which). Raises `SagaConflict` for another input,
        `ConfigurationError` for a saga that isn't added, a wrong type of input, a key that can't be
        stored, or inside this app's own transaction (`Transaction.start` is for there),
        `CodecError`, `StoreUnavailable`.
        """
        refuse_inside(self.sagas, "start a saga", "tx.start(…)")
        definition, start, started = self._prepare(saga, input, key, correlation_id)
        worker = self.worker
        if self._starts is None:
            raise ConfigurationError("the app isn't open: use `async with app:` or app.running()")
        owner: int | None = None
        answer: Started | None = None
        if worker is not None and worker.promise(definition):
            assert worker.runner is not None
            owner = worker.runner.owner
            try:
                alone = worker.has_one()  # and so nobody to share a commit with
                write = self._starts.write_alone if alone else self._starts.submit
                answer = await write((start, owner))
            except StaleWriter:
                owner = None
            except BaseException:
                # Its caller gives up, but it may be written all the same, as this worker's own.
                worker.doubt(start.instance.id)
                raise
            finally:
                worker.free(definition)
        if answer is None:
            answer = await self._starts.submit((start, None))
        handle = self.sagas.accept(start, answer)
        if answer.created:
            self._began(definition, start, started, input, owner)
        return handle

    def _prepare(
        self,
        saga: type[Saga[Any]] | str,
        input: Any,
        key: str | None,
        correlation_id: str | None,
    ) -> tuple[Definition, Start, fx.Started]:
        definition = self.definitions.of(saga)
        spans = None if self.telemetry is None else self.telemetry.spans
        trace = None if spans is None else spans.begin(definition.name, key or "")
        return self.sagas.prepare(
            definition, input, key=key, correlation_id=correlation_id, trace=trace
        )

    def _began(
        self,
        definition: Definition,
        start: Start,
        started: fx.Started,
        input: Any,
        owner: int | None,
    ) -> None:
        """A start was committed: run it here if it is ours, else say that it is due."""
        if self.telemetry is not None:
            self.telemetry.begun(definition.name)
        worker = self.worker
        if worker is None:
            return
        if owner is not None and worker.runner is not None and worker.runner.owner == owner:
            worker.adopt(definition, start, started, input)
        else:
            worker.hint(start.instance.id)

    def _write_starts(
        self, batch: Sequence[tuple[Start, int | None]]
    ) -> Awaitable[Sequence[Started | Exception]]:
        """Write starts that share an owner, as nearly always, in one commit."""
        starts, owners = zip(*batch, strict=True)
        if len(set(owners)) > 1:
            return self._write_by_owner(batch)
        return self.database.journal.start(starts, owner=owners[0])

    async def _write_by_owner(
        self, batch: Sequence[tuple[Start, int | None]]
    ) -> Sequence[Started | Exception]:
        answers: list[Started | Exception] = []
        for owner, group in groupby(batch, itemgetter(1)):
            starts = [start for start, _ in group]
            try:
                answers += await self.database.journal.start(starts, owner=owner)
            except StaleWriter as error:
                answers += [error] * len(starts)
        return answers

    async def saga(self, saga: type[Saga[Any]] | str, key: str) -> SagaHandle[Any]:
        """The instance that was started with `key`. Raises `SagaNotFound`."""
        return await self.sagas.get(saga, key)

    def handle(self, id: UUID | str) -> SagaHandle[Any]:
        """A handle by id; nothing is looked up until it is used.

        Raises `ConfigurationError` for text that isn't an id.
        """
        return SagaHandle(self.sagas, _id(id))

    # -- transactions ------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One commit or none: your rows, and whatever you start, through the same `tx`.

        Commits at the end of the block, rolls back if it raises or is cancelled. On SQLite, writers
        take turns, so keep it short.
        """
        async with self:
            tx: Transaction
            async with self.database.transaction() as store:
                tx = Transaction(self, store)
                with transaction_open(self.sagas):
                    yield tx
            tx.committed()

    def _wrap(self, store: StoreTransaction) -> tuple[Transaction, Callable[[], None]]:
        tx = Transaction(self, store)
        return tx, tx.committed


class Transaction:
    """An open transaction. SQL takes ``$1, $2 …`` on every backend.

    Errors of the driver come out as `StoreError` (`ConstraintViolated`, `StoreUnavailable` …).
    """

    def __init__(self, app: Standfast, store: StoreTransaction) -> None:
        self._app: Standfast = app
        self.store: StoreTransaction = store
        self._begun: list[tuple[Definition, Start, fx.Started, Any]] = []
        self._sent: list[UUID] = []

    async def execute(self, sql: str, *args: Any) -> int:
        """Run a statement; how many rows it touched."""
        return await self.store.execute(sql, *args)

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        """All rows, each readable by column name or position."""
        return await self.store.fetch(sql, *args)

    async def fetch_one(self, sql: str, *args: Any) -> Row | None:
        """The first row, or None."""
        return await self.store.fetch_one(sql, *args)

    async def fetch_value(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self.store.fetch_value(sql, *args)

    async def start(
        self,
        saga: type[Saga[Any]] | str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> SagaHandle[Any]:
        """Start a saga as part of this transaction. Otherwise as `Standfast.start`."""
        definition, start, started = self._app._prepare(saga, input, key, correlation_id)  # noqa: SLF001
        (answer,) = await self.store.start([start], owner=None)
        handle = self._app.sagas.accept(start, answer)
        if answer.created:
            self._begun.append((definition, start, started, input))
        return handle

    async def signal(
        self,
        saga: SagaHandle[Any] | UUID | str,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
    ) -> None:
        """Send a signal as part of this transaction. Otherwise as `SagaHandle.signal`.

        `saga` is a handle, or the instance's id.
        """
        to = _id(saga)
        row = await self.store.instance(to)
        if row is None:
            raise unknown(to)
        event = self._app.sagas.signalled(row, name, payload)
        await self._send(self._app.sagas.mail(to, event, mail_id=id))

    async def cancel(
        self,
        saga: SagaHandle[Any] | UUID | str,
        reason: str = "",
        *,
        force: bool = False,
        by: str = "",
    ) -> None:
        """Ask for compensation as part of this transaction. Otherwise as `SagaHandle.cancel`."""
        await self._send(self._app.sagas.mail(_id(saga), ev.CancelAsked(reason, by, force)))

    async def _send(self, mail: Mail) -> None:
        (known,) = await self.store.send([mail])
        if not known:
            raise unknown(mail.to)
        self._sent.append(mail.to)

    async def mark(self, key: str, operation: str, reason: str, *, at: float) -> Mark | None:
        """Set a mark, as `barrier` does. None if it is new, else the one already there."""
        return await self.store.mark(key, operation, reason, at=at)

    async def keep_result(self, key: str, operation: str, result: str) -> None:
        """Keep a JSON text with a mark."""
        await self.store.keep_result(key, operation, result)

    def committed(self) -> None:
        """Called once the transaction is durable: the worker here may take what was started."""
        for definition, start, started, input in self._begun:
            self._app._began(definition, start, started, input, None)  # noqa: SLF001
        for id in self._sent:
            self._app.sagas.on_sent(id)


def _id(saga: SagaHandle[Any] | UUID | str) -> UUID:
    if isinstance(saga, SagaHandle):
        return saga.id
    id = parse_id(saga) if isinstance(saga, str) else saga
    if not isinstance(id, UUID):
        raise ConfigurationError(
            f"id={saga!r} isn't the id of a saga (a UUID): to look one up by its key, use "
            "app.saga(PlaceOrder, key)"
        )
    return id
