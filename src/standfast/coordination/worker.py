"""A worker: claims what is due in a coordination journal, and hands it to a pattern's executor.

Any number of workers share a store that allows it; where it allows one, the others stand by. It
claims no more than it has places for, and looks when somebody hints, when a timer is up, and every
`poll` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Iterator
from uuid import UUID

from standfast.clock import Clock
from standfast.coordination.executor import Executor
from standfast.coordination.membership import Kind, Membership
from standfast.coordination.service import Duty
from standfast.coordination.slots import Slots
from standfast.errors import StaleWriter, StoreError, StoreUnavailable
from standfast.ports.journal import JournalStore, Loaded

log = logging.getLogger("standfast.coordination.worker")

CLAIM_BATCH = 500
UNCLAIMABLE_AFTER = 5.0
DOUBTED_FOR = 60.0
"""Seconds for which an act without an answer may still come true."""
RECOVERY_PAUSE = 1.0
"""Seconds before what was reclaimed a second time in a row, without progress, is run again."""
LONGEST_PAUSE = 60.0
"""To that the pause grows."""


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
        self._due = _Due(clock)
        self._emptied = asyncio.Event()
        self._membership: Membership
        self._turns = 0
        self._knowledge = _Knowledge(clock, poll)

    # -- a turn ------------------------------------------------------------------------------

    async def run(self, duty: Duty) -> None:
        """See `Service.run`."""
        executor, due = self._executor, self._due
        if self.owner == duty.token:  # what the turn before couldn't give back, nobody can claim
            self._knowledge.doubt()
        self._membership, self.owner = duty.membership, duty.token
        self.slots = Slots(self.slots.limit)  # what a turn before had in memory left no place free
        await duty.membership.can_run(self.name, list(executor.kinds))
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
            await executor.cut_off()
            # However the turn ended: while the token holds, nobody else can claim what it owns.
            if duty.membership.token == self.owner:
                await self._give_all_back()

    async def _give_all_back(self) -> None:
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
            log.warning("%d instances still ran after %g s: cut off", len(executor.active), within)

    # -- the desk ----------------------------------------------------------------------------

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
        claims: an idle worker costs the store one query every `poll` seconds.
        """
        due, clock = self._due, self._clock
        looked_around_at = -math.inf
        due_at = -math.inf  # when the next one is due, as far as is known
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
                if is_due and not due.is_set:
                    due_at = await self._next_wake()
                timeout = min(timeout, max(0.005, due_at - clock.now()))
            except StaleWriter as error:
                log.warning("nothing can be claimed: %s", error)
                self._membership.suspect()
                due.forgot()
            except Exception as error:  # whatever it is, work must be taken again
                self._knowledge.doubt()  # a claim may have been carried out
                due.forgot()
                if isinstance(error, StoreUnavailable):
                    log.error("can't reach the store for work: %s", error)
                else:
                    log.exception("taking work failed; trying again in %g s", self._poll)
            await due.wait(timeout)

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
            )


class _Knowledge:
    """Whether all that the token owns is surely in memory, or will be without a look.

    A doubt is about acts whose outcome isn't known: they may come true for `DOUBTED_FOR` seconds
    more. So only a look that begins after that, and gets to its end, ends it; until then there is
    one at once, and another within every `poll` seconds.
    """

    def __init__(self, clock: Clock, poll: float) -> None:
        self._clock = clock
        self._poll = poll
        self._unsure_until = -math.inf
        self._sure_as_of = -math.inf
        self._looks_at = -math.inf

    @property
    def is_due(self) -> bool:
        """Whether to look now."""
        if self._sure_as_of >= self._unsure_until:
            return False
        return self._clock.monotonic() >= self._looks_at

    def doubt(self, *, patience: float = 0.0) -> None:
        """Look after `patience` seconds, and then for a while."""
        now = self._clock.monotonic()
        self._unsure_until = now + DOUBTED_FOR
        self._looks_at = now + patience

    def looks(self) -> float:
        """A look begins; at which time."""
        now = self._clock.monotonic()
        self._looks_at = now + self._poll / 2
        return now

    def knows(self, as_of: float) -> None:
        """A look that began then got to its end."""
        self._sure_as_of = as_of


class _Due:
    """Pending wake-up reasons of the polling loop: hints, takeovers, and time."""

    def __init__(self, clock: Clock) -> None:
        self.hints: set[UUID] = set()
        self.looks_at: float = math.inf
        """When it looks by itself; infinite while it is looking."""
        self._clock = clock
        self._event = asyncio.Event()
        self._everything = True
        self._takeover = True

    @property
    def is_set(self) -> bool:
        """Whether there was a reason since the look began."""
        return self._event.is_set()

    def now(self) -> None:
        """Look now."""
        self._event.set()

    def everything(self) -> None:
        """Look now, for mail of all instances and work that others left."""
        self._everything = self._takeover = True
        self._event.set()

    def forgot(self) -> None:
        """A look failed: the next one, whenever it comes, is for everything."""
        self._everything = self._takeover = True

    def takeover(self) -> None:
        """Leases were ended: look for what they left."""
        self._takeover = True
        self._event.set()

    def told(self, id: UUID | None) -> None:
        """The store hints at an instance, or at anything."""
        if id is None:
            self._everything = True
        else:
            self.hints.add(id)
        self._event.set()

    def begin_look(self) -> bool:
        """A look begins; whether there was a reason."""
        told = self._event.is_set()
        self._event.clear()
        self.looks_at = math.inf
        return told

    def take_takeover(self) -> bool:
        """Whether somebody's lease was ended since this was last asked."""
        takeover, self._takeover = self._takeover, False
        return takeover

    def take_hints(self, active: Collection[UUID]) -> Collection[UUID]:
        """The instances in memory to look for mail of."""
        ids = list(active) if self._everything else [id for id in self.hints if id in active]
        self._everything, self.hints = False, set()
        return ids

    async def wait(self, timeout: float) -> None:
        """Until there is a reason, for `timeout` seconds at most; then look at everything."""
        self.looks_at = self._clock.now() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            self._everything = True
