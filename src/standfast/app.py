"""`Standfast`: one app on one database. It joins patterns, opens transactions, runs services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from standfast.affinity import Affinity
from standfast.backends import open_database
from standfast.clock import SYSTEM_CLOCK, AdjustedClock, Clock
from standfast.codec import JSON, Codec
from standfast.coordination.membership import Membership
from standfast.coordination.service import ServiceOptions
from standfast.coordination.signals import until_signalled
from standfast.coordination.supervisor import Supervisor
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.joining import Joined
from standfast.ports.database import Database, StoreTransaction
from standfast.ports.leases import LeaseStore
from standfast.tables import check_tables
from standfast.transaction import UnitOfWork, unit_of_work

if TYPE_CHECKING:  # so that an app without sagas doesn't load their engine
    from standfast.saga import Saga, SagaHandle
    from standfast.saga.sagas import Sagas

DRAIN = 30.0


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
        self.codec: Codec = codec
        self.clock: Clock = AdjustedClock(clock)
        self.migrate: bool | None = migrate
        self.patterns: Joined = Joined(self)
        self.supervisor: Supervisor | None = None
        self._opened: int = 0
        self._affinity: Affinity | None = None
        self._opening = asyncio.Lock()
        self._closing = AsyncExitStack()

    def add(self, *parts: Any) -> Self:
        """Add sagas (as instances) and patterns. Raises `DefinitionError`, `ConfigurationError`.

        The tables of what is added are made by ``standfast migrate``, so add before opening.
        """
        for part in parts:
            self.patterns.add(part)
        return self

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._affinity is not None:
            self._affinity.check()
        async with self._opening:
            if not self._opened:
                async with AsyncExitStack() as stack:
                    await self.database.open()
                    stack.push_async_callback(self.database.close)
                    await check_tables(self.database, self.patterns.ports, migrate=self.migrate)
                    await self._keep_time()
                    await stack.enter_async_context(self.patterns.opened())
                    self._affinity = Affinity("this app")
                    self._closing = stack.pop_all()
            self._opened += 1
        return self

    async def __aexit__(self, *raised: object) -> None:
        if self._affinity is not None:
            self._affinity.check()  # what is its owner's isn't closed elsewhere
        async with self._opening:
            self._opened -= 1
            if not self._opened:
                self._affinity = None
                await self._closing.aclose()

    async def _keep_time(self) -> None:
        assert isinstance(self.clock, AdjustedClock)
        await self.clock.adjust(self.database.clock_offset)

    @asynccontextmanager
    async def running(
        self,
        *,
        only: Collection[str] = (),
        name: str | None = None,
        lease: Duration = 10.0,
        max_in_flight: int = 1000,
        drain: Duration = DRAIN,
        poll: Duration = 2.0,
        linger: Duration = 1.0,
    ) -> AsyncIterator[Supervisor]:
        """Work in the background of the block: run services, take over from the dead.

        `only`: the names of the services to run here, by default all. `name`: this process's, for
        people. `lease`: within this time of its death others take over; stuck for less than half of
        it, it keeps what it has. Give all processes the same. `max_in_flight`: how much each
        service has in memory at once. `drain`: how long what is in flight may take at the end.
        `poll`: how often to look for work that nobody hinted at. `linger`: sagas that sleep for
        longer leave memory. On SQLite, services stand by while another process runs them. Raises
        `DefinitionError` where a saga has a child that isn't added, `ConfigurationError`.
        """
        if self.supervisor is not None:
            raise ConfigurationError("this app is running already: once per app and process")
        options = ServiceOptions(max_in_flight, poll, linger)
        services = self.patterns.services(options, only)
        patience = seconds(drain, name="drain", positive=False)
        membership = Membership(
            self.database.port(LeaseStore),
            clock=self.clock,
            lease=_lease(lease),
            name=name,
            keep_time=self._keep_time,
        )
        async with self:
            supervisor = self.supervisor = Supervisor(membership, services, clock=self.clock)
            try:
                await supervisor.start(drain=patience)
                try:
                    yield supervisor
                finally:
                    await supervisor.stop(patience)
            finally:
                self.supervisor = None

    async def run(self, **options: Any) -> None:
        """Work until SIGTERM or SIGINT, then drain. Options as in `running`."""
        drain = seconds(options.get("drain", DRAIN), name="drain", positive=False)
        await until_signalled(self.running(**options), drain=drain)

    # -- transactions ------------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """One commit or none: your rows, and whatever you start, through the same `tx`.

        Commits at the end of the block, rolls back if it raises or is cancelled. On SQLite, writers
        take turns, so keep it short.
        """
        async with self, unit_of_work(self.database, partial(Transaction, self)) as tx:
            yield tx

    # -- sagas -------------------------------------------------------------------------------

    @cached_property
    def sagas(self) -> Sagas:
        """The app's sagas: for tests, operators and tools."""
        from standfast.saga.sagas import Sagas

        return self.patterns.get(Sagas)

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
        return await self.sagas.starter.start(saga, input, key=key, correlation_id=correlation_id)

    async def saga(self, saga: type[Saga[Any]] | str, key: str) -> SagaHandle[Any]:
        """The instance that was started with `key`. Raises `SagaNotFound`."""
        return await self.sagas.get(saga, key)

    def handle(self, id: UUID | str) -> SagaHandle[Any]:
        """A handle by id; nothing is looked up until it is used.

        Raises `ConfigurationError` for text that isn't an id.
        """
        return self.sagas.handle(id)


def _lease(lease: Duration) -> float:
    found = seconds(lease, name="lease")
    if found < 0.1:
        raise ConfigurationError(f"lease={lease!r}: must be 0.1 s or more, or it runs out unheld")
    return found


class Transaction(UnitOfWork):
    """An open transaction. SQL takes ``$1, $2 …`` on every backend.

    Errors of the driver come out as `StoreError` (`ConstraintViolated`, `StoreUnavailable` …).
    """

    def __init__(self, app: Standfast, database: Database, store: StoreTransaction) -> None:
        super().__init__(database, store)
        self._app: Standfast = app

    async def start(
        self,
        saga: type[Saga[Any]] | str,
        input: Any,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
    ) -> SagaHandle[Any]:
        """Start a saga as part of this transaction. Otherwise as `Standfast.start`."""
        return await self._app.sagas.starter.start_within(
            self, saga, input, key=key, correlation_id=correlation_id
        )

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
        await self._app.sagas.signal_within(self, saga, name, payload, mail_id=id)

    async def cancel(
        self,
        saga: SagaHandle[Any] | UUID | str,
        reason: str = "",
        *,
        force: bool = False,
        by: str = "",
    ) -> None:
        """Ask for compensation as part of this transaction. Otherwise as `SagaHandle.cancel`."""
        await self._app.sagas.cancel_within(self, saga, reason, force=force, by=by)
