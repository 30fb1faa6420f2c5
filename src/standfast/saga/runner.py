"""Runs saga instances: carries out the machine's commands, and stores its facts before it goes on.

One task drives one instance. Facts of many instances share a commit. A command is carried out only
when all facts before it are stored; an attempt's facts are stored before what follows from them.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

from standfast.batching import Batcher
from standfast.coordination.executor import Desk
from standfast.coordination.outage import Outage
from standfast.errors import (
    StaleWriter,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from standfast.pattern import Host
from standfast.ports.journal import (
    Append,
    Filter,
    JournalStore,
    Loaded,
    RowChange,
    Start,
    StartAnswer,
)
from standfast.resilience.deadline import DEADLINE
from standfast.resilience.marks import Scope
from standfast.saga import events as ev
from standfast.saga import facts as fx
from standfast.saga.active import Active
from standfast.saga.appending import append_of
from standfast.saga.attempt import AttemptRunner, describe
from standfast.saga.machine import Command, Resolve, Run, Undo
from standfast.saga.move import MoveRefused, open_instance
from standfast.saga.prepared import Prepared
from standfast.saga.registry import Definitions
from standfast.saga.saga_log import SagaLog
from standfast.saga.settling import settled
from standfast.saga.state import SagaState
from standfast.saga.telemetry import SagaTelemetry
from standfast.saga.watchers import Watchers

log = logging.getLogger("standfast.saga")

T = TypeVar("T")
STORE_AWAY = (StoreUnavailable, StoreFull)
HEEDS_WITHIN = 5.0
"""Seconds for an attempt to end after it was cancelled."""
STEP_TURNS = 2
"""Iterations of the event loop within which a brief step has ended, and its saga writes again."""


class Home(Protocol):
    """What a runner needs of whoever owns the instances."""

    telemetry: SagaTelemetry
    definitions: Definitions
    host: Host
    watchers: Watchers

    @property
    def journal(self) -> JournalStore:
        """Where their facts are stored."""
        ...

    def begun(self, prepared: Prepared) -> None:
        """The start of a child was stored."""
        ...

    def sent(self, id: UUID) -> None:
        """Mail to an instance was stored."""
        ...

    def rested(self, active: Active, settled: SagaState | None) -> None:
        """An instance was unloaded. `settled`: its state, if that is stored and final."""
        ...


class Runner:
    """Drives instances under one lease."""

    def __init__(self, home: Home, desk: Desk) -> None:
        self.desk: Desk = desk
        self._home = home
        self._telemetry = home.telemetry
        self._journal = home.journal
        self._owner = desk.owner
        self._clock = clock = home.host.clock
        self._linger = desk.linger
        self._draining = False
        self._log = SagaLog(desk.holder, clock)
        self._outage = Outage(clock)
        self.attempts: AttemptRunner = AttemptRunner(
            home.definitions, home.telemetry, clock, self._log
        )
        # That of the worker's turn: of whoever starts a saga here, or signals one, it has nothing.
        self._context = contextvars.copy_context()
        self._context.run(DEADLINE.set, None)
        lanes = home.host.database.capabilities.write_lanes
        self.appends: Batcher[Append, None] = Batcher(
            partial(self._journal.append, desk.owner),
            lanes=lanes,
            patience=STEP_TURNS if lanes == 1 else 0,
        )

        self.starts: Batcher[Start, StartAnswer] = Batcher(
            partial(self._journal.start, owner=desk.owner), lanes=lanes
        )

    async def close(self) -> None:
        """Finish the writes that were accepted."""
        await self.starts.close()
        await self.appends.close()
        self._log.close()

    def launch(self, active: Active) -> None:
        """Begin to drive an instance."""
        active.task = asyncio.get_running_loop().create_task(
            self._guard(active), context=self._context.copy()
        )

    async def _guard(self, active: Active) -> None:
        """The task of one instance: drive it to rest, reload it on a conflict, park it on an error.

        Whatever goes wrong is logged, and the instance stays in the store.
        """
        at_rest = False
        if active.task is None:  # an eager one begins before it is known outside
            active.task = asyncio.current_task()
        try:
            again: Callable[[], Awaitable[bool]] | None = None
            while True:
                try:
                    if again and not await self._insist(active, "it must be read anew", again):
                        break
                    await self._drive(active)
                    if not active.claimed_anew:
                        at_rest = True
                        break
                    again = partial(self._reload, active, None)
                except _Reload as reload:
                    again = partial(self._reload, active, reload.event)
                except StaleWriter as error:
                    fields, name = self._log.fields(active), active.definition.name
                    log.warning("saga %s %s: %s", name, active.id, error, extra=fields)
                    # With the lease intact, an append that seemed to fail had been written.
                    again = partial(self._read_if_ours, active)
                except asyncio.CancelledError as error:
                    self.attempts.raise_if_ended(active, error)
                    # The user's code got hold of this task.
                    await self.attempts.take_back(active)
                    again = partial(self._read_if_ours, active)
        except BaseException as error:  # of the user's types, when they are decoded, or ours
            self.attempts.raise_if_ended(active, error)
            fields, name = self._log.fields(active), active.definition.name
            log.exception("saga %s %s can't go on here", name, active.id, extra=fields)
            await self.set_aside(active.id, describe(error), fields)
        finally:
            if active.tasks:
                active.drop_attempts()
            # Cut short, the machine may be ahead of what is stored, and another worker differ.
            # One that is parked may have mail that nobody has read yet: waiters look at the store.
            settled = at_rest and active.machine.outcome
            self._home.rested(active, active.machine if settled else None)
            if not at_rest:
                self.desk.wake()  # how it stands in the store isn't known: it may be due

    async def _insist(self, active: Active, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it can answer. Only the loss of the lease ends this from outside."""
        delay = 0.05
        while True:
            try:
                answer = await work()
                if lasted := self._outage.over():
                    log.warning("the store answers sagas again, after %s", lasted)
                return answer
            except STORE_AWAY as error:
                if self._outage.failed():  # one speaks for all the others
                    fields, name = self._log.fields(active), active.definition.name
                    log.error("saga %s %s: %s: %s", name, active.id, what, error, extra=fields)
                await self._clock.sleep(delay)
                delay = min(2.0, delay * 2)

    async def _read_if_ours(self, active: Active) -> bool:
        return await self.desk.still_ours() and await self._reload(active, None)

    async def _reload(self, active: Active, event: ev.Failed | ev.UndoFailed | None) -> bool:
        """Read the instance anew; whether it is still this worker's."""
        await _ended(active.drop_attempts())
        while True:
            active.claimed_anew = False
            found = await self._journal.load([active.id])
            if found and found[0].instance.owner == self._owner:
                break
            if not active.claimed_anew:  # else it was claimed after this was read
                return False
        active.renew(open_instance(self._home.definitions, found[0]), found[0].mails)
        self.desk.hint(active.id)  # what was delivered since it was read is gone from memory
        if event is not None:
            branch = active.machine.branches[event.branch]
            undo = isinstance(event, ev.UndoFailed)
            if branch.undo == "due" if undo else branch.is_open:
                active.post(event)  # otherwise what seemed to fail had been written
        return True

    async def set_aside(self, id: UUID, cause: str, extra: dict[str, Any]) -> None:
        """Park an instance that can't be run here, without a fact. `extra` is for the log."""
        self._telemetry.set_aside += 1
        try:
            await self._journal.set_aside(self._owner, id, status="parked", cause=cause)
        except StoreError:
            log.exception(
                "saga %s %s couldn't be set aside; trying again", extra["saga"], id, extra=extra
            )
            self.desk.doubt()

    async def settle(self, loaded: Loaded) -> bool:
        """End an instance that can't be run, if its mail asks for that; whether it does."""
        append = settled(loaded, self._clock.now())
        if append is None:
            return False
        await self.appends.submit(append)
        for mail in append.mails:
            self._home.sent(mail.to)
        return True

    async def give_back(self, loaded: Loaded, refused: MoveRefused) -> None:
        """Hand an instance that can't move back to the workers of its own version."""
        now = self._clock.now()
        instance = loaded.instance
        fact = fx.Ignored(at=now, act="migrate", why=f"{refused}")
        append = Append(instance.id, len(loaded.facts) - 1, [fx.encode(fact)])
        append.consumed = [refused.mail.number]
        append.change = RowChange(instance.status, instance.step, instance.cause, refused.version)
        append.release, append.wake_at = True, now
        await self.appends.submit(append)

    def drain(self) -> None:
        """Let every instance come to rest after the attempts in flight."""
        self._draining = True

    # -- the drive ---------------------------------------------------------------------------

    async def _drive(self, active: Active) -> None:
        machine = active.machine
        facts = self._digest(active)
        while True:
            now = self._clock.now()
            leaving = self._draining or active.moves_to is not None
            commands = [] if leaving else machine.commands(now)
            rest = not commands and not machine.running
            wake_at = machine.wake_at() if rest else None
            if rest and leaving and not machine.outcome:
                wake_at = now
            release = rest and (
                leaving or bool(machine.outcome) or wake_at is None or wake_at - now > self._linger
            )
            if facts or release or active.consumed:
                await self._store(active, facts, release=release, wake_at=wake_at)
                if release:
                    # Mail that came while this was stored makes it due at once.
                    active.sleeps_until = now if active.inbox else wake_at
                    return
            own: Command | None = None
            if len(commands) == 1 and not active.tasks:
                own = commands[0]  # a lone one needs no task of its own
            elif commands:
                own = self._spawn(active, commands)
                await asyncio.sleep(0)  # the others have begun before anything else is decided
            if own is None:
                await self._await_event(active, machine.wake_at())
                facts = self._digest(active)
                continue
            if own.transactional is True:  # told so, type checkers know that it is no `Resolve`
                assert not isinstance(own, Resolve)
                facts = await self._transact(active, own)
                if machine.outcome and not facts:
                    active.sleeps_until = now if active.inbox else None
                    return  # the commit let it go too
            else:
                event = await self._carry_out(active, own)
                facts = machine.handle(event, self._clock.now(), random.random())  # noqa: S311
            if active.inbox:
                facts.extend(self._digest(active))

    def _spawn(self, active: Active, commands: list[Command]) -> Command | None:
        """Begin each in a task of its own; the answer is for the driving task itself.

        That is a transactional one: it must keep the driver from storing anything else meanwhile.
        Others of its kind are put back until next time.
        """

        async def carry_out(command: Command) -> None:
            task = asyncio.current_task()
            assert task is not None
            active.tasks.add(task)
            event = await self._carry_out(active, command)
            if task in active.tasks:  # else it was dropped, without heeding it
                active.tasks.discard(task)
                active.post(event)

        own: Command | None = None
        for command in commands:
            if not command.transactional:
                task = asyncio.get_running_loop().create_task(carry_out(command))
                if not task.done():
                    active.tasks.add(task)
                    task.add_done_callback(active.forget)
            elif own is None:
                own = command
            else:
                active.machine.running.discard(command.branch.id)
        return own

    def _carry_out(self, active: Active, command: Command) -> Awaitable[ev.Event]:
        """See `AttemptRunner.carry_out`; a child saga is asked by mail, so it must be there."""
        if type(command) is Undo and command.branch.child is not None:
            return self._ask_child(active, command.branch.id, command.branch.child)
        return self.attempts.carry_out(active, command)

    async def _ask_child(self, active: Active, branch: str, child: UUID) -> ev.Event:
        look = partial(self._journal.find, Filter(ids=(child,)), limit=1)
        try:
            known = await self._insist(active, f"its child saga {child} is to undo itself", look)
        except StoreError as error:
            return ev.UndoFailed(branch, describe(error))
        if known:
            return ev.Undone(branch)
        text = f"child saga {child} isn't in the store: undo by hand what it did, then skip this"
        return ev.UndoFailed(branch, text, retriable=False)

    async def _await_event(self, active: Active, wake_at: float | None) -> None:
        if active.inbox:
            return
        loop = asyncio.get_running_loop()
        active.waiter = waiter = loop.create_future()
        timer = None
        if wake_at is not None:
            delay = max(0.0, wake_at - self._clock.now())
            timer = loop.call_later(delay, _wake, waiter)
        try:
            await waiter
        finally:
            active.waiter = None
            if timer is not None:
                timer.cancel()

    def _digest(self, active: Active) -> list[fx.Fact]:
        """Feed the queued events, or a tick if there are none, to the state machine; the facts."""
        facts: list[fx.Fact] = []
        if not active.inbox:
            active.inbox.append(ev.Tick())
        while active.inbox:
            event = active.inbox.popleft()
            facts += active.machine.handle(event, self._clock.now(), random.random())  # noqa: S311
        return facts

    # -- storing -----------------------------------------------------------------------------

    async def _store(
        self, active: Active, facts: list[fx.Fact], *, release: bool, wake_at: float | None
    ) -> None:
        """Store facts, trying for as long as the lease lasts."""
        append = append_of(active, facts, release=release, wake_at=wake_at, clock=self._clock)
        try:
            # A step forward of the only one here has nobody to share a commit with. All else goes
            # through the event loop: attempts without a pause between them would starve it.
            if facts and type(facts[-1]) is fx.StepCompleted and self.desk.slots.taken <= 1:
                await self.appends.write_alone(append)
            else:
                await self.appends.submit(append)
        except STORE_AWAY:
            again = partial(self.appends.submit, append)
            await self._insist(active, "its facts wait to be stored", again)
        self._stored(active, append, facts)

    def _stored(self, active: Active, append: Append, facts: list[fx.Fact]) -> None:
        spans, change = self._telemetry.spans, append.change
        if spans is not None:
            spans.stored(active.machine, facts)
        for fact in facts:
            if type(fact) is not fx.StepCompleted:  # of which there is nothing to tell
                self._telemetry.stored(active.definition.name, fact)
                self._log.stored(active, fact)
        if change is not None and change.finished_at is not None and facts:
            self._telemetry.ended(active.definition.name, active.machine, change.finished_at)
            self._log.ended(active)
        if active.born:
            children, active.born = active.born, []
            for prepared in children:
                self._home.begun(prepared)
        for mail in append.mails:
            self._home.sent(mail.to)
        self._home.watchers.changed(active.id)

    # -- transactional steps and undos -------------------------------------------------------

    async def _transact(self, active: Active, command: Run | Undo) -> list[fx.Fact]:
        """Run a transactional attempt: its rows and its facts commit together, or neither does.

        Answers with the facts still to be stored, which are none if it committed.
        """
        machine = active.machine
        decided, scope = False, Scope()
        try:
            async with self._home.host.transaction() as tx:
                value = await self.attempts.call(active, command, tx, scope)
                success = self.attempts.success(active, command, value)
                facts = machine.handle(success, self._clock.now())
                decided = True
                append = append_of(
                    active,
                    facts,
                    release=bool(machine.outcome),
                    wake_at=None,
                    clock=self._clock,
                )
                tx.on_commit(lambda: self._stored(active, append, facts))
                await tx.within(JournalStore).append(self._owner, append)
        except StaleWriter:
            raise
        except BaseException as error:
            self.attempts.raise_if_ended(active, error)
            failure = self.attempts.failure(active, command, error, scope)
            if decided:
                # The machine has moved on but the store may not have: only a reload can tell.
                raise _Reload(failure) from error
            return machine.handle(failure, self._clock.now(), random.random())  # noqa: S311
        return []


async def _ended(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for the end of attempts that were cancelled: what comes next must not run beside them.

    Not for ever, since the user's code may not heed it.
    """
    if tasks:
        await asyncio.wait(tasks, timeout=HEEDS_WITHIN)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Reload(Exception):
    """The instance must be read anew, and then be told of this event."""

    def __init__(self, event: ev.Failed | ev.UndoFailed) -> None:
        self.event: ev.Failed | ev.UndoFailed = event
