"""Processes in virtual time: their services, a store that may be away, and their leases.

An hour takes no time here, and what would hang fails, under the name of its test.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from standfast.backends.memory import MemoryDatabase
from standfast.coordination.membership import MEMBER, Membership
from standfast.coordination.service import Duty
from standfast.coordination.supervisor import Supervisor
from standfast.errors import StoreUnavailable
from standfast.ports.leases import Lease, LeaseStore
from standfast.testing.virtual import VirtualClock, VirtualLoop

LEASE = 4.0
BEAT = LEASE / 4
HANGS_AFTER = 3600.0

Turn: TypeAlias = Callable[[Duty], Awaitable[None]]


def virtually(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in virtual time; one that takes an hour of it fails with a `TimeoutError`."""

    @functools.wraps(test)
    def run(*args: Any, **options: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(HANGS_AFTER):
                await test(*args, **options)

        loop = VirtualLoop(max_turns=500_000)
        try:
            loop.run_until_complete(bounded())
        finally:
            loop.end()

    return run


def clock() -> VirtualClock:
    """The clock of the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return VirtualClock(loop)


class Port:
    """A port that counts the calls of its methods, and may be told to fail them.

    `away`: the names of those that raise `StoreUnavailable`, or ``"*"`` for all. `before` and
    `behind` are awaited before and after a call that is made, by name.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.away: set[str] = set()
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.behind: dict[str, Callable[[], Awaitable[None]]] = {}

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name.startswith("on_"):
            return call

        async def counted(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            if self.away & {name, "*"}:
                raise StoreUnavailable(f"no {name} now")
            if name in self.before:
                await self.before[name]()
            answer = await call(*args, **options)
            if name in self.behind:
                await self.behind[name]()
            return answer

        return counted


async def works(duty: Duty) -> None:
    """The turn of a service that does what it should."""
    duty.ready()
    await duty.stopping.wait()


async def fails(duty: Duty) -> None:
    """One that fails before it was up."""
    raise OSError("no")


async def runs_then_fails(duty: Duty) -> None:
    """One that fails a second after it was up."""
    duty.ready()
    await asyncio.sleep(1.0)
    raise OSError("no more")


async def returns(duty: Duty) -> None:
    """One that ends by itself."""
    duty.ready()


async def slow_to_stop(duty: Duty) -> None:
    """A turn that takes five seconds to finish what it has begun."""
    duty.ready()
    await duty.stopping.wait()
    await asyncio.sleep(5.0)


async def slow_to_start(duty: Duty) -> None:
    """One that takes five seconds to be up."""
    await asyncio.sleep(5.0)
    await works(duty)


def deaf(seconds: float) -> Turn:
    """One that takes so long to notice that it was cancelled, or that it should stop."""

    async def turn(duty: Duty) -> None:
        duty.ready()
        until = clock().monotonic() + 1e9
        while (left := until - clock().monotonic()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                until = min(until, clock().monotonic() + seconds)
        raise asyncio.CancelledError

    return turn


class Scripted:
    """A service that does `turns` one after the other, and the last one again and again.

    `diary` is shared by those of a test: when each begins, is up, is told to stop, and ends.
    """

    def __init__(
        self, name: str, *turns: Turn, exclusive: bool = False, diary: list[str] | None = None
    ) -> None:
        self.name = name
        self.exclusive = exclusive
        self.turns = turns or (works,)
        self.diary: list[str] = [] if diary is None else diary
        self.duties: list[Duty] = []
        self.began: list[float] = []

    async def run(self, duty: Duty) -> None:
        turn = self.turns[min(len(self.duties), len(self.turns) - 1)]
        self.duties.append(duty)
        self.began.append(clock().monotonic())
        self.diary.append(f"{self.name} begins")
        try:
            await turn(duty)
        except asyncio.CancelledError:
            self.diary.append(f"{self.name} cut")
            raise
        self.diary.append(f"{self.name} ends")


class Store:
    """A database in memory and the leases in it, as several processes see them."""

    def __init__(self) -> None:
        self.clock = clock()
        self.database = MemoryDatabase(clock=self.clock)
        self.leases: LeaseStore = self.database.port(LeaseStore)

    def membership(self, name: str = "a", *, lease: float = LEASE) -> tuple[Membership, Port]:
        port = Port(self.leases)
        leases: Any = port
        return Membership(leases, clock=self.clock, lease=lease, name=name), port

    def process(self, *services: Any, name: str = "a", lease: float = LEASE) -> Process:
        return Process(self, name, services, lease)

    async def held(self, prefix: str = "") -> dict[str, Lease]:
        """All leases by name; memberships by "member:" and who has them."""
        return {
            f"{MEMBER}{lease.holder}" if lease.name.startswith(MEMBER) else lease.name: lease
            for lease in await self.leases.leases(prefix)
        }

    async def note(self, holder: str = "a") -> dict[str, Any]:
        """What a process tells of itself."""
        note: dict[str, Any] = json.loads((await self.held(MEMBER))[f"{MEMBER}{holder}"].note)
        return note

    async def take_away(self, token: int | None) -> None:
        """End somebody's lease, as one who found that it had run out."""
        assert token is not None
        await self.leases.release([token])


class Process:
    """A supervisor, and its own way to the store."""

    def __init__(self, store: Store, name: str, services: Sequence[Any], lease: float) -> None:
        self.membership, self.port = store.membership(name, lease=lease)
        self.supervisor = Supervisor(self.membership, services, clock=store.clock, watched=False)

    @property
    def states(self) -> dict[str, str]:
        return {status.name: status.state for status in self.supervisor.services}

    @asynccontextmanager
    async def running(self, drain: float = 10.0) -> AsyncIterator[Supervisor]:
        await self.supervisor.start()
        try:
            yield self.supervisor
        finally:
            await self.supervisor.stop(drain)


def tasks_of(process: Process) -> set[asyncio.Task[None]]:
    """All that it has going on."""
    supervisor = process.supervisor
    turns = (post._turn for post in supervisor._posts)
    tasks = (*supervisor._tasks, *(post.task for post in supervisor._posts), *turns)
    return {task for task in tasks if task is not None} | {
        task for task in asyncio.all_tasks() if task.get_coro().__qualname__.startswith("Event.")
    }


async def until(condition: Callable[[], Any], within: float = 60.0) -> None:
    """Wait, in small steps of virtual time, until something is true."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.001)
