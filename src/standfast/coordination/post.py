"""One service of a process: the turns that it is run for, and how each of them ends."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from standfast.clock import Clock
from standfast.coordination.lifecycle import ServiceEvent, ServiceStatus, after
from standfast.coordination.membership import Membership
from standfast.coordination.outage import Outage
from standfast.coordination.service import Duty, Service
from standfast.coordination.stacks import where
from standfast.errors import StaleWriter, StoreError, StoreUnavailable
from standfast.resilience.backoff import Exponential
from standfast.resilience.deadline import without_deadline
from standfast.shielding import shielded
from standfast.text import class_name, told

log = logging.getLogger("standfast.coordination")

_BACKOFF = Exponential(initial=0.2, maximum=30.0, jitter="equal")
_STANDS_BY_FOR = 0.5
"""Seconds between looks whether a lease that another holds has become free, at most."""
_READY_WITHIN = 10.0
"""Seconds for which the start waits for one service, before it goes on with the next."""
_GRACE = 1.0
"""Seconds for a service to end after it was cancelled, before the process goes on without it."""


class Home(Protocol):
    """What a post needs of the supervisor that it belongs to."""

    membership: Membership
    clock: Clock
    is_stopping: bool

    @property
    def store_answers(self) -> bool:
        """Whether the last beat reached the store; that it didn't is told."""
        ...

    @property
    def blocked_lately(self) -> float:
        """For how many seconds the event loop was blocked until just now; 0 if it wasn't."""
        ...

    async def joined(self) -> int:
        """Wait until the membership surely holds; its fencing token."""
        ...

    async def stands(self, token: int) -> bool:
        """Whether the membership with that token wasn't lost; if it was, that is seen to now."""
        ...

    def changed(self) -> None:
        """Hear that a service stands otherwise than before."""
        ...


class Post:
    """One service, and the task that keeps it running.

    `task` is that task, None before it began. `lease_name` is what the service's own lease is
    called, which it has only if it is exclusive.
    """

    def __init__(self, supervisor: Home, service: Service) -> None:
        self.supervisor: Home = supervisor
        self.service: Service = service
        self.lease_name: str = f"service:{service.name}"
        self.status: ServiceStatus = ServiceStatus(service.name, "starting", supervisor.clock.now())
        self.task: asyncio.Task[None] | None = None
        self._unasked = Outage(supervisor.clock)
        self.freed: asyncio.Event = asyncio.Event()
        """Set when a lease may have become free."""
        self._duty: Duty | None = None
        self._turn: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None

    def _note(self, event: ServiceEvent, error: str = "") -> None:
        before = self.status.state
        now = self.supervisor.clock.now()
        self.status = after(self.status, event, now, error=error)
        if self.status.state != before:
            log.debug("service %r: %s", self.service.name, self.status.state)
            self.supervisor.changed()
        if self._first is not None and not self._first.done() and self.status.is_up:
            self._first.set_result(None)

    # -- turn after turn ---------------------------------------------------------------------

    async def begin(self) -> None:
        """Start the service, and return once it is up, or after ten seconds.

        One that stands by is up. Raises what it failed with before it was up.
        """
        loop = asyncio.get_running_loop()
        self._first = loop.create_future()
        with without_deadline():  # that of whoever starts it isn't the service's
            self.task = loop.create_task(self._keep(), name=f"standfast-{self.service.name}")
        await asyncio.wait((self._first,), timeout=_READY_WITHIN)
        if self._first.done():
            self._first.result()
            return
        self._first.set_result(None)
        log.warning(
            "service %r isn't ready after %g s: going on without waiting for it",
            self.service.name,
            _READY_WITHIN,
        )

    async def _keep(self) -> None:
        """The supervision loop: run turn after turn, with a growing pause after each failure.

        It ends when the service is stopped, or fails before it was ever up.
        """
        while not self.supervisor.is_stopping:
            try:
                await self._run_once()
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                if self._first is not None and not self._first.done():
                    error.add_note(f"standfast: service {self.service.name!r} failed at its start")
                    self._first.set_exception(error)
                    break
                if self.supervisor.is_stopping:
                    log.exception("service %r failed while it drained", self.service.name)
                    break
                await self._pause_after(error)
        if self.status.state != "stopped":  # it is, when its lease was lost while it drained
            self._note("end")

    async def _run_once(self) -> None:
        """One turn. Raises what it fails with."""
        self._duty = duty = await self._enlist()
        self._turn = turn = asyncio.get_running_loop().create_task(self._run(duty))
        try:
            await self._watch(turn)
        except asyncio.CancelledError:
            turn.cancel()
            await shielded(asyncio.wait((turn,), timeout=_GRACE))
            raise
        finally:
            self._turn = self._duty = None
        error = None if turn.cancelled() else turn.exception()
        if duty.is_cut or (duty.stopping.is_set() and error is None):
            return
        if isinstance(error, StaleWriter) and not await self.supervisor.stands(duty.token):
            if not duty.stopping.is_set():
                self._note("lost")
            return
        raise error or RuntimeError("it ended by itself")

    async def _run(self, duty: Duty) -> None:
        try:
            await self.service.run(duty)
        except SystemExit as error:
            # It would end the process, with all the other services in it.
            raise RuntimeError(
                f"it asked the process to exit: SystemExit({error.code!r})"
            ) from error

    async def _watch(self, turn: asyncio.Task[None]) -> None:
        """Wait for the end of a turn; cut an exclusive one when its lease may have run out."""
        membership = self.supervisor.membership
        while self.service.exclusive and not turn.done():
            left = membership.sure_until - self.supervisor.clock.monotonic()
            await asyncio.wait((turn,), timeout=max(0.0, left))
            if not turn.done() and not membership.is_held:
                self._tell_cut()
                await self.cut()
                break
        await asyncio.wait((turn,))

    def _tell_cut(self) -> None:
        if blocked := self.supervisor.blocked_lately:
            log.error(
                "service %r is cut off: the event loop was blocked for %.1f s, so that the lease "
                "wasn't renewed, and another process may run it by now",
                self.service.name,
                blocked,
            )
            return
        log.error(
            "service %r is cut off: the store doesn't answer, and another process may run it by "
            "now",
            self.service.name,
        )

    async def _pause_after(self, error: BaseException) -> None:
        self._note("fail", f"{class_name(error)}: {told(error)}"[:500])
        pause = _BACKOFF.delay(self.status.failures, 0.0, random.random())  # noqa: S311 - jitter
        if not isinstance(error, StoreUnavailable):
            log.error(
                "service %r failed; beginning again in %.1f s",
                self.service.name,
                pause,
                exc_info=error,
            )
        elif self.supervisor.store_answers:  # else that is told already
            log.error(
                "service %r can't reach the store; beginning again in %.1f s: %s",
                self.service.name,
                pause,
                error,
            )
        await self._let_go()
        await self.supervisor.clock.sleep(pause)

    async def _enlist(self) -> Duty:
        """Wait for the leases that a turn needs: all of them surely hold when it begins."""
        membership = self.supervisor.membership
        while True:
            token, own = await self.supervisor.joined(), None
            if self.service.exclusive:
                own = await self._own_lease()
                if own is None:
                    await self._await_freed()
                    continue
                # Asking took a while: what held before may be lost by now.
                if membership.token != token or membership.held(self.lease_name) != own:
                    continue
                if not membership.is_held:
                    continue
            if self.status.state != "starting":
                self._note("begin")
            return Duty(membership, token, own, self._ready)

    async def _own_lease(self) -> int | None:
        """The service's own lease, asked for if need be; None while another process has it."""
        membership = self.supervisor.membership
        own = membership.held(self.lease_name)
        if own is not None:
            return own
        self.freed.clear()  # before it asks: what is freed from now on is news
        try:
            own = await membership.hold(self.lease_name)
        except StoreError as error:
            if self._unasked.failed():
                log.error("service %r can't ask for its lease: %s", self.service.name, error)
            return None
        if lasted := self._unasked.over():
            log.warning(
                "service %r can ask for its lease again, after %s", self.service.name, lasted
            )
        if own is None and self.status.state != "standing_by":
            log.info("another process runs service %r: standing by", self.service.name)
            self._note("stand_by")
        return own

    async def _await_freed(self) -> None:
        patience = min(_STANDS_BY_FOR, self.supervisor.membership.beats_every)
        try:
            async with asyncio.timeout(patience):
                await self.freed.wait()
        except TimeoutError:
            pass  # hints may be lost: look again

    def _ready(self, duty: Duty) -> None:
        if duty is self._duty and not duty.is_cut and self.status.state != "running":
            self._note("ready")

    # -- the end of a turn -------------------------------------------------------------------

    async def cut(self) -> None:
        """Cancel the current run: its lease was lost. Waits for its end, for one beat at most."""
        duty, turn = self._duty, self._turn
        if duty is None or turn is None or duty.is_cut:
            return
        duty.is_cut = True
        self._note("lost")
        turn.cancel()
        # No longer, for the heart waits meanwhile.
        done, _ = await asyncio.wait((turn,), timeout=self.supervisor.membership.beats_every)
        if not done:
            log.error(
                "service %r doesn't end though its lease was lost: it isn't begun again before it "
                "has. It is here:\n%s",
                self.service.name,
                where(turn),
            )

    def drain(self, within: float) -> None:
        """Ask the service to stop: it may finish what it has begun, within so many seconds."""
        if self.task is None or self.status.state in ("draining", "stopped"):
            return
        self._note("drain")
        if self._duty is not None:
            self._duty.drain = within
            self._duty.stopping.set()

    async def drained(self, within: float) -> None:
        """Wait until the service has ended, for so many seconds and one more at most."""
        if self.task is not None and self._duty is not None:
            await asyncio.wait((self.task,), timeout=within + _GRACE)
            if not self.task.done():
                log.warning("service %r isn't done in time: cut off", self.service.name)

    async def end(self) -> None:
        """Cancel the service if it still runs, and release its own lease."""
        if self.task is not None:
            self.task.cancel()
            turn = self._turn
            await asyncio.wait((self.task,), timeout=2 * _GRACE)
            if turn is not None and not turn.done():
                log.error(
                    "service %r doesn't heed its cancellation: going on without it. It is "
                    "here:\n%s",
                    self.service.name,
                    where(turn),
                )
        if self.status.state != "stopped":
            self._note("end")
        await self._let_go()

    async def _let_go(self) -> None:
        if self.service.exclusive:
            await self.supervisor.membership.let_go(self.lease_name)
