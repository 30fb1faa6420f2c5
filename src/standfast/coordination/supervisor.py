"""Runs the services of one process under one membership, and begins them again when they fail."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

from standfast.clock import Clock
from standfast.coordination.lifecycle import ServiceEvent, ServiceStatus, after
from standfast.coordination.membership import Membership
from standfast.coordination.service import Duty, Service
from standfast.coordination.stacks import where
from standfast.coordination.watchdog import Watchdog
from standfast.errors import ConfigurationError, StaleWriter, StoreError
from standfast.resilience.backoff import Exponential
from standfast.text import told

log = logging.getLogger("standfast.coordination")

_BACKOFF = Exponential(initial=0.2, maximum=30.0, jitter="equal")
_STANDS_BY_FOR = 0.5
"""Seconds between looks whether a lease that another holds has become free, at most."""
_LOOKS_EVERY = 0.05
"""Seconds between looks whether the membership holds again."""
_READY_WITHIN = 10.0
"""Seconds for which the start waits for one service, before it goes on with the next."""
_GRACE = 1.0
"""Seconds for a service to end after it was cancelled, before the process goes on without it."""


class Supervisor:
    """Starts services in order, keeps them running, and drains all of them at once.

    `watched`: a thread sees when the event loop is blocked. A service that fails before it was ever
    up makes `start` fail; later, it is begun again after a growing pause. When the membership is
    lost all are cut off, and begin anew under the next one. An exclusive service is also cut off
    when its lease may have run out because the store doesn't answer.
    """

    def __init__(
        self,
        membership: Membership,
        services: Sequence[Service],
        *,
        clock: Clock,
        watched: bool = True,
    ) -> None:
        names = [service.name for service in services]
        for name in names:
            if names.count(name) > 1:
                raise ConfigurationError(f"two services are named {name!r}: rename one of them")
        self.membership: Membership = membership
        self.watchdog: Watchdog | None = Watchdog(membership.lease) if watched else None
        self.clock: Clock = clock
        self._posts = [_Post(self, service) for service in services]
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = asyncio.Event()
        self.is_stopping: bool = False
        self._store_answers = True
        self._beat_at: float | None = None
        self._telling: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = _nothing

    @property
    def services(self) -> list[ServiceStatus]:
        """How each service stands, in the order in which they were started."""
        return [post.status for post in self._posts]

    @property
    def store_answers(self) -> bool:
        """Whether the last beat reached the store."""
        return self._store_answers

    @property
    def has_begun(self) -> bool:
        """Whether it has joined the others, so that its heart beats."""
        return self._beat_at is not None

    @property
    def is_beating(self) -> bool:
        """Whether the heartbeat goes on: not before the start, nor after the stop."""
        return any(not task.done() for task in self._tasks)

    @property
    def beat_age(self) -> float:
        """Seconds since the last beat ended, well or not; 0 before the first."""
        at = self._beat_at
        return 0.0 if at is None else self.clock.monotonic() - at

    # -- life --------------------------------------------------------------------------------

    async def start(self, *, drain: float = 0.0) -> None:
        """Join, and start the services one after the other: each is up when the next begins.

        One that stands by counts as up. One that isn't ready after ten seconds is told in the log,
        and not waited for any longer. Raises what a service's first turn raises, and `StoreError`;
        then, or when it is cancelled, those that are up are stopped as by `stop`.
        """
        loop = asyncio.get_running_loop()
        await self._join()
        self._unsubscribe = self.membership.leases.on_freed(self._freed)
        self._beat_at = self.clock.monotonic()
        self._tasks = [loop.create_task(self._beat())]
        if self.watchdog is not None:
            self.watchdog.start(loop)
        try:
            for post in self._posts:
                await post.begin()
        except BaseException:
            await self.stop(drain)
            raise

    async def stop(self, drain: float) -> None:
        """Drain all services at once, within `drain` seconds in all, and leave.

        None takes on anything new from now on. What hasn't ended by then, or when this is
        cancelled, is cut off; the leases are released all the same.
        """
        self.is_stopping = True
        until = self.clock.monotonic() + drain
        for post in self._posts:
            post.drain(drain)
        try:
            for post in reversed(self._posts):
                await post.drained(max(0.0, until - self.clock.monotonic()))
        finally:
            await asyncio.gather(*(post.end() for post in self._posts))
            await self._leave()

    async def _leave(self) -> None:
        tasks = [task for task in (*self._tasks, self._telling, self._tending) if task is not None]
        for task in tasks:
            task.cancel()
        self._unsubscribe()
        if self.watchdog is not None:
            self.watchdog.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.membership.leave()

    async def _join(self) -> None:
        await self.membership.join()
        self._joined.set()

    async def joined(self) -> int:
        """Wait until the membership surely holds; its fencing token."""
        while not self.membership.is_held:
            self._joined.clear()
            try:  # joined anew, or renewed by a beat, of which nobody tells
                async with asyncio.timeout(_LOOKS_EVERY):
                    await self._joined.wait()
            except TimeoutError:
                pass
        token = self.membership.token
        assert token is not None
        return token

    async def stands(self, token: int) -> bool:
        """Whether the membership with that token wasn't lost; if it was, that is seen to now."""
        membership = self.membership
        try:
            stands = membership.token == token and await membership.check()
        except StoreError:
            return True  # nobody knows
        if not stands:
            membership.suspect()
        return stands

    def _freed(self) -> None:
        for post in self._posts:
            post.freed.set()

    # -- the heartbeat -----------------------------------------------------------------------

    async def _beat(self) -> None:
        """The heartbeat loop: renew the own leases, then see to the rest.

        In that order, so that a late beat doesn't expire its own. No renewal waits for the rest.
        """
        membership = self.membership
        loop = asyncio.get_running_loop()
        at = loop.time()
        while True:
            at = max(at + membership.beats_every, loop.time())  # what it takes delays no later beat
            await membership.until_beat(at - loop.time())
            at = min(at, loop.time())
            try:
                if not await membership.check():
                    await self._lost()
                await asyncio.gather(*map(self._lost_one, membership.take_lost()))
                if self._tending is None or self._tending.done():
                    self._tending = loop.create_task(self._tend())
            except StoreError as error:
                self._store_answers = False
                log.error("can't reach the store to renew the lease: %s", error)
            except Exception:  # the heart must beat on: without it the process is dead, unnoticed
                log.exception(
                    "renewing the lease failed; trying again in %g s", membership.beats_every
                )
            self._beat_at = self.clock.monotonic()

    async def _tend(self) -> None:
        """Of a beat, what may wait: the clock, the leases of others, the note."""
        try:
            await self.membership.tend()
            await self.membership.tell()  # what couldn't be told before
            self._store_answers = True
        except StoreError as error:
            self._store_answers = False
            log.error("can't reach the store for the leases of others: %s", error)
        except Exception:  # the next beat tries again
            log.exception("looking after the leases of others failed")

    async def _lost(self) -> None:
        """The membership was ended by others: begin everything anew under another."""
        if self.membership.token is not None:
            log.error(
                "this process's lease was lost (it was paused, blocked or cut off for over %g s): "
                "what it had in hand went to others",
                self.membership.lease / 2,
            )
            self.membership.forget()
            await asyncio.gather(*(post.cut() for post in self._posts))
        await self._join()
        log.info("this process has a lease again: its services begin anew")

    async def _lost_one(self, name: str) -> None:
        for post in self._posts:
            if post.lease_name == name:
                log.error("the lease of service %r was lost to another", post.service.name)
                await post.cut()

    # -- how they stand ----------------------------------------------------------------------

    def changed(self) -> None:
        """Schedule publishing how the services stand, once for changes of the same moment."""
        if self._telling is None and not self.is_stopping:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        await asyncio.sleep(0)
        self._telling = None
        try:
            await self.membership.tell(services=describe(self.services))
        except StoreError as error:  # only told: nothing depends on it
            log.warning("how the services stand couldn't be told: %s", error)


class _Post:
    """One service, and the task that keeps it running."""

    def __init__(self, supervisor: Supervisor, service: Service) -> None:
        self.supervisor = supervisor
        self.service = service
        self.lease_name = f"service:{service.name}"
        self.status = ServiceStatus(service.name, "starting", supervisor.clock.now())
        self.task: asyncio.Task[None] | None = None
        self.freed = asyncio.Event()
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
            await asyncio.wait((turn,), timeout=_GRACE)
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
                log.error(
                    "service %r is cut off: the store doesn't answer, and another process may run "
                    "it by now",
                    self.service.name,
                )
                await self.cut()
                break
        await asyncio.wait((turn,))

    async def _pause_after(self, error: BaseException) -> None:
        self._note("fail", f"{type(error).__name__}: {told(error)}"[:500])
        pause = _BACKOFF.delay(self.status.failures, 0.0, random.random())  # noqa: S311 - jitter
        log.error(
            "service %r failed; beginning again in %.1f s",
            self.service.name,
            pause,
            exc_info=error,
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
            log.error("service %r can't ask for its lease: %s", self.service.name, error)
            return None
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


def describe(statuses: Sequence[ServiceStatus]) -> list[dict[str, Any]]:
    """Statuses as plain JSON values."""
    return [
        {
            "name": status.name,
            "state": status.state,
            "since": status.since,
            "restarts": status.restarts,
            "error": status.error,
        }
        for status in statuses
    ]


def _nothing() -> None:
    pass
