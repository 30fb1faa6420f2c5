"""`Standfast`: one app on one database. It joins patterns, opens transactions, runs services."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from standfast.affinity import Affinity, LoopLock, not_open
from standfast.backends import anew, open_database
from standfast.checks import flag, provides
from standfast.clock import SYSTEM_CLOCK, AdjustedClock, Clock
from standfast.codec import JSON, Codec
from standfast.coordination.membership import Membership
from standfast.coordination.service import ServiceOptions
from standfast.coordination.signals import until_signalled
from standfast.coordination.supervisor import Supervisor
from standfast.doors import AppDoors, Transaction
from standfast.durations import Duration, seconds
from standfast.errors import ConfigurationError
from standfast.joining import Joined
from standfast.lifespan import HasLifespan
from standfast.ports.database import Database
from standfast.ports.leases import LeaseStore
from standfast.shielding import shielded
from standfast.tables import check_tables
from standfast.text import NAME_LENGTH, checked
from standfast.transaction import unit_of_work

if TYPE_CHECKING:
    from standfast.blocking import BlockingClient

DRAIN = 30.0


class Standfast(AppDoors, HasLifespan):
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
        if isinstance(database, str):
            database = open_database(database)
        self.database: Database = provides(
            database, "open", "close", "port", name="database", instead="a URL, or "
        )
        self.codec: Codec = provides(codec, "encode", "decode", name="codec")
        self.clock: Clock = AdjustedClock(
            provides(clock, "now", "monotonic", "sleep", name="clock")
        )
        if migrate is not None:
            flag(migrate, name="migrate")
        self.migrate: bool | None = migrate
        self.patterns: Joined = Joined(self)
        self.supervisor: Supervisor | None = None
        self._client: dict[str, BlockingClient] = {}
        self._not_open()

    def _not_open(self) -> None:
        self.supervisor = None
        self._opened: int = 0
        self._affinity: Affinity | None = None
        self._opening = LoopLock("this app")
        self._closing = AsyncExitStack()

    @property
    def blocking(self) -> BlockingClient:
        """This app for code that is ``def``: the same methods, without ``await``."""
        from standfast.blocking import BlockingClient

        # One, whoever comes first of several threads.
        return self._client.get("") or self._client.setdefault("", BlockingClient(self))

    def add(self, *parts: Any) -> Self:
        """Add sagas (as instances) and patterns. Raises `DefinitionError`, `ConfigurationError`.

        The tables of what is added are made by ``standfast migrate``, so add before opening.
        """
        for part in parts:
            self.patterns.add(part)
        return self

    # -- life --------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._affinity is None:
            async with self._opening:
                if self._affinity is None:
                    await self._open()
        self.check_open()
        self._opened += 1
        return self

    async def _open(self) -> None:
        stack = AsyncExitStack()
        try:
            stack.callback(self._opening.stay())
            await self.database.open()
            stack.push_async_callback(self.database.close)
            await check_tables(self.database, self.patterns.ports, migrate=self.migrate)
            await self._keep_time()
            await stack.enter_async_context(self.patterns.opened())
            self._affinity = Affinity("this app")
        except BaseException:  # also a cancellation: what is open so far must be closed
            await shielded(stack.aclose())
            raise
        self._closing = stack

    async def __aexit__(self, *raised: object) -> None:
        if self._affinity is not None:
            self._affinity.check()  # what is its owner's isn't closed elsewhere
        if self._opened > 1:
            self._opened -= 1
        else:
            await shielded(self._close())

    async def _close(self) -> None:
        async with self._opening:
            self._opened -= 1
            if not self._opened:
                self._affinity = None
                await self._closing.aclose()

    @property
    def affinity(self) -> Affinity | None:
        """The process and the event loop in which it is open, None if it isn't."""
        return self._affinity

    def begin_anew(self) -> object:
        """Forget, in a forked process, what the parent has open, so that it can be opened here.

        Answers with what is the parent's, which must never be finalized here. Raises
        `ConfigurationError` for a database that can't be opened in two processes.
        """
        mine = anew(self.database)
        parents = (self.database, self._closing, self.supervisor, self._opening)
        self.database = mine
        self._not_open()
        return parents, self.patterns.attach_anew()

    def check_open(self) -> None:
        """Raise `ConfigurationError` unless the app is open, in this process and event loop."""
        if self._affinity is None:
            raise not_open()
        self._affinity.check()

    def hand_over(self, act: Callable[[], None]) -> None:
        """See `AppDoors.hand_over`."""
        if self._affinity is None:
            act()
        else:
            self._affinity.hand_over(act)

    async def _keep_time(self) -> None:
        assert isinstance(self.clock, AdjustedClock)
        await self.clock.adjust(self.database.clock_offset)

    def running(
        self,
        *,
        only: Collection[str] = (),
        name: str | None = None,
        lease: Duration = 10.0,
        max_in_flight: int = 1000,
        threads: int = 40,
        drain: Duration = DRAIN,
        poll: Duration = 2.0,
        linger: Duration = 1.0,
    ) -> AbstractAsyncContextManager[Supervisor]:
        """Work in the background of the block: run services, take over from the dead.

        `only`: the names of the services to run here, by default all. `name`: this process's, for
        people. `lease`: within this time of its death others take over; stuck for less than half of
        it, it keeps what it has. Give all processes the same. `max_in_flight`: how much each
        service has in memory at once. `threads`: how many ``def`` steps run at once. `drain`: how
        long what is in flight may take at the end. `poll`: how often to look for work that nobody
        hinted at. `linger`: sagas that sleep for longer leave memory. On SQLite, services stand by
        while another process runs them. Raises `DefinitionError` where a saga has a child that
        isn't added, `ConfigurationError`.
        """
        if name is not None:
            checked(name, name="name", longest=NAME_LENGTH)
        options = ServiceOptions(max_in_flight, poll, linger, threads)
        membership = Membership(
            self.database.port(LeaseStore),
            clock=self.clock,
            lease=_lease(lease),
            name=name,
            keep_time=self._keep_time,
        )
        patience = seconds(drain, name="drain", positive=False)
        return self._running(membership, options, only, patience)

    @asynccontextmanager
    async def _running(
        self, membership: Membership, options: ServiceOptions, only: Collection[str], drain: float
    ) -> AsyncIterator[Supervisor]:
        if self.supervisor is not None:
            raise ConfigurationError(
                "this app is running already: once per app and process. Where something else runs "
                "it, as a test's `standfast_app`, write app.lifespan without running=True"
            )
        services = self.patterns.services(options, only)
        async with self:
            supervisor = self.supervisor = Supervisor(membership, services, clock=self.clock)
            try:
                await supervisor.start(drain=drain)
                try:
                    yield supervisor
                finally:
                    await supervisor.stop(drain)
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


def _lease(lease: Duration) -> float:
    found = seconds(lease, name="lease")
    if found < 0.1:
        raise ConfigurationError(f"lease={lease!r}: must be 0.1 s or more, or it runs out unheld")
    return found
