"""How a saga goes on, told to whoever follows it: change by change, until it is at rest.

A saga that is run in this process tells of each of its writes (`Watchers`). Of one that is run
elsewhere one learns as those do who wait for a result: by looks at its row, which all who ask at
the same time share (`Poller`). Only then is its journal read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from standfast.errors import CorruptRecord, SagaNotFound
from standfast.ports.journal import Instance, Loaded
from standfast.saga.polling import next_look, sight
from standfast.saga.status import AT_REST, Status
from standfast.saga.timeline import Entry
from standfast.saga.verdict import judge

if TYPE_CHECKING:
    from standfast.saga.sagas import Sagas

BETWEEN_READS = 0.05
"""Seconds between two reads of a journal, at least: what comes in between is told together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What came to the timeline of a saga since it was last looked at.

    `number` is how many facts it has now: who gives it as `after` the next time misses nothing, and
    is told nothing twice. `entries` are those that came, in order. They may be none: at first, or
    where the status alone has changed. `cause` tells why it failed or parked, "" otherwise.
    `at_rest`: it has ended, or waits for an operator, so nothing follows by itself.
    """

    id: UUID
    number: int
    status: Status
    entries: Sequence[Entry] = ()
    cause: str = ""
    at_rest: bool = False

    def as_json(self) -> dict[str, Any]:
        """The change as plain JSON values, with all that its entries tell: for operators.

        That includes inputs, results, errors and their tracebacks.
        """
        return {
            "id": str(self.id),
            "number": self.number,
            "status": self.status,
            "entries": [entry.as_json() for entry in self.entries],
            "cause": self.cause,
            "at_rest": self.at_rest,
        }


async def changes(
    sagas: Sagas, id: UUID, *, after: int, limit: float | None
) -> AsyncGenerator[Change, None]:
    """See `AppDoors.progress`."""
    sagas.host.check_open()
    loop = asyncio.get_running_loop()
    ends_at = None if limit is None else loop.time() + limit
    told: tuple[int, str, bool] | None = None
    with sagas.executor.watchers.follow(id) as news:
        while True:
            news.clear()
            loaded = await sagas.poller.whole(id)
            if loaded is None:
                raise sagas.unknown(id)
            read_at = loop.time()
            if after > len(loaded.facts):  # of another saga, or told before a restore
                after = 0
            found = _change(sagas, loaded, after)
            if (found.number, found.status, found.at_rest) != told:
                told = found.number, found.status, found.at_rest
                after = found.number
                yield found
            if found.at_rest or not await _moved(sagas, loaded.instance, news, ends_at):
                return
            await asyncio.sleep(read_at + BETWEEN_READS - loop.time())


def _change(sagas: Sagas, loaded: Loaded, after: int) -> Change:
    timeline = sagas.timeline_of(loaded, {})
    return Change(
        id=timeline.id,
        number=len(loaded.facts),
        status=timeline.status,
        entries=timeline.entries[after:],
        cause=loaded.instance.cause,
        at_rest=timeline.status in AT_REST and _stays(sagas, loaded),
    )


def _stays(sagas: Sagas, loaded: Loaded) -> bool:
    """Whether one that is at rest by its row stays so, as far as can be seen."""
    try:
        status = sagas.definitions.machine(loaded)[1].status
    except (SagaNotFound, CorruptRecord):
        status = None
    works_here = sagas.executor.desk is not None
    return judge(sight(loaded, status, works_here=works_here)) != "wait"


async def _moved(sagas: Sagas, known: Instance, news: asyncio.Event, ends_at: float | None) -> bool:
    """Wait until the instance differs from what is known of it; False if time was up before."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while True:
        now = loop.time()
        if ends_at is not None and now >= ends_at:
            return False
        looks_at = None
        if known.id not in sagas.executor.active:
            # Nobody sees more than a few changes in a second, so not as often as for a result.
            looks_at = next_look(now, now - begun + 4 * BETWEEN_READS, sagas.poll)
        if await _heard(news, _earlier(looks_at, ends_at)):
            return True
        if looks_at is not None and await sagas.poller.row(known.id) != known:
            return True


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((at for at in (one, other) if at is not None), default=None)


async def _heard(news: asyncio.Event, until: float | None) -> bool:
    try:
        async with asyncio.timeout_at(until):
            await news.wait()
    except TimeoutError:
        return False
    return True
