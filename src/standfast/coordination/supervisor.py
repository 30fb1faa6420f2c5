"""Runs the services of one process under one membership, and begins them again when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from standfast.clock import Clock
from standfast.coordination.lifecycle import ServiceStatus
from standfast.coordination.membership import Membership
from standfast.coordination.outage import Outage
from standfast.coordination.post import Post
from standfast.coordination.service import Service, hindrance_of
from standfast.coordination.watchdog import Watchdog
from standfast.errors import ConfigurationError, StoreError
from standfast.resilience.deadline import without_deadline
from standfast.shielding import shielded

log = logging.getLogger("standfast.coordination")

_LOOKS_EVERY = 0.05
"""Seconds between looks whether the membership holds again."""


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
        self._posts = [Post(self, service) for service in services]
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = asyncio.Event()
        self.is_stopping: bool = False
        self._store_answers = True
        self._unrenewed = Outage(clock)
        self._untended = Outage(clock)
        self._beat_at: float | None = None
        self._telling: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = _nothing

    @property
    def services(self) -> list[ServiceStatus]:
        """How each service stands, in the order in which they were started."""
        return [post.status for post in self._posts]

    @property
    def hindrances(self) -> dict[str, str]:
        """By service, why it can't work until the process is restarted. Any thread may ask."""
        found = {post.service.name: hindrance_of(post.service) for post in self._posts}
        return {name: why for name, why in found.items() if why}

    @property
    def store_answers(self) -> bool:
        """Whether the last beat reached the store."""
        return self._store_answers

    @property
    def blocked_lately(self) -> float:
        """For how many seconds the event loop was blocked until just now; 0 if it wasn't.

        Or if nobody watches it.
        """
        return 0.0 if self.watchdog is None else self.watchdog.blocked_lately()

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
        with without_deadline():  # that of whoever starts it isn't the heart's
            self._tasks = [loop.create_task(self._beat())]
        if self.watchdog is not None:
            self.watchdog.start(loop)
        try:
            for post in self._posts:
                await post.begin()
        except BaseException:  # also when it is cancelled: those that have begun must end
            await self.stop(drain)
            raise

    async def stop(self, drain: float) -> None:
        """Drain all services at once, within `drain` seconds in all, and leave.

        None takes on anything new from now on. What hasn't ended by then, or when this is
        cancelled, is cut off; the leases are released all the same, however often it is cancelled.
        """
        self.is_stopping = True
        for post in self._posts:
            post.drain(drain)
        try:
            await asyncio.gather(*(post.drained(drain) for post in self._posts))
        finally:
            await shielded(self._end())

    async def _end(self) -> None:
        await asyncio.gather(*(post.end() for post in self._posts))
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
                if lasted := self._unrenewed.over():
                    log.warning("the store renews the lease again, after %s", lasted)
                await asyncio.gather(*map(self._lost_one, membership.take_lost()))
                if self._tending is None or self._tending.done():
                    self._tending = loop.create_task(self._tend())
            except StoreError as error:
                self._store_answers = False
                if self._unrenewed.failed():
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
            if lasted := self._untended.over():
                log.warning("the store tells of the leases of others again, after %s", lasted)
        except StoreError as error:
            self._store_answers = False
            if self._untended.failed():
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
            if self._store_answers:  # else that is told already
                log.warning("how the services stand couldn't be told: %s", error)


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
