"""When those who wait look at the store, and what they share."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.clock import SYSTEM_CLOCK
from standfast.errors import ConfigurationError, StoreFull, StoreUnavailable
from standfast.ids import new_id
from standfast.ports.journal import Filter, Instance, Loaded
from standfast.saga.polling import AGE_BETWEEN_LOOKS, AT_ONCE, SHORTEST, Poller, next_look

ages = st.floats(0, 1e6)
clocks = st.floats(0, 1e7)


@given(clocks, ages, st.sampled_from([0.005, 0.05, 0.5, 3.0]))
def test_looks_are_close_at_first_and_rare_later(now, age, longest):
    between = next_look(now, age, longest) - now
    assert 0 < between <= longest + 1e-6
    assert between <= max(SHORTEST, age * AGE_BETWEEN_LOOKS) + 1e-6


@given(clocks, ages, ages)
def test_the_old_look_when_the_young_do(now, age, other):
    """Whoever is older looks at a time at which a younger one would look too."""
    young, old = sorted((age, other))
    at = next_look(now, old, 0.5)
    while (now := next_look(now, young, 0.5)) < at - 0.6:
        now = at - 0.6
    while now < at:
        now = next_look(now, young, 0.5)
    assert now == at


def test_one_that_waits_long_looks_ever_less_often():
    looks = [0.0]
    while looks[-1] < 60:
        looks.append(next_look(looks[-1], looks[-1], 0.5))
    between = [later - at for at, later in pairwise(looks)]
    assert len(looks) < 150
    assert max(between[:5]) <= SHORTEST
    assert between[-50:] == [0.5] * 50


class Store:
    """Knows some ids. It writes down the ids of each query, and answers when it may."""

    def __init__(self, *known: UUID) -> None:
        self.known = known
        self.queries: list[tuple[UUID, ...]] = []
        self.may = asyncio.Event()
        self.may.set()
        self.fails = False
        self.is_away = 0

    async def _answer(self, ids: Sequence[UUID]) -> list[UUID]:
        self.queries.append(tuple(ids))
        await self.may.wait()
        if self.fails:
            raise StoreFull("no room")
        if self.is_away:
            self.is_away -= 1
            raise StoreUnavailable("it is away")
        return [id for id in self.known if id in ids]

    async def find(self, filter: Filter, *, limit: int) -> list[Instance]:
        found = await self._answer(filter.ids)
        assert len(found) <= limit
        return [_instance(id) for id in found]

    async def load(self, ids: Sequence[UUID]) -> list[Loaded]:
        return [Loaded(_instance(id), []) for id in await self._answer(ids)]


def _instance(id: UUID) -> Instance:
    return Instance(
        *(id, "saga", "s", 1, "k", "", "", "running", "", ""), *(None, None, None, 0, 0, None)
    )


@pytest.fixture(params=["row", "whole"])
def read(request):
    """One of the two readers, of a `Poller` on a store."""

    def of(store: Any) -> Any:
        return getattr(Poller(store, SYSTEM_CLOCK, lambda: None), request.param)

    return of


def id_of(answer: Instance | Loaded) -> UUID:
    return answer.instance.id if isinstance(answer, Loaded) else answer.id


async def test_who_asks_at_the_same_time_shares_a_query(read):
    ids = [new_id() for _ in range(5)]
    store = Store(*ids)
    one = read(store)
    answers = await asyncio.gather(*(one(id) for id in [*ids, ids[0]]))
    assert [id_of(answer) for answer in answers] == [*ids, ids[0]]
    assert store.queries == [tuple(ids)]


async def test_who_asks_while_a_query_runs_shares_the_next(read):
    ids = [new_id() for _ in range(5)]
    store = Store(*ids)
    store.may.clear()
    one = read(store)
    tasks = []
    for id in ids:
        tasks.append(asyncio.create_task(one(id)))
        await asyncio.sleep(0.001)
    store.may.set()
    assert [id_of(answer) for answer in await asyncio.gather(*tasks)] == ids
    assert store.queries == [(ids[0],), tuple(ids[1:])]


async def test_very_many_are_asked_for_in_several_queries(read):
    ids = [new_id() for _ in range(AT_ONCE + 1)]
    store = Store(*ids)
    one = read(store)
    answers = await asyncio.gather(*(one(id) for id in ids))
    assert [id_of(answer) for answer in answers] == ids
    assert [len(query) for query in store.queries] == [AT_ONCE, 1]


async def test_an_unknown_id_harms_no_other(read):
    known, unknown = new_id(), new_id()
    one = read(Store(known))
    there, gone = await asyncio.gather(one(known), one(unknown))
    assert id_of(there) == known
    assert gone is None


async def test_one_who_gives_up_leaves_the_others_alone(read):
    ids = [new_id() for _ in range(3)]
    store = Store(*ids)
    store.may.clear()
    one = read(store)
    tasks = [asyncio.create_task(one(id)) for id in ids]
    await asyncio.sleep(0.001)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    store.may.set()
    assert id_of(await tasks[0]) == ids[0]
    assert id_of(await tasks[2]) == ids[2]
    assert tasks[1].cancelled()


async def test_an_error_reaches_each_who_shared_the_query(read):
    ids = [new_id() for _ in range(3)]
    store = Store(*ids)
    store.fails = True
    one = read(store)
    answers = await asyncio.gather(*(one(id) for id in ids), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreFull] * 3
    store.fails = False
    assert id_of(await one(ids[0])) == ids[0]


async def test_a_store_that_is_away_is_asked_again(read, caplog):
    id = new_id()
    store = Store(id)
    store.is_away = 2
    assert id_of(await read(store)(id)) == id
    assert len(store.queries) == 3
    told = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert told[0] == "who waits for sagas waits for the database"
    assert told[1].startswith("the database answers who waits for sagas again, after")
    assert len(told) == 2


async def test_once_a_store_answers_again_no_outage_is_told_to_who_gives_up_later():
    id = new_id()
    store = Store(id)
    store.is_away = 1
    poller = Poller(store, SYSTEM_CLOCK, lambda: None)
    asking = asyncio.create_task(poller.row(id))
    await asyncio.sleep(0.01)
    assert poller.away == "it is away"
    assert await asking
    assert poller.away == ""


async def test_but_not_one_that_is_closed():
    def closed():
        raise ConfigurationError("closed")

    store = Store()
    store.is_away = 1
    with pytest.raises(ConfigurationError, match="closed"):
        await Poller(store, SYSTEM_CLOCK, closed).row(new_id())


def test_it_goes_along_into_another_event_loop(read):
    id = new_id()
    store = Store(id)
    one = read(store)
    for _ in range(2):
        assert id_of(asyncio.run(one(id))) == id
