"""A worker process of a simulation: the real one, which is killed and started again."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any
from uuid import UUID

from standfast.app import Standfast
from standfast.coordination.membership import Membership
from standfast.coordination.service import ServiceOptions
from standfast.coordination.supervisor import Supervisor
from standfast.doors.blocking import BlockingTransaction
from standfast.ports.journal import Loaded
from standfast.ports.leases import LeaseStore
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.blocking import InLine
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.registry import Definitions
from standfast.saga.replay import replay
from standfast.saga.sagas import Sagas
from standfast.saga.state import SagaState
from standfast.saga.telemetry import SagaTelemetry
from standfast.testing.simulation.store import Fate, ProcessDatabase, SharedDatabase
from standfast.testing.virtual import VirtualClock, VirtualLoop

FOREVER = 1e12
"""Seconds: longer than any run. So a lease is lost when the simulation lets it run out, and a
worker looks at the store when something hints at it, and never just to see."""


class _Options(ServiceOptions):
    """A poll further away than options may say."""

    @property
    def poll_seconds(self) -> float:
        """See `FOREVER`."""
        return FOREVER


class Silent(SagaTelemetry):
    """No metrics and no spans: nobody wants ten thousand simulated sagas on a dashboard."""

    def connect(self) -> None:
        """Nothing is told to anybody."""

    def begun(self, saga: str) -> None:
        """Not counted."""

    def stored(self, saga: str, fact: fx.Fact) -> None:
        """Not counted."""

    def ended(self, saga: str, state: SagaState, at: float) -> None:
        """Not counted."""


class SimulatedDefinitions(Definitions):
    """Definitions that were checked once, for machines of a chosen class."""

    def __init__(self, machine: type[Machine]) -> None:
        super().__init__(blocking=InLine(BlockingTransaction))
        self.machine_class = machine

    def new(self, id: UUID, definition: Definition, facts: Sequence[fx.AnyFact]) -> Machine:
        """A machine of that class, folded from a journal."""
        machine = self.machine_class(id, definition.plan)
        replay(machine, facts)
        return machine

    def begin(self, id: UUID, definition: Definition, started: fx.Started) -> Machine:
        """See `Definitions.begin`."""
        return self.new(id, definition, [started])

    def machine(self, loaded: Loaded) -> tuple[Definition, Machine]:
        """See `Definitions.machine`."""
        definition, machine = super().machine(loaded)
        if self.machine_class is Machine:
            return definition, machine
        facts = [fx.decode(text, number) for number, text in enumerate(loaded.facts)]
        return definition, self.new(loaded.instance.id, definition, facts)


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar(
    "standfast_simulated_process", default=None
)


class Process:
    """One process: an app on its own view of the database, its services, and all their tasks."""

    def __init__(
        self,
        shared: SharedDatabase,
        fate: Fate,
        clock: VirtualClock,
        definitions: Definitions,
        *,
        linger: float,
    ) -> None:
        self.database = ProcessDatabase(shared, fate)
        self.app = Standfast(self.database, clock=clock).add(Sagas(definitions, Silent()))
        self.sagas = self.app.sagas
        self.membership = Membership(
            self.database.port(LeaseStore), clock=clock, lease=FOREVER, name="simulated"
        )
        options = _Options(linger=max(linger, 1e-9))
        services = self.app.patterns.services(options, ())
        self.supervisor = Supervisor(self.membership, services, clock=clock, watched=False)
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in their order, for it decides the story
        self.last_token: int | None = None
        """Of the lease that it had when it was killed."""

    @property
    def active(self) -> Mapping[UUID, Active]:
        """The instances in its memory."""
        return self.sagas.executor.active

    @property
    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self.database.is_dead

    def begin(self, loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Let it do something, in a task that dies with it."""
        context = contextvars.Context()
        context.run(_process.set, self)
        return loop.create_task(work, context=context)

    async def boot(self) -> None:
        """Open the app and start its services."""
        await self.app.__aenter__()
        await self.supervisor.start()

    def kill(self) -> None:
        """Everything in memory is gone; its leases stand until they run out."""
        self.last_token = self.membership.token
        self.database.die()
        for task in tuple(self.tasks):
            task.cancel()


def running_process() -> Process | None:
    """The process whose code runs just now, None outside of any."""
    return _process.get()


def own_tasks(loop: VirtualLoop) -> None:
    """Let each task that a process begins, or that such a task begins, belong to the process."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        process = _process.get() if context is None else context.get(_process)
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(process.tasks.pop)
        return task

    loop.set_task_factory(make)
