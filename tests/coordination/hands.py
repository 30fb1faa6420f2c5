"""A worker whose executor only notes what it is given, in virtual time or on a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from standfast.clock import Clock
from standfast.conformance.samples import mail, start
from standfast.coordination.executor import Desk, Orphaned
from standfast.coordination.worker import Worker
from standfast.ports.journal import Append, Instance, JournalStore, Loaded, Mail
from tests.coordination.world import Port, Process, Store

ONE, TWO, LIMITED = ("test", "one", 1), ("test", "two", 1), ("test", "limited", 1)


class Hands:
    """An `Executor` that holds what it is given until the test lets it rest.

    `breaks_at`: instances at which `take_in` raises, once each. `idle`: it lets all rest when it
    drains.
    """

    pattern = "test"
    orphaned = Orphaned(
        "parked", "no live worker has version {version} of test '{name}'", "Run one that does"
    )

    def __init__(
        self,
        journal: Any,
        kinds: Collection[tuple[str, str, int]] = (ONE, TWO),
        limits: Mapping[tuple[str, str, int], int] | None = None,
    ) -> None:
        self.kinds: dict[tuple[str, str, int], int | None] = dict.fromkeys(kinds)
        self.kinds.update(limits or {})
        self.fingerprints: dict[tuple[str, str, int], str] = {}
        self.journal = journal
        self.active: dict[UUID, Loaded] = {}
        self.beginning: set[UUID] = set()
        self.taken: list[UUID] = []
        self.mails: list[Mail] = []
        self.desks: list[tuple[Desk, int]] = []
        self.breaks_at: set[UUID] = set()
        self.idle = True
        self.log: list[str] = []
        self._resting: set[asyncio.Task[None]] = set()

    @property
    def desk(self) -> Desk:
        return self.desks[-1][0]

    @property
    def keys(self) -> list[str]:
        return sorted(loaded.instance.key for loaded in self.active.values())

    def log_fields(self, instance: Instance, holder: str) -> dict[str, Any]:
        return {"hands": instance.name, "by": holder}

    def begin(self, desk: Desk) -> None:
        self.log.append("begin")
        self.desks.append((desk, desk.owner))

    async def take_in(self, loaded: Loaded) -> None:
        id = loaded.instance.id
        if id in self.breaks_at:
            self.breaks_at.discard(id)
            raise ZeroDivisionError("it breaks")
        assert id not in self.active
        self.desk.slots.take(loaded.instance.name)
        self.active[id] = loaded
        self.taken.append(id)

    def deliver(self, mails: Sequence[Mail]) -> None:
        self.mails += mails

    def drain(self) -> None:
        self.log.append("drain")
        for id in list(self.active) if self.idle else ():
            task = asyncio.create_task(self.rest(id))
            self._resting.add(task)

    hindrance = ""

    async def cut_off(self) -> None:
        self.log.append(f"cut off {len(self.active)}")
        self.active.clear()

    async def end(self) -> None:
        self.log.append("end")

    async def rest(self, id: UUID, wake_at: float | None = None) -> None:
        """Let an instance leave memory, due again at `wake_at`, or when there is mail."""
        name = self.active[id].instance.name
        owner = self.desks[-1][1]
        (error,) = await self.journal.append(
            owner, [Append(id, 0, [], release=True, wake_at=wake_at)]
        )
        assert error is None
        del self.active[id]
        starved = self.desk.slots.give_back(name)
        self.desk.left(id, wake_at)
        if starved:
            self.desk.wake()


class Shop:
    """One process with a worker."""

    def __init__(
        self,
        store: Store,
        name: str = "a",
        *,
        max_in_flight: int = 100,
        poll: float = 60.0,
        lease: float = 4.0,
        kinds: Collection[tuple[str, str, int]] = (ONE, TWO),
        limits: Mapping[tuple[str, str, int], int] | None = None,
        others: Sequence[Any] = (),
    ) -> None:
        self.store = store
        self.journal = Port(store.database.port(JournalStore))
        self.hands = Hands(self.journal, kinds, limits)
        self.worker = a_worker(
            self.hands, self.journal, store.clock, max_in_flight=max_in_flight, poll=poll
        )
        self.process: Process = store.process(self.worker, *others, name=name, lease=lease)

    def running(self, drain: float = 10.0) -> Any:
        return self.process.running(drain)

    @property
    def token(self) -> int | None:
        return self.process.membership.token

    async def begin(self, key: str, *, kind: tuple[str, str, int] = ONE, after: float = 0) -> UUID:
        """A new instance, passive, due `after` so many seconds."""
        return await begin(self.journal.inner, key, self.store.clock.now() + after, kind)

    async def send(self, id: UUID, body: str = '{"ok":true}') -> None:
        """Mail to an instance."""
        await self.journal.inner.send([mail(id, body=body)])


def a_worker(
    hands: Hands, journal: Any, clock: Clock, *, max_in_flight: int = 100, poll: float = 60.0
) -> Worker:
    return Worker(
        "worker",
        hands,
        journal,
        clock=clock,
        exclusive=False,
        max_in_flight=max_in_flight,
        poll=poll,
        linger=1.0,
    )


async def begin(
    journal: JournalStore, key: str, wake_at: float | None, kind: tuple[str, str, int] = ONE
) -> UUID:
    (answer,) = await journal.start([start(key, kind=kind, wake_at=wake_at)], owner=None)
    assert answer.created
    return answer.id
