"""The sagas that run in this process: taken in from a worker, or begun here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from standfast.clock import Clock
from standfast.coordination.executor import Desk, Orphaned
from standfast.coordination.slots import Slots
from standfast.coordination.stacks import where
from standfast.errors import StandfastError
from standfast.pattern import Host
from standfast.ports.journal import Instance, JournalStore, Loaded, Mail
from standfast.saga import events as ev
from standfast.saga.active import Active
from standfast.saga.attempt import ERROR_LENGTH, describe
from standfast.saga.context import log_fields
from standfast.saga.definition import Definition
from standfast.saga.move import MoveRefused, open_instance
from standfast.saga.prepared import Prepared
from standfast.saga.registry import PATTERN, Definitions
from standfast.saga.runner import Runner
from standfast.saga.saga_log import log_fields_of
from standfast.saga.state import SagaState
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.watchers import Watchers
from standfast.text import told

log = logging.getLogger("standfast.saga")

ENDS_WITHIN = 0.8
"""Seconds for what was cut off to end: less than a supervisor waits for the whole service."""


class SagaExecutor:
    """Runs saga instances in this process under the worker's current lease.

    Between turns, and in a process without a worker, it has no desk and runs nothing.
    """

    pattern: str = PATTERN
    orphaned: Orphaned = Orphaned(
        "parked",
        "no live worker has version {version} of saga '{name}'",
        "Run one that does, or move it with `standfast sagas migrate`",
    )

    def __init__(self, host: Host, definitions: Definitions, telemetry: SagaTelemetry) -> None:
        self.host: Host = host
        self.clock: Clock = host.clock
        self.definitions: Definitions = definitions
        self.telemetry: SagaTelemetry = telemetry
        self.active: dict[UUID, Active] = {}
        self.beginning: set[UUID] = set()
        self.watchers: Watchers = Watchers()
        self._desk: Desk | None = None
        self._runner: Runner | None = None
        self._draining = False

    @property
    def journal(self) -> JournalStore:
        """Where instances are kept."""
        return self.host.database.port(JournalStore)

    @property
    def kinds(self) -> Mapping[tuple[str, str, int], int | None]:
        """See `Executor.kinds`."""
        return self.definitions.limits

    def log_fields(self, instance: Instance, holder: str) -> dict[str, Any]:
        """See `Executor.log_fields`."""
        return log_fields_of(instance, holder)

    @property
    def fingerprints(self) -> Mapping[tuple[str, str, int], str]:
        """See `Executor.fingerprints`."""
        return {kind: one.plan.fingerprint for kind, one in self.definitions.by_kind.items()}

    @property
    def hindrance(self) -> str:
        """See `Executor.hindrance`."""
        threads = self.telemetry.threads
        return "" if threads is None else threads.hindrance

    @property
    def desk(self) -> Desk | None:
        """The worker's desk, None while this process doesn't work."""
        return self._desk

    # -- a turn, as `Executor` says ----------------------------------------------------------

    def begin(self, desk: Desk) -> None:
        """See `Executor.begin`."""
        self._desk, self._draining = desk, False
        self._runner = Runner(self, desk)
        self.telemetry.slots = desk.slots

    async def take_in(self, loaded: Loaded) -> None:
        """See `Executor.take_in`."""
        runner, instance = self._runner, loaded.instance
        assert runner is not None
        holder = runner.desk.holder
        known = self.active.get(instance.id)
        if known is not None:
            # It was let go, its driver waits for word of that, and somebody has sent it mail. A
            # second driver beside that one would do all twice.
            known.claimed_anew = True
            return
        try:
            opened = open_instance(self.definitions, loaded)
        except MoveRefused as error:
            extra = log_fields_of(instance, holder)
            log.error("saga %s %s: %s", instance.name, instance.id, error, extra=extra)
            await runner.give_back(loaded, error)
            return
        except StandfastError as error:
            extra = log_fields_of(instance, holder)
            if await runner.settle(loaded):
                if instance.finished_at is None:
                    log.warning(
                        "saga %s %s, which can't be run, was resolved by hand",
                        instance.name,
                        instance.id,
                        extra=extra,
                    )
                return
            log.error("saga %s %s can't be run: %s", instance.name, instance.id, error, extra=extra)
            await runner.set_aside(instance.id, told(error)[:ERROR_LENGTH], extra)
            return
        except BaseException as error:  # the user's code, or ours: it won't go better the next time
            if isinstance(error, KeyboardInterrupt):
                raise
            extra = log_fields_of(instance, holder)
            log.exception("saga %s %s can't be run", instance.name, instance.id, extra=extra)
            await runner.set_aside(instance.id, describe(error), extra)
            return
        opened.machine.reports = False
        self.telemetry.recovered += 1
        active = Active(opened.definition, opened.machine, opened.input)
        active.shown = (instance.status, instance.step, instance.cause)
        if loaded.recoveries and opened.move is None:  # a move may well be the remedy
            self._suspect(active, loaded.recoveries, log_fields_of(instance, holder))
        active.open(opened, loaded.mails)
        runner.desk.slots.take(active.definition.name)
        self._launch(runner, active)

    def _suspect(self, active: Active, recoveries: int, extra: dict[str, Any]) -> None:
        """Park one that may be what its processes died of, if that was too often; tell of it."""
        bound = active.definition.max_recoveries
        if bound is not None and recoveries > bound:
            active.post(ev.Died(recoveries))
            return
        if recoveries == 1:  # what every deployment that doesn't drain brings about
            return
        log.warning(
            "saga %s %s: its process died %d times in a row, with nothing done in between; "
            "trying again",
            active.definition.name,
            active.id,
            recoveries,
            extra=extra,
        )

    def deliver(self, mails: Sequence[Mail]) -> None:
        """See `Executor.deliver`."""
        for mail in mails:
            active = self.active.get(mail.to)
            if active is not None:
                active.deliver(mail)

    def drain(self) -> None:
        """See `Executor.drain`."""
        self._draining = True
        if self._runner is not None:
            self._runner.drain()
        for active in self.active.values():
            active.nudge()

    async def cut_off(self) -> None:
        """See `Executor.cut_off`."""
        self._desk = None
        tasks = {task: one for one in list(self.active.values()) for task in one.cut_off()}
        if tasks:
            await asyncio.wait(tasks, timeout=ENDS_WITHIN)
        for task, active in tasks.items():
            if not task.done():
                self._abandon(active, task)
            elif not task.cancelled():
                task.exception()  # looked at: what comes of one that was cut off isn't heard
        self.telemetry.slots = None

    def _abandon(self, active: Active, task: asyncio.Task[None]) -> None:
        """Go on without an instance whose code doesn't heed its cancellation."""
        assert self._runner is not None
        about = log_fields(active.definition.name, active.machine, None, "", 0)
        log.error(
            "saga %s %s doesn't heed its cancellation in step %s: going on without it, and "
            "another process may run the step beside it. It is here:\n%s",
            active.definition.name,
            active.id,
            ", ".join(sorted(active.machine.running)) or "none",
            where(task),
            extra={**about, "worker": self._runner.desk.holder},
        )
        if self.active.pop(active.id, None) is not None:
            self.watchers.forget(active.id)

    async def end(self) -> None:
        """See `Executor.end`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.close()

    # -- what begins here --------------------------------------------------------------------

    def reserve(self, definition: Definition) -> Runner | None:
        """Reserve a slot for a local start; None if the process is full, drains or doesn't work."""
        runner = self._runner
        if runner is None or self._desk is None or self._draining:
            return None
        fits = runner.desk.slots.take_if_free(definition.name, definition.max_in_flight)
        return runner if fits else None

    def give_back(self, definition: Definition, slots: Slots) -> None:
        """Give back a slot that was reserved, maybe in a turn that is over."""
        if slots.give_back(definition.name) and self._desk is not None:
            self._desk.wake()

    def begun(self, prepared: Prepared, owner: int | None = None) -> None:
        """The after-commit hook of a start: count it, then run it here or hint a worker.

        `owner`: the fencing token under which it was inserted, None if it was inserted passive.
        """
        self.telemetry.begun(prepared.definition.name)
        desk, runner = self._desk, self._runner
        if desk is None or runner is None:
            return
        if owner != desk.owner:
            desk.hint(prepared.start.instance.id)
            return
        id = prepared.start.instance.id
        machine = self.definitions.begin(id, prepared.definition, prepared.fact)
        self._launch(runner, Active(prepared.definition, machine, prepared.input))

    def sent(self, id: UUID) -> None:
        """Something was sent to an instance."""
        if self._desk is not None:
            self._desk.hint(id)

    # -- what the runner tells ---------------------------------------------------------------

    def _launch(self, runner: Runner, active: Active) -> None:
        self.active[active.id] = active
        active.slots = runner.desk.slots
        runner.launch(active)

    def rested(self, active: Active, settled: SagaState | None) -> None:
        """An instance was unloaded. `settled`: its state, if that is stored and final."""
        if settled is not None:
            self.watchers.settled(active.id, active.definition, settled)
        else:
            self.watchers.forget(active.id)
        if self.active.get(active.id) is active:  # else it heeded nothing, and was left behind
            del self.active[active.id]
        assert active.slots is not None  # it was launched, maybe in a turn that is over
        starved = active.slots.give_back(active.definition.name)
        if self._desk is not None:
            self._desk.left(active.id, active.sleeps_until)
            if starved:
                self._desk.wake()
