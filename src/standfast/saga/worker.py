"""A worker: holds a lease, takes what is due, and sees that nothing of the dead is left lying.

Any number of workers share a store that allows it; where it allows one, the others stand by. A
worker whose lease was lost drops what it had in memory without writing, takes a new lease and goes
on: whoever expired the lease has its instances.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID

from standfast.errors import StandfastError, StoreError, StoreUnavailable
from standfast.ports.database import Database
from standfast.ports.journal import Loaded, Start
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.attempt import ERROR_LENGTH
from standfast.saga.client import Sagas
from standfast.saga.definition import Definition
from standfast.saga.machine import Machine
from standfast.saga.move import MoveRefused, open_instance
from standfast.saga.registry import PATTERN
from standfast.saga.runner import Runner
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.watchdog import Watchdog
from standfast.text import told

log = logging.getLogger("standfast.saga.worker")

CLAIM_BATCH = 500
UNCLAIMABLE_AFTER = 5.0
DOUBTED_FOR = 60.0
BEAT = 1 / 4
"""Of a lease: how often it is renewed, and how often a worker looks for those that ran out.

In the store a lease holds for all beats but one. So the sagas of a worker that dies just after a
beat are taken over at the last beat of its lease at the latest, and one that is late by up to two
beats (half the lease) keeps it.
"""


class Worker:
    """Runs the sagas of one app in this process.

    `lease`: seconds within which a worker, whose own isn't longer, takes over when this process is
    dead. Stuck for less than half of it, this one keeps what it has.
    `max_in_flight`: instances in memory at once; more wait in the store. `poll`: seconds between
    looks at the store when nothing hints at work. `linger`: seconds for which a sleeping instance
    stays in memory. `keep_time()` sets the clock right, with every renewal of the lease.
    """

    def __init__(
        self,
        sagas: Sagas,
        database: Database,
        *,
        name: str | None = None,
        lease: float = 10.0,
        max_in_flight: int = 1000,
        poll: float = 2.0,
        linger: float = 1.0,
        keep_time: Callable[[], Awaitable[None]] | None = None,
        telemetry: SagaTelemetry | None = None,
    ) -> None:
        self.sagas: Sagas = sagas
        self.database: Database = database
        self.name: str = name or f"{socket.gethostname()}:{os.getpid()}"
        self.lease: float = lease
        self._beats_every = lease * BEAT
        self._ttl = lease - self._beats_every
        self.max_in_flight: int = max_in_flight
        self.poll: float = poll
        self.linger: float = linger
        self.keep_time: Callable[[], Awaitable[None]] | None = keep_time
        self.active: dict[UUID, Active] = {}
        self.per_saga: Counter[str] = Counter()
        self.telemetry: SagaTelemetry = telemetry or SagaTelemetry()
        self.telemetry.in_flight = lambda: dict(self.per_saga)
        self.runner: Runner | None = None
        self.stopping: bool = False
        self._starved: bool = False
        self._promised: int = 0
        self._turn: int = 0
        self._hints: set[UUID] = set()
        self._doubts: dict[UUID, float] = {}
        self._look_at_all: bool = True
        self._looks_at = math.inf
        self._due = asyncio.Event()
        self._empty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._renewing = asyncio.Lock()
        self._watchdog = Watchdog(lease)

    @property
    def is_running(self) -> bool:
        """Whether it holds a lease, so that it can take new instances."""
        return self.runner is not None and not self.stopping

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take a lease, waiting for it where another holds the only one, and begin to work."""
        await self._register()
        self.sagas.runs_here = self.active.__contains__
        self.sagas.works_here = True
        self.sagas.on_sent = self.hint
        self._unsubscribe = self.database.journal.on_due(self._on_due)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._beat()), loop.create_task(self._pump())]
        self._watchdog.start(loop)

    async def stop(self, drain: float = 30.0) -> None:
        """Drain: finish the attempts in flight for at most `drain` seconds, then leave.

        What isn't finished stays in the store, due at once for another worker.
        """
        self.stopping = True
        self._unsubscribe()
        self._tasks[1].cancel()
        if self.runner is not None:
            self.runner.drain()
            for active in self.active.values():
                active.nudge()
            try:
                async with asyncio.timeout(drain):
                    while self.active:
                        self._empty.clear()
                        await self._empty.wait()
            except TimeoutError:
                log.warning("%d sagas still ran after %g s: cut off", len(self.active), drain)
        await self._drop_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._watchdog.stop()
        if self.runner is not None:
            await self.runner.appends.close()
            try:
                await self.database.leases.release(self.runner.owner)
            except StoreError as error:
                log.warning("the lease couldn't be given up, so it will run out: %s", error)
            self.runner = None
        self.sagas.runs_here = _nowhere
        self.sagas.works_here = False
        self.sagas.on_sent = _ignore
        self.telemetry.in_flight = dict

    async def _register(self) -> None:
        told = False
        while True:
            kinds = list(self.sagas.definitions.by_kind)
            token = await self.database.leases.register(self.name, kinds, ttl=self._ttl)
            if token is not None:
                break
            if not told:
                log.info("another worker holds this database: standing by")
                told = True
            await asyncio.sleep(min(0.5, self._beats_every))
        self.runner = Runner(
            self.sagas,
            self.database,
            token,
            self.telemetry,
            linger=self.linger,
            on_rest=self._on_rest,
            check_lease=self._check_lease,
            on_sent=self.hint,
            alone=self.has_one,
        )
        self._look_at_all = True
        self._due.set()

    async def _drop_all(self) -> None:
        tasks = [a.task for a in self.active.values() if a.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the lease ---------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Renew the lease, then expire those of the dead: not its own, late as it may be."""
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            at = max(at + self._beats_every, loop.time())  # what it takes delays no later beat
            await asyncio.sleep(at - loop.time())
            try:
                if not await self._check_lease():
                    await self._lost()
                if self.keep_time is not None:
                    await self.keep_time()
                ended = await self.database.leases.expire()
                if ended:
                    log.warning("took over from %d dead worker(s)", len(ended))
                    self._due.set()
            except StoreError as error:
                log.error("can't reach the store to renew the lease: %s", error)
            except Exception:  # the heart must beat on: without it the worker is dead, unnoticed
                log.exception("renewing the lease failed; trying again in %g s", self._beats_every)

    async def _check_lease(self) -> bool:
        async with self._renewing:
            if self.runner is None:  # lost, and the store went away before there was a new one
                return False
            return await self.database.leases.renew(self.runner.owner, ttl=self._ttl)

    async def _lost(self) -> None:
        if self.runner is not None:
            log.error(
                "this worker's lease was lost (it was paused, blocked or cut off for over %g s): "
                "its %d sagas went to another worker",
                self.lease / 2,
                len(self.active),
            )
        self.runner = None
        await self._drop_all()
        await self._register()

    # -- taking work -------------------------------------------------------------------------

    def hint(self, id: UUID) -> None:
        """Something was sent to an instance."""
        if id in self.active:
            self._hints.add(id)
        self._due.set()

    def _on_due(self, id: UUID | None) -> None:
        if id is None:
            self._look_at_all = True
            self._due.set()
        else:
            self.hint(id)

    def has_room(self, definition: Definition) -> bool:
        """Whether one more of this kind may run here now."""
        limit = definition.max_in_flight
        return (
            self.is_running
            and len(self.active) + self._promised < self.max_in_flight
            and (limit is None or self.per_saga[definition.name] < limit)
        )

    def has_one(self) -> bool:
        """Whether it has one instance at most, those about to be included."""
        return len(self.active) + self._promised <= 1

    def promise(self, definition: Definition) -> bool:
        """Keep a place for one that is being started; whether there is one. End it with `free`."""
        if not self.has_room(definition):
            return False
        self._promised += 1
        self.per_saga[definition.name] += 1
        return True

    def free(self, definition: Definition) -> None:
        """Give a promised place up."""
        self._promised -= 1
        self.per_saga[definition.name] -= 1
        if self._starved:
            self._due.set()

    def doubt(self, id: UUID) -> None:
        """Look out for an instance whose start, under this worker's lease, had no known outcome.

        It may still be written, and then nobody else can run it.
        """
        self._doubts[id] = time.monotonic() + DOUBTED_FOR
        self._due.set()

    def adopt(
        self, definition: Definition, start: Start, started: fx.Started, input: object
    ) -> None:
        """Run an instance that was just started here, with this worker as its owner."""
        machine = Machine(start.instance.id, definition.plan)
        machine.apply(started)
        self._launch(Active(definition, machine, input))

    def _launch(self, active: Active) -> None:
        assert self.runner is not None
        self.active[active.id] = active
        self.per_saga[active.definition.name] += 1
        self.runner.launch(active)

    def _on_rest(self, active: Active) -> None:
        if self.active.get(active.id) is active:  # else it was claimed anew before we heard
            del self.active[active.id]
        self.per_saga[active.definition.name] -= 1
        wakes_first = active.sleeps_until is not None and active.sleeps_until < self._looks_at
        if self._starved or wakes_first:
            self._due.set()
        if not self.active:
            self._empty.set()

    async def _pump(self) -> None:
        """Claim what is due whenever there is a hint, a timer or a doubt.

        When there is none of these for a while, it asks whether anything is due before it claims:
        an idle worker costs the store one query every `poll` seconds.
        """
        flagged_at = unsure_until = 0.0
        due_at = -math.inf  # when the next one is due, as far as is known
        while True:
            if self._due.is_set() or time.monotonic() < unsure_until:
                due_at = -math.inf
            self._due.clear()
            self._looks_at = math.inf
            timeout = self.poll
            try:
                if self.runner is not None:
                    if due_at > self.sagas.clock.now():
                        due_at = await self._next_wake()
                    is_due = due_at <= self.sagas.clock.now()
                    if is_due:
                        await self._claim(self.runner)
                    await self._look_into_doubts(self.runner)
                    await self._collect(self.runner)
                    if time.monotonic() - flagged_at > max(self.lease, self.poll):
                        flagged_at = time.monotonic()
                        await self._flag()
                    if is_due and not self._due.is_set():
                        due_at = await self._next_wake()
                    timeout = min(timeout, max(0.005, due_at - self.sagas.clock.now()))
            except Exception as error:  # as in _beat
                # A claim may have been carried out though its answer was lost: the owner hears of
                # such ones with its next claims.
                unsure_until = time.monotonic() + DOUBTED_FOR
                if isinstance(error, StoreUnavailable):
                    log.error("can't reach the store for work: %s", error)
                else:
                    log.exception("taking work failed; trying again in %g s", self.poll)
            self._looks_at = self.sagas.clock.now() + timeout
            try:
                async with asyncio.timeout(timeout):
                    await self._due.wait()
            except TimeoutError:
                self._look_at_all = True

    async def _next_wake(self) -> float:
        """When the next one is due for which there is room."""
        definitions = self.sagas.definitions.by_kind.values()
        kinds = [definition.kind for definition in definitions if self.has_room(definition)]
        if len(kinds) < len(definitions):
            self._starved = True  # whoever leaves makes room for what wasn't asked for
        wake = await self.database.journal.next_wake(kinds)
        return math.inf if wake is None else wake

    async def _claim(self, runner: Runner) -> None:
        self._starved = False
        definitions = list(self.sagas.definitions.by_kind.values())
        groups = [[d] for d in definitions if d.max_in_flight is not None]
        groups.append([d for d in definitions if d.max_in_flight is None])
        self._turn += 1  # so that none always finds the worker filled by the others
        for index in range(len(groups)):
            await self._claim_some(runner, groups[(index + self._turn) % len(groups)])

    async def _claim_some(self, runner: Runner, definitions: list[Definition]) -> None:
        """Claim of kinds that share one limit."""
        while definitions:
            name, own = definitions[0].name, definitions[0].max_in_flight
            room = min(CLAIM_BATCH, self.max_in_flight - len(self.active) - self._promised)
            if own is not None:
                room = min(room, own - self.per_saga[name])
            if room <= 0:
                self._starved = True
                return
            found = await self.database.journal.claim(
                runner.owner,
                [d.kind for d in definitions],
                now=self.sagas.clock.now(),
                limit=room,
            )
            for loaded in found:
                await self._resume(runner, loaded)
            if len(found) < room:
                return

    async def _resume(self, runner: Runner, loaded: Loaded) -> None:
        """Go on with an instance read from the store."""
        instance = loaded.instance
        try:
            opened = open_instance(self.sagas.definitions, loaded)
        except MoveRefused as error:
            log.error("saga %s: %s", instance.id, error)
            await runner.give_back(loaded, error)
            return
        except StandfastError as error:
            log.error("saga %s can't be run: %s", instance.id, error)
            await runner.set_aside(instance.id, told(error)[:ERROR_LENGTH])
            return
        opened.machine.reports = False
        self.telemetry.recovered += 1
        active = Active(opened.definition, opened.machine, opened.input)
        active.shown = (instance.status, instance.step, instance.cause)
        active.open(opened, loaded.mails)
        self._launch(active)

    async def _look_into_doubts(self, runner: Runner) -> None:
        ids = [id for id in self._doubts if id not in self.active]
        now = time.monotonic()
        self._doubts = {id: self._doubts[id] for id in ids if self._doubts[id] > now}
        for loaded in await self.database.journal.load(ids) if ids else ():
            self._doubts.pop(loaded.instance.id, None)
            if loaded.instance.owner == runner.owner:
                await self._resume(runner, loaded)

    async def _collect(self, runner: Runner) -> None:
        ids = (
            list(self.active) if self._look_at_all else [i for i in self._hints if i in self.active]
        )
        self._look_at_all = False
        self._hints.clear()
        if not ids:
            return
        for mail in await self.database.journal.collect(runner.owner, ids):
            active = self.active.get(mail.to)
            if active is not None:
                active.deliver(mail)

    async def _flag(self) -> None:
        flagged = await self.database.journal.flag_unclaimable(
            PATTERN,
            due_before=self.sagas.clock.now() - UNCLAIMABLE_AFTER,
            status="parked",
            cause="no live worker has version {version} of saga '{name}'",
        )
        for instance in flagged:
            log.error(
                "saga %s is parked: no live worker has version %d of %r. Run one that does, or "
                "move it with `standfast sagas migrate`",
                instance.id,
                instance.version,
                instance.name,
            )


def _nowhere(id: UUID) -> bool:
    return False


def _ignore(id: UUID) -> None:
    pass
