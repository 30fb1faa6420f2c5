"""How those who wait for sagas that run in other processes look at the store: together.

Nobody tells a process without a worker (a web server that only starts sagas, say) how they ended,
so it asks. All who ask at the same moment share one query, and a waiter asks often while it is
young: a saga that takes a few milliseconds is seen to end soon, one that takes hours costs little.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

from standfast.batching import Batcher
from standfast.clock import Clock
from standfast.coordination.outage import Outage
from standfast.errors import StoreUnavailable
from standfast.ports.journal import Filter, Instance, JournalStore, Loaded
from standfast.saga.status import FINISHED, Status
from standfast.saga.verdict import Sight

T = TypeVar("T")
log = logging.getLogger("standfast.saga")

AT_ONCE = 500
"""How many ids go into one query."""
SHORTEST = 0.01
"""Seconds between looks at first, at most."""
AGE_BETWEEN_LOOKS = 1 / 4
"""Of its age: how long a waiter leaves between its looks, at most."""


class Poller:
    """Reads instances for those who wait.

    `row` and `whole` answer None for an unknown id. While the store is away they ask again, for as
    long as `check_open` doesn't raise: who waits has all the time. All else that the store raises
    comes out, to each who shared the query. Giving up on one leaves the others alone. Nothing runs
    while nobody asks.
    """

    def __init__(self, store: JournalStore, clock: Clock, check_open: Callable[[], None]) -> None:
        self.away: str = ""
        """What the store said last, while it is away."""
        self._clock = clock
        self._check_open = check_open
        self._outage = Outage(clock)
        self._rows: _Shared[Instance] = _Shared(
            lambda ids: store.find(Filter(ids=tuple(ids)), limit=len(ids)), lambda row: row.id
        )
        self._wholes: _Shared[Loaded] = _Shared(
            lambda ids: store.load(ids), lambda loaded: loaded.instance.id
        )

    async def row(self, id: UUID) -> Instance | None:
        """The searchable row."""
        return await self._insist(self._rows.read, id)

    async def whole(self, id: UUID) -> Loaded | None:
        """The instance with its journal and mail. Not to be changed: others have it too."""
        return await self._insist(self._wholes.read, id)

    async def _insist(self, read: Callable[[UUID], Awaitable[T | None]], id: UUID) -> T | None:
        delay = 0.05
        while True:
            try:
                found = await read(id)
            except StoreUnavailable as error:
                if error.for_good:
                    raise
                self._check_open()
                self.away = f"{error}"
                if self._outage.failed():  # one speaks for all the others
                    log.warning("who waits for sagas waits for the database: %s", error)
                await self._clock.sleep(delay)
                delay = min(2.0, delay * 2)
            else:
                self.away = ""
                if lasted := self._outage.over():
                    log.warning("the database answers who waits for sagas again, after %s", lasted)
                return found


def next_look(now: float, age: float, longest: float) -> float:
    """When a waiter of that age looks again: a time on the monotonic clock of `now`.

    Between looks lie `longest` seconds, halved until they are a small part of the age. The times
    are the multiples of that on the clock, which are multiples of all shorter ones too: so the old
    look when the young do anyway, and share their query.
    """
    between = longest
    while between > SHORTEST and between > age * AGE_BETWEEN_LOOKS:
        between /= 2
    at = (now // between + 1) * between
    return at if at > now else at + between  # the quotient of floats may be rounded up to `now`


def sight(loaded: Loaded, status: Status | None, *, works_here: bool) -> Sight:
    """What is seen of a loaded instance; `status` is its journal's, None if that can't be read."""
    row = loaded.instance
    if status is None:
        return Sight(
            row.status in FINISHED, False, False, spoken_to=_is_spoken_to(loaded, by_fact=False)
        )
    by_fact = status == row.status
    return Sight(
        finished=row.status in FINISHED,
        readable=True,
        by_fact=by_fact,
        runnable_here=works_here and not by_fact and row.wake_at is not None,
        spoken_to=_is_spoken_to(loaded, by_fact=by_fact),
    )


def _is_spoken_to(loaded: Loaded, *, by_fact: bool) -> bool:
    """Whether a worker has it, or there is mail for it.

    One that was put aside is only tried again for mail that is newer.
    """
    row = loaded.instance
    if row.owner is not None:
        return True
    if row.wake_at is None:
        return False
    return any(by_fact or mail.at > row.updated_at for mail in loaded.mails)


class _Shared(Generic[T]):
    """Reads by id: one query for all who ask at the same time, or while the last one runs."""

    def __init__(
        self,
        find: Callable[[Sequence[UUID]], Awaitable[Iterable[T]]],
        id_of: Callable[[T], UUID],
    ) -> None:
        self._find = find
        self._id_of = id_of
        self._loop: asyncio.AbstractEventLoop | None = None
        self._batcher: Batcher[UUID, T | None]

    async def read(self, id: UUID) -> T | None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # an app may be opened again in another event loop
            self._loop, self._batcher = loop, Batcher(self._read, max_batch=AT_ONCE)
        return await self._batcher.submit(id)

    async def _read(self, ids: Sequence[UUID]) -> Sequence[T | None]:
        found = {self._id_of(one): one for one in await self._find(list(dict.fromkeys(ids)))}
        return [found.get(id) for id in ids]
