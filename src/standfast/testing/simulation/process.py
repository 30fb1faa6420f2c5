"""The worker process of a simulation, which is killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from standfast.ports.journal import Loaded
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.move import open_instance
from standfast.saga.registry import Definitions
from standfast.saga.replay import replay
from standfast.saga.runner import Runner
from standfast.saga.state import SagaState
from standfast.saga.telemetry import SagaTelemetry

if TYPE_CHECKING:
    from standfast.testing.simulation.play import Play

FOREVER = 1e9


class Silent(SagaTelemetry):
    """No metrics and no spans: nobody wants ten thousand simulated sagas on a dashboard."""

    def __init__(self) -> None:
        self.set_aside = 0
        self.spans = None

    def begun(self, saga: str) -> None:
        """Not counted."""

    def stored(self, saga: str, state: SagaState, facts: Sequence[fx.Fact]) -> None:
        """Not counted."""

    def ended(self, saga: str, state: SagaState, at: float) -> None:
        """Not counted."""


class SimulatedDefinitions(Definitions):
    """Definitions that were checked once, for machines of a chosen class."""

    def __init__(self, machine: type[Machine]) -> None:
        super().__init__()
        self.machine_class = machine

    def new(self, id: UUID, definition: Definition, facts: Sequence[fx.AnyFact]) -> Machine:
        """A machine of that class, folded from a journal."""
        machine = self.machine_class(id, definition.plan)
        replay(machine, facts)
        return machine

    def machine(self, loaded: Loaded) -> tuple[Definition, Machine]:
        """See `Definitions.machine`."""
        definition, machine = super().machine(loaded)
        if self.machine_class is Machine:
            return definition, machine
        facts = [fx.decode(text, number) for number, text in enumerate(loaded.facts)]
        return definition, self.new(loaded.instance.id, definition, facts)


class Process:
    """Does what `standfast.saga.worker.Worker` does, without heartbeat, threads and limits."""

    def __init__(self, play: Play, token: int, linger: float) -> None:
        self.play = play
        self.token = token
        self.dead = False
        self.active: dict[UUID, Active] = {}
        self.due = asyncio.Event()
        self.kinds = list(play.definitions.by_kind)
        self.runner = Runner(
            play.sagas,
            play.database,
            token,
            SILENT,
            linger=linger,
            on_rest=self._rested,
            check_lease=self._check_lease,
            on_sent=self._sent,
            alone=lambda: len(self.active) <= 1,
        )
        self.work: asyncio.Task[None] = play.loop.create_task(self._work())

    def kill(self) -> None:
        """Everything in memory is gone."""
        self.dead = True
        self.work.cancel()
        for active in self.active.values():
            if active.task is not None:
                active.task.cancel()

    def launch(self, active: Active) -> None:
        """Run an instance here."""
        self.active[active.id] = active
        self.runner.launch(active)

    async def _work(self) -> None:
        journal, clock = self.play.database.journal, self.play.clock
        while True:
            self.due.clear()
            now = clock.now()
            for loaded in await journal.claim(self.token, self.kinds, now=now, limit=100):
                self._resume(loaded)
            for mail in await journal.collect(self.token, list(self.active)):
                if mail.to in self.active:
                    self.active[mail.to].deliver(mail)
            wake = None if self.due.is_set() else await journal.next_wake(self.kinds)
            timer: Callable[[], None] | None = None
            if wake is not None:
                delay = max(0.001, wake - clock.now())
                timer = self.play.loop.call_later(delay, self.due.set).cancel
            await self.due.wait()
            if timer is not None:
                timer()

    def _resume(self, loaded: Loaded) -> None:
        opened = open_instance(self.play.definitions, loaded)
        opened.machine.reports = False
        active = Active(opened.definition, opened.machine, opened.input)
        row = loaded.instance
        active.shown = (row.status, row.step, row.cause)
        active.open(opened, loaded.mails)
        self.launch(active)

    def _rested(self, active: Active) -> None:
        if self.dead:
            return
        if self.active.get(active.id) is active:
            del self.active[active.id]
        self.due.set()
        self.play.rested(active)

    def _sent(self, id: UUID) -> None:
        self.due.set()

    async def _check_lease(self) -> bool:
        return not self.dead


SILENT = Silent()
