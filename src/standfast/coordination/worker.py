"""A worker: claims what is due in a coordination journal, and hands it to a pattern's executor.

Any number of workers share a store that allows it; where it allows one, the others stand by. It
claims no more than it has places for, and looks when somebody hints, when a timer is up, and every
`poll` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Collection, Iterator, Mapping
from uuid import UUID

from standfast.clock import Clock
from standfast.coordination.executor import Executor
from standfast.coordination.fingerprints import fingerprints, unlike
from standfast.coordination.looks import Due, Knowledge
from standfast.coordination.membership import Membership
from standfast.coordination.outage import Outage
from standfast.coordination.room import Limits, Taken, slots_note, told
from standfast.coordination.service import Duty
from standfast.coordination.slots import Slots
from standfast.durations import human
from standfast.errors import StaleWriter, StoreError, StoreUnavailable
from standfast.ports.journal import JournalStore, Loaded
from standfast.ports.leases import Kind
from standfast.resilience.backoff import Exponential
from standfast.shielding import shielded

log = logging.getLogger("standfast.coordination.worker")

CLAIM_BATCH = 500
UNCLAIMABLE_AFTER = 5.0
_BACKOFF = Exponential(initial=0.2, maximum=30.0, jitter="equal")
RECOVERY_PAUSE = 1.0
"""Seconds before what was reclaimed a second time in a row, without progress, is run again."""
LONGEST_PAUSE = 60.0
"""To that the pause grows."""
WAITED_LONG = 30.0
"""Seconds for which something was due without a slot, before a warning tells of it."""
TELL_EVERY = 60.0
"""Seconds between two such warnings."""
LETS_GO_WITHIN = 0.9
"""Seconds to give back what is in hand, once cancelled: less than a supervisor waits for it."""


class Worker:
    """The service that runs the instances of one executor in this process.

    `name` is the service's. `exclusive`: the store takes one such worker at a time.
    `max_in_flight`: instances in memory at once; more wait in the store. `poll`: seconds between
    looks at the store when nothing hints at work. `linger`: what sleeps for longer, in seconds,
    leaves memory.
    """

    def __init__(
        self,
        name: str,
        executor: Executor,
        journal: JournalStore,
        *,
        clock: Clock,
        exclusive: bool,
        max_in_flight: int,
        poll: float,
        linger: float,
    ) -> None:
        self.name: str = name
        self.exclusive: bool = exclusive
        self.linger: float = linger
        self.slots: Slots = Slots(max_in_flight)
        self.owner: int = 0
        self._executor = executor
        self._journal = journal
        self._clock = clock
        self._poll = poll
        self._due = Due(clock)
        self._emptied = asyncio.Event()
        self._membership: Membership
        self._turns = 0
        self._warned: set[tuple[Kind, str]] = set()
        self._knowledge = Knowledge(clock, poll)
        self._outage = Outage(clock)
        self._told_of_waiting_at = -math.inf

    @property
    def hindrance(self) -> str:
        """See `hindrance_of`."""
        return self._executor.hindrance

    # -- a turn ------------------------------------------------------------------------------

    async def run(self, duty: Duty) -> None:
        """See `Service.run`."""
        executor, due = self._executor, self._due
        if self.owner == duty.token:  # what the turn before couldn't give back, nobody can claim
            self._knowledge.doubt()
        self._membership, self.owner = duty.membership, duty.token
        self.slots = Slots(self.slots.limit)  # what a turn before had in memory left no place free
        own = executor.fingerprints
        slots = slots_note(executor.pattern, self.slots.limit, executor.kinds)
        await duty.membership.can_run(self.name, list(executor.kinds), own, slots)
        await self._compare(own)
        due.everything()
        subscriptions = (
            self._journal.on_due(due.told),
            duty.membership.on_takeover(due.takeover),
            duty.membership.leases.on_freed(due.takeover),
        )
        executor.begin(self)
        loop = asyncio.get_running_loop()
        pump = loop.create_task(self._pump(duty.membership.lease))
        stopping = loop.create_task(duty.stopping.wait())
        try:
            duty.ready()
            await asyncio.wait((pump, stopping), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
            pump.cancel()
            await self._drain(duty.drain)
        finally:
            for unsubscribe in subscriptions:
                unsubscribe()
            for task in (pump, stopping):
                task.cancel()
            await shielded(self._let_go(duty), within=LETS_GO_WITHIN)

    async def _compare(self, own: Mapping[Kind, str]) -> None:
        """Warn, once each, of processes that have other code for a kind than this one."""
        for name, note in await self._membership.others() if own else ():
            theirs = fingerprints(note)
            for kind in unlike(own, theirs):
                if (kind, theirs[kind]) in self._warned:
                    continue
                self._warned.add((kind, theirs[kind]))
                log.warning(
                    "%s %r version %d has other steps here than in %s (fingerprint %s, there %s): "
                    "either may run an instance that the other began. Give the newer one the next "
                    "version, or run the same code",
                    *(*kind, name, own[kind], theirs[kind]),
                )

    async def _let_go(self, duty: Duty) -> None:
        await self._executor.cut_off()
        # However the turn ended: while the token holds, nobody else can claim what it owns.
        if duty.membership.token != self.owner:
            return
        await self._executor.end()
        try:
            await self._journal.release(self.owner)
        except StoreError as error:
            log.warning("what was in hand couldn't be given back, so others wait: %s", error)

    async def _drain(self, within: float) -> None:
        """Let attempts in flight end; what isn't finished in time is due for others at once."""
        executor = self._executor
        executor.drain()
        try:
            async with asyncio.timeout(within):
                while executor.active:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            log.warning("still running after %g s, and cut off: %d", within, len(executor.active))

    # -- the desk ----------------------------------------------------------------------------

    @property
    def holder(self) -> str:
        """See `Desk.holder`."""
        return self._membership.name

    def hint(self, id: UUID) -> None:
        """See `Desk.hint`."""
        if id in self._executor.active:
            self._due.hints.add(id)
        self._due.now()

    def wake(self) -> None:
        """See `Desk.wake`."""
        self._due.now()

    def doubt(self) -> None:
        """See `Desk.doubt`."""
        self._knowledge.doubt()
        self._due.now()

    def left(self, id: UUID, wakes_at: float | None) -> None:
        """See `Desk.left`."""
        if wakes_at is not None and wakes_at < self._due.looks_at:
            self._due.now()
        if not self._executor.active:
            self._emptied.set()

    async def still_ours(self) -> bool:
        """See `Desk.still_ours`."""
        membership = self._membership
        ours = membership.token == self.owner and await membership.check()
        if not ours:
            membership.suspect()
        return ours

    # -- taking work -------------------------------------------------------------------------

    async def _pump(self, lease: float) -> None:
        """The polling loop: reclaim, claim, fetch mail, flag what is unclaimable.

        When there is no hint or timer for a while, it asks whether anything is due before it
        claims: an idle worker costs the store one query every `poll` seconds. After a failure it
        pauses, for `poll` seconds at most, and nothing shortens that: hints come as fast as ever.
        """
        due, clock = self._due, self._clock
        looked_around_at = -math.inf
        due_at = -math.inf  # when the next one is due, as far as is known
        failures = 0  # in a row
        while True:
            if due.begin_look():
                due_at = -math.inf
            timeout = self._poll
            # Before the claim: one that leaves from now on, with mail, is due.
            hinted = due.take_hints(self._executor.active)
            try:
                around = clock.monotonic() - looked_around_at > max(lease, self._poll)
                left_over = due.take_takeover() or around
                if left_over and await self._journal.reclaim(
                    pause=RECOVERY_PAUSE, longest=LONGEST_PAUSE
                ):
                    due_at = -math.inf
                if due_at > clock.now():
                    due_at = await self._next_wake()
                is_due = due_at <= clock.now()
                if is_due:
                    await self._claim()
                if self._knowledge.is_due:
                    await self._find_missing()
                await self._collect(hinted)
                if around:
                    looked_around_at = clock.monotonic()
                    await self._flag()
                    await self._warn_of_waiting()
                if is_due and not due.is_set:
                    due_at = await self._next_wake()
                timeout = min(timeout, max(0.005, due_at - clock.now()))
            except StaleWriter as error:
                log.warning("nothing can be claimed: %s", error)
                self._membership.suspect()
                due.forgot()
                failures += 1
            except Exception as error:  # whatever it is, work must be taken again
                self._knowledge.doubt()  # a claim may have been carried out
                due.forgot()
                failures += 1
                if not isinstance(error, StoreUnavailable):
                    log.exception("taking work failed; trying again within %g s", self._poll)
                elif self._outage.failed():
                    log.error("can't reach the store for work: %s", error)
            else:
                failures = 0
                if lasted := self._outage.over():
                    log.warning("the store gives work again, after %s", lasted)
                await due.wait(timeout)
                continue
            pause = _BACKOFF.delay(failures, 0.0, random.random())  # noqa: S311 - jitter
            await clock.sleep(min(self._poll, pause))

    async def _next_wake(self) -> float:
        """When the next one is due for which there is room."""
        kinds = self._executor.kinds
        fit = [kind for kind, own in kinds.items() if self.slots.room(kind[1], own) > 0]
        if len(fit) < len(kinds):
            self.slots.starved = True  # whoever leaves makes room for what wasn't asked for
        wake = await self._journal.next_wake(fit) if fit else None
        return math.inf if wake is None else wake

    async def _claim(self) -> None:
        self.slots.starved = False
        for kinds, own in self._groups():
            await self._claim_some(kinds, own)

    def _groups(self) -> Iterator[tuple[list[Kind], int | None]]:
        """Kinds that share one limit, beginning elsewhere each time, so that none finds the worker
        always filled by the others.
        """
        kinds = self._executor.kinds
        groups: list[tuple[list[Kind], int | None]]
        groups = [([kind], own) for kind, own in kinds.items() if own is not None]
        groups.append(([kind for kind, own in kinds.items() if own is None], None))
        self._turns += 1
        begin = self._turns % len(groups)
        yield from groups[begin:]
        yield from groups[:begin]

    async def _claim_some(self, kinds: list[Kind], own: int | None) -> None:
        while kinds:
            room = min(CLAIM_BATCH, self.slots.room(kinds[0][1], own))
            if room <= 0:
                self.slots.starved = True
                return
            found = await self._journal.claim(self.owner, kinds, now=self._clock.now(), limit=room)
            for loaded in found:
                await self._take_in(loaded)
            if len(found) < room:
                return

    async def _take_in(self, loaded: Loaded) -> None:
        id = loaded.instance.id
        try:
            await self._executor.take_in(loaded)
        except asyncio.CancelledError:
            raise
        except BaseException:  # it is owned all the same, so that no claim brings it again
            log.exception("%s %s couldn't be taken in; trying again", self._executor.pattern, id)
            self._knowledge.doubt(patience=self._poll)

    async def _find_missing(self) -> None:
        """Take in what the token owns and memory lacks."""
        executor, knowledge = self._executor, self._knowledge
        as_of = knowledge.looks()

        def is_missing(id: UUID) -> bool:
            return id not in executor.active and id not in executor.beginning

        missing = list(filter(is_missing, await self._journal.owned_by(self.owner)))
        found = await self._journal.load(missing) if missing else []
        for loaded in found:
            # Since it was told of, it may have begun here, and even come to rest.
            if loaded.instance.owner == self.owner and is_missing(loaded.instance.id):
                await self._take_in(loaded)
        knowledge.knows(as_of)

    async def _collect(self, hinted: Collection[UUID]) -> None:
        """Fetch the mail of instances in memory; one that has left meanwhile must be claimed."""
        active = self._executor.active
        ids = [id for id in hinted if id in active]
        if ids:
            self._executor.deliver(await self._journal.collect(self.owner, ids))
        if any(id not in active for id in hinted):
            self._due.now()

    async def _warn_of_waiting(self) -> None:
        """Warn, once in a while, of what has been due for long and has no slot here."""
        slots, now = self.slots, self._clock.monotonic()
        full = {
            kind: Taken(Limits(slots.limit, own), slots.taken, slots.by_name[kind[1]])
            for kind, own in self._executor.kinds.items()
            if slots.room(kind[1], own) <= 0
        }
        if not full or now - self._told_of_waiting_at < TELL_EVERY:
            return
        due_at = await self._journal.next_wake(list(full))
        waited = 0.0 if due_at is None else self._clock.now() - due_at
        if waited < WAITED_LONG:
            return
        self._told_of_waiting_at = now
        for kind, taken in full.items():
            if await self._journal.next_wake([kind]) == due_at:
                log.warning(
                    "%s %r has been due for %s and waits for a slot: %s. If what has a slot awaits "
                    "what waits for one, neither ends; else raise max_in_flight, or begin another "
                    "process",
                    *(kind[0], kind[1], human(round(waited)), told(kind[1], [taken])),
                )
                return

    async def _flag(self) -> None:
        orphaned = self._executor.orphaned
        flagged = await self._journal.flag_unclaimable(
            self._executor.pattern,
            due_before=self._clock.now() - UNCLAIMABLE_AFTER,
            status=orphaned.status,
            cause=orphaned.cause,
        )
        for instance in flagged:
            log.error(
                "%s %s is %s: no live worker has version %d of %r. %s",
                instance.pattern,
                instance.id,
                orphaned.status,
                instance.version,
                instance.name,
                orphaned.remedy,
                extra=self._executor.log_fields(instance, self.holder),
            )
