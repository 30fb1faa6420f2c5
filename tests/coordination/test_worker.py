"""A worker: what it claims and when, for how many it has places, and what it does not forget."""

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from standfast import Context, Saga, Standfast, step
from standfast.clock import SYSTEM_CLOCK
from standfast.conformance.samples import start
from standfast.coordination.looks import DOUBTED_FOR
from standfast.coordination.supervisor import Supervisor
from standfast.coordination.worker import (
    LONGEST_PAUSE,
    RECOVERY_PAUSE,
    UNCLAIMABLE_AFTER,
    WAITED_LONG,
)
from standfast.errors import StoreUnavailable
from standfast.ports.journal import Filter, Instance, JournalStore
from standfast.ports.leases import LeaseStore
from tests.coordination.disk import databases, members
from tests.coordination.hands import LIMITED, ONE, TWO, Hands, Shop, a_worker, begin
from tests.coordination.world import BEAT, LEASE, Store, clock, until, virtually

SOON = 0.01


async def row(shop: Shop, id) -> Instance:
    (found,) = await shop.journal.inner.find(Filter(pattern="test", ids=(id,)), limit=1)
    return found


# -- claiming ------------------------------------------------------------------------------------


@virtually
async def test_it_claims_what_is_due_when_it_begins():
    shop = Shop(Store())
    ids = [await shop.begin("a"), await shop.begin("b", kind=TWO)]
    later = await shop.begin("later", after=1000.0)
    unknown = await shop.begin("unknown", kind=("test", "three", 1))
    other = await shop.begin("other", kind=("test", "one", 2))
    async with shop.running():
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["a", "b"]
        assert [(await row(shop, id)).owner for id in ids] == [shop.token] * 2
        for id in (later, unknown, other):
            assert (await row(shop, id)).owner is None
        note = await shop.store.note()
        assert note["kinds"] == [[*ONE], [*TWO]]
        assert note["slots"] == {"test": {"total": 100, "own": {}}}
        assert shop.process.supervisor.hindrances == {}
        shop.hands.hindrance = "no thread is left"
        assert shop.process.supervisor.hindrances == {"worker": "no thread is left"}
    assert shop.hands.log == ["begin", "drain", "cut off 0", "end"]


@virtually
async def test_it_claims_at_once_what_is_hinted_at():
    shop = Shop(Store())
    async with shop.running():
        await asyncio.sleep(5.0)
        begun = clock().monotonic()
        await shop.begin("a")
        await until(lambda: shop.hands.keys == ["a"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_it_claims_at_the_moment_when_something_is_due():
    """By its own timer, not with the next poll: of what was there, of what came, of what left."""
    shop = Shop(Store())
    await shop.begin("first", after=7.5)
    async with shop.running():
        await until(lambda: shop.hands.keys == ["first"])
        assert clock().monotonic() == pytest.approx(7.5, abs=SOON)
        await shop.begin("second", after=2.5)
        await until(lambda: shop.hands.keys == ["first", "second"])
        assert clock().monotonic() == pytest.approx(10.0, abs=SOON)
        (id, _) = shop.hands.active
        await shop.hands.rest(id, shop.store.clock.now() + 3.0)
        assert shop.hands.keys == ["second"]
        await until(lambda: shop.hands.keys == ["first", "second"])
        assert clock().monotonic() == pytest.approx(13.0, abs=SOON)


@virtually
async def test_what_nobody_hints_at_is_found_with_the_next_poll():
    store = Store()
    shop = Shop(store, poll=5.0)
    shop.journal.inner = _Deaf(shop.journal.inner)
    async with shop.running():
        await asyncio.sleep(1.0)
        await shop.begin("a")
        await until(lambda: shop.hands.keys == ["a"])
        assert clock().monotonic() == pytest.approx(5.0, abs=0.1)


class _Deaf:
    """A journal by which one isn't told of what is due."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def on_due(self, callback):
        self.told = callback
        return lambda: None


@virtually
async def test_more_than_a_batch_is_claimed_in_one_go():
    shop = Shop(Store(), max_in_flight=10_000)
    starts = [start(kind=ONE, wake_at=0.0) for _ in range(1234)]
    await shop.journal.inner.start(starts, owner=None)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert len(shop.hands.active) == 1234
        assert shop.journal.calls["claim"] == 3, "of 500 at most"


@virtually
async def test_two_workers_share_the_work():
    store = Store()
    shops = [Shop(store, name, max_in_flight=5) for name in "ab"]
    for number in range(10):
        await shops[0].begin(f"{number}")
    async with shops[0].running(), shops[1].running():
        await asyncio.sleep(SOON)
        assert [len(shop.hands.active) for shop in shops] == [5, 5]
        keys = shops[0].hands.keys + shops[1].hands.keys
        assert sorted(keys) == [f"{number}" for number in range(10)]


# -- places --------------------------------------------------------------------------------------


@virtually
async def test_no_more_than_it_has_places_for():
    shop = Shop(Store(), max_in_flight=3)
    for number in range(5):
        await shop.begin(f"{number}", after=number - 10.0)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["0", "1", "2"], "the longest due first"
        assert (shop.worker.slots.taken, shop.worker.slots.starved) == (3, True)
        await asyncio.sleep(1000.0)
        assert len(shop.hands.active) == 3


@virtually
async def test_of_a_name_no_more_than_its_own_limit_allows():
    shop = Shop(Store(), limits={LIMITED: 2})
    for number in range(4):
        await shop.begin(f"limited {number}", kind=LIMITED)
        await shop.begin(f"one {number}", kind=ONE)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert len(shop.hands.active) == 6
        assert shop.worker.slots.by_name == {"one": 4, "limited": 2}


@virtually
async def test_the_limit_is_of_the_name_over_all_its_versions():
    second = ("test", "limited", 2)
    shop = Shop(Store(), limits={LIMITED: 2, second: 2})
    for number in range(4):
        for kind in (LIMITED, second):
            await shop.begin(f"{kind} {number}", kind=kind)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert shop.worker.slots.by_name["limited"] == 2


@virtually
async def test_the_next_is_claimed_as_soon_as_one_leaves():
    """It starves for the place, so it needn't wait for the poll."""
    shop = Shop(Store(), max_in_flight=2, limits={LIMITED: 1})
    shop.journal.inner = _Deaf(shop.journal.inner)
    for number in range(3):
        await shop.begin(f"{number}", after=number - 10.0)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["0", "1"]
        begun = clock().monotonic()
        await shop.hands.rest(next(iter(shop.hands.active)))
        await until(lambda: shop.hands.keys == ["1", "2"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_one_that_waited_for_a_place_of_its_name_is_claimed_as_soon_as_there_is_one():
    shop = Shop(Store(), limits={LIMITED: 1})
    for number in range(2):
        await shop.begin(f"{number}", kind=LIMITED, after=number - 10.0)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["0"]
        await asyncio.sleep(20.0)
        begun = clock().monotonic()
        await shop.hands.rest(next(iter(shop.hands.active)))
        await until(lambda: shop.hands.keys == ["1"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_what_became_due_while_its_name_had_no_place_is_claimed_as_soon_as_there_is_one():
    """The place was taken by a start here, so no claim has found that there was none."""
    shop = Shop(Store(), limits={LIMITED: 1})
    await shop.begin("due", kind=LIMITED, after=90.0)
    async with shop.running():
        await asyncio.sleep(10.0)
        slots = shop.worker.slots
        assert slots.take_if_free("limited", 1)
        await asyncio.sleep(85.0)
        assert not shop.hands.keys
        assert slots.give_back("limited"), "somebody waits for it"
        shop.hands.desk.wake()
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["due"]


@virtually
async def test_who_leaves_a_worker_that_has_room_makes_it_ask_nothing():
    shop = Shop(Store())
    for number in range(10):
        await shop.begin(f"{number}")
    async with shop.running():
        await asyncio.sleep(10.0)
        shop.journal.calls.clear()
        for id in list(shop.hands.active):
            await shop.hands.rest(id)
        await asyncio.sleep(1.0)
        assert shop.journal.calls == {"append": 10}


@virtually
async def test_no_kind_finds_the_worker_always_filled_by_the_others():
    shop = Shop(Store(), max_in_flight=2, limits={LIMITED: 2})
    for number in range(50):
        await shop.begin(f"one {number}", kind=ONE, after=-1000.0)
        await shop.begin(f"limited {number}", kind=LIMITED)
    async with shop.running():
        for _ in range(20):
            await asyncio.sleep(SOON)
            for id in list(shop.hands.active):
                await shop.hands.rest(id)
        await asyncio.sleep(SOON)
        names = [(await row(shop, id)).name for id in shop.hands.taken]
        assert names.count("one") >= 10
        assert names.count("limited") >= 10


# -- what the dead leave -------------------------------------------------------------------------


@virtually
async def test_what_a_dead_process_had_is_taken_over_within_a_lease():
    store = Store()
    (dead,) = await store.leases.acquire(["member:dead"], "dead", ttl=LEASE - BEAT)
    shop = Shop(store)
    await shop.journal.inner.start(
        [start(f"{number}", kind=ONE) for number in range(700)], owner=dead
    )
    async with shop.running():
        await asyncio.sleep(SOON)
        assert not shop.hands.active
        shop.journal.calls.clear()
        await until(lambda: len(shop.hands.active) == 100, within=LEASE)
        assert clock().monotonic() <= LEASE
        assert shop.journal.calls["reclaim"] == 1
        while len(set(shop.hands.taken)) < 700:
            for id in list(shop.hands.active):
                await shop.hands.rest(id)
            await asyncio.sleep(SOON)
        assert sorted(shop.hands.taken) == sorted(set(shop.hands.taken))


@virtually
async def test_what_a_process_that_leaves_had_is_taken_over_at_once():
    """Also what it couldn't give back itself."""
    store = Store()
    (left,) = await store.leases.acquire(["member:left"], "left", ttl=600.0)
    shop = Shop(store)
    await shop.journal.inner.start([start("a", kind=ONE)], owner=left)
    async with shop.running():
        await asyncio.sleep(10.0)
        begun = clock().monotonic()
        await store.leases.release([left])
        await until(lambda: shop.hands.keys == ["a"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_what_its_own_process_has_ended_is_taken_over_without_a_hint_of_the_store():
    store = Store()
    (dead,) = await store.leases.acquire(["member:dead"], "dead", ttl=10.0)
    shop = Shop(store, lease=600.0)
    await shop.journal.inner.start([start("a", kind=ONE)], owner=dead)
    async with shop.running():
        await asyncio.sleep(11.0)
        store.database.state(type(store.leases._state)).freed.clear()  # type: ignore[attr-defined]
        await shop.process.membership.tend()
        await until(lambda: shop.hands.keys == ["a"], within=SOON)


@virtually
async def test_who_has_stopped_hears_of_nothing_more():
    shop = Shop(Store())
    heard = Counter()

    def counted(name: str, subscribe):
        def on(act):
            heard[name] += 1
            unsubscribe = subscribe(act)

            def end():
                heard[name] -= 1
                unsubscribe()

            return end

        return on

    journal, port, membership = shop.journal, shop.process.port, shop.process.membership
    journal.on_due = counted("due", journal.inner.on_due)
    port.on_freed = counted("freed", port.inner.on_freed)
    membership.on_takeover = counted("takeover", membership.on_takeover)  # type: ignore[method-assign]
    async with shop.running():
        await asyncio.sleep(SOON)
        assert heard == {"due": 1, "freed": 2, "takeover": 1}, "the supervisor waits for leases too"
    assert not +heard


@virtually
async def test_a_takeover_that_the_store_was_away_for_is_made_up_for(caplog):
    store = Store()
    (left,) = await store.leases.acquire(["member:left"], "left", ttl=600.0)
    shop = Shop(store, poll=2.0, lease=600.0)
    await shop.journal.inner.start([start("a", kind=ONE)], owner=left)
    async with shop.running():
        await asyncio.sleep(1.0)
        shop.journal.away.add("reclaim")
        await store.leases.release([left])
        await asyncio.sleep(10.0)
        assert not shop.hands.active
        assert any("can't reach the store for work" in r.getMessage() for r in caplog.records)
        shop.journal.away.clear()
        await until(lambda: shop.hands.keys == ["a"], within=2.1)


@virtually
async def test_what_was_left_unnoticed_is_looked_for_now_and_then():
    """Neither a hint nor a lease that it ended itself told of it."""
    store = Store()
    (left,) = await store.leases.acquire(["member:left"], "left", ttl=600.0)
    shop = Shop(store, poll=5.0)
    await shop.journal.inner.start([start("a", kind=ONE)], owner=left)
    async with shop.running():
        await asyncio.sleep(1.0)
        store.database.state(type(store.leases._state)).freed.clear()  # type: ignore[attr-defined]
        await store.leases.release([left])
        await until(lambda: shop.hands.keys == ["a"], within=10.1)


# -- what isn't known ----------------------------------------------------------------------------


@virtually
async def test_a_start_without_an_answer_is_looked_for_and_run():
    """It may have been written under this worker's lease, and then nobody else can run it."""
    shop = Shop(Store())
    async with shop.running():
        await asyncio.sleep(1.0)
        await shop.journal.inner.start([start("a", kind=ONE)], owner=shop.token)
        begun = clock().monotonic()
        shop.hands.desk.doubt()
        await until(lambda: shop.hands.keys == ["a"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_one_that_is_written_late_is_found_too_and_one_that_never_is_is_given_up():
    shop = Shop(Store(), poll=2.0)
    async with shop.running():
        await asyncio.sleep(1.0)
        shop.hands.desk.doubt()
        await asyncio.sleep(DOUBTED_FOR - 5.0)
        await shop.journal.inner.start([start("late", kind=ONE)], owner=shop.token)
        await until(lambda: shop.hands.keys == ["late"], within=2.1)
        await asyncio.sleep(10.0)
        shop.journal.calls.clear()
        await asyncio.sleep(100.0)
        assert shop.journal.calls["owned_by"] == 0


@virtually
async def test_a_doubt_outlives_a_store_that_is_away_for_longer():
    """What is owned is looked for until that look was made, however long it takes."""
    shop = Shop(Store(), poll=2.0, lease=6000.0)
    async with shop.running():
        await asyncio.sleep(1.0)
        await shop.journal.inner.start([start("a", kind=ONE)], owner=shop.token)
        shop.journal.away.add("*")
        shop.hands.desk.doubt()
        await asyncio.sleep(10 * DOUBTED_FOR)
        assert not shop.hands.active
        shop.journal.away.clear()
        await until(lambda: shop.hands.keys == ["a"], within=2.1)


@virtually
@pytest.mark.parametrize("fails", ["load", "owned_by"])
async def test_what_a_claim_without_an_answer_got_is_found_though_looks_fail(fails):
    """The worker is alive, so nobody else will ever take it."""
    shop = Shop(Store(), poll=2.0)
    ids = [await shop.begin(f"{number}") for number in range(3)]
    lost = 1

    async def lose() -> None:
        nonlocal lost
        if lost:
            lost -= 1
            raise StoreUnavailable("carried out, but its answer was lost")

    shop.journal.behind["claim"] = lose
    shop.journal.away.add(fails)
    async with shop.running():
        await asyncio.sleep(2 * DOUBTED_FOR)
        assert not shop.hands.active
        assert await shop.journal.inner.owned() == {shop.token: 3}
        shop.journal.away.clear()
        await until(lambda: len(shop.hands.active) == 3, within=2.1)
        assert sorted(shop.hands.taken) == sorted(ids)


@virtually
async def test_what_is_just_beginning_here_isnt_taken_in():
    """Its start is written, and its answer on the way: it will be run without being taken in."""
    shop = Shop(Store(), poll=2.0)
    async with shop.running():
        await asyncio.sleep(1.0)
        one = start("a", kind=ONE)
        shop.hands.beginning.add(one.instance.id)
        await shop.journal.inner.start([one], owner=shop.token)
        shop.hands.desk.doubt()
        await asyncio.sleep(10.0)
        assert shop.journal.calls["owned_by"] >= 4
        assert not shop.hands.taken
        shop.hands.beginning.clear()
        await until(lambda: shop.hands.keys == ["a"], within=2.1)


@virtually
async def test_one_in_doubt_that_belongs_to_another_is_left_alone():
    store = Store()
    (other,) = await store.leases.acquire(["member:other"], "other", ttl=600.0)
    shop = Shop(store)
    async with shop.running():
        await shop.journal.inner.start([start("a", kind=ONE)], owner=other)
        shop.hands.desk.doubt()
        await asyncio.sleep(100.0)
        assert not shop.hands.active


@virtually
async def test_one_in_doubt_that_another_gets_meanwhile_is_left_alone():
    """It was ours when it was looked for, and isn't when it is loaded."""
    store = Store()
    (other,) = await store.leases.acquire(["member:other"], "other", ttl=600.0)
    shop = Shop(store, poll=2.0)
    async with shop.running():
        await asyncio.sleep(1.0)
        await shop.journal.inner.start([start("a", kind=ONE)], owner=shop.token)

        async def hand_over() -> None:
            await shop.journal.inner.release(shop.token)
            await shop.journal.inner.claim(other, [ONE], now=store.clock.now(), limit=10)

        shop.journal.behind["owned_by"] = hand_over
        shop.hands.desk.doubt()
        await asyncio.sleep(100.0)
        assert shop.journal.calls["load"] == 1
        assert not shop.hands.taken


@virtually
async def test_one_in_doubt_that_was_taken_in_meanwhile_isnt_taken_in_twice():
    shop = Shop(Store())
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        shop.hands.desk.doubt()
        await asyncio.sleep(100.0)
        assert shop.hands.taken == [id]


@virtually
async def test_what_cant_be_taken_in_costs_the_others_nothing(caplog):
    """One of those that were claimed together breaks: the others, and later itself, are run."""
    shop = Shop(Store(), poll=2.0)
    ids = [await shop.begin(f"{number}", after=number - 10.0) for number in range(5)]
    shop.hands.breaks_at = {ids[1], ids[3]}
    async with shop.running():
        await asyncio.sleep(1.0)
        assert shop.hands.keys == ["0", "2", "4"], "not at once: it would break again, and again"
        await asyncio.sleep(9.0)
        assert shop.hands.keys == ["0", "1", "2", "3", "4"]
        assert len(shop.hands.taken) == 5
        assert [bool(r.exc_info) for r in caplog.records] == [True, True]


@virtually
async def test_after_a_failed_look_it_looks_at_everything():
    shop = Shop(Store(), poll=2.0)
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await asyncio.sleep(1.0)
        shop.journal.away.add("collect")
        await shop.send(id)
        await asyncio.sleep(5.0)
        assert not shop.hands.mails
        shop.journal.away.clear()
        await until(lambda: shop.hands.mails, within=2.1)


@virtually
async def test_whether_the_lease_stands_is_asked_of_the_store():
    shop = Shop(Store(), lease=600.0)
    async with shop.running():
        assert await shop.hands.desk.still_ours()
        shop.process.port.away.add("renew")
        with pytest.raises(StoreUnavailable):
            await shop.hands.desk.still_ours()
        shop.process.port.away.clear()
        await shop.store.take_away(shop.token)
        assert not await shop.hands.desk.still_ours()
        await until(lambda: len(shop.hands.desks) == 2, within=200.0)
        assert await shop.hands.desk.still_ours()


# -- mail ----------------------------------------------------------------------------------------


@virtually
async def test_mail_for_one_in_memory_is_fetched_at_once():
    shop = Shop(Store())
    ids = [await shop.begin(f"{number}") for number in range(3)]
    async with shop.running():
        await until(lambda: len(shop.hands.active) == 3)
        await asyncio.sleep(1.0)
        shop.journal.calls.clear()
        begun = clock().monotonic()
        await shop.send(ids[1])
        await until(lambda: shop.hands.mails)
        assert clock().monotonic() - begun < SOON
        assert {mail.to for mail in shop.hands.mails} == {ids[1]}
        assert shop.journal.calls["collect"] == 1


@asynccontextmanager
async def missed_mail() -> AsyncIterator[tuple[Shop, _Deaf, UUID]]:
    """A shop at work, its deaf store, and an instance with mail that no hint told of."""
    shop = Shop(Store())
    deaf = shop.journal.inner = _Deaf(shop.journal.inner)
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await shop.send(id)
        await asyncio.sleep(1.0)
        assert not shop.hands.mails
        yield shop, deaf, id


@virtually
async def test_a_hint_of_this_process_is_as_good():
    """Where the store tells only of what others do."""
    async with missed_mail() as (shop, _, id):
        shop.hands.desk.hint(id)
        await asyncio.sleep(SOON)
        assert shop.hands.mails
        other = await shop.begin("b")
        shop.hands.desk.hint(other)
        await asyncio.sleep(SOON)
        assert shop.hands.keys == ["a", "b"]


@virtually
async def test_when_hints_may_have_been_missed_all_mail_is_fetched_at_once():
    """The connection by which they come was lost, and is there again."""
    async with missed_mail() as (shop, deaf, _):
        deaf.told(None)
        await asyncio.sleep(SOON)
        assert shop.hands.mails


@virtually
async def test_mail_that_nobody_hints_at_is_fetched_with_the_next_poll():
    shop = Shop(Store(), poll=5.0)
    shop.journal.inner = _Deaf(shop.journal.inner)
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await shop.send(id)
        await until(lambda: shop.hands.mails, within=5.1)


@virtually
async def test_mail_for_one_that_has_just_left_makes_it_come_back_at_once():
    """It leaves between the hint and the look for its mail."""
    shop = Shop(Store())
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await asyncio.sleep(1.0)

        async def leave() -> None:
            shop.journal.before.clear()
            await shop.hands.rest(id)
            assert not shop.hands.active

        shop.journal.before["collect"] = leave
        begun = clock().monotonic()
        await shop.send(id)
        await until(lambda: not shop.journal.before)
        await until(lambda: shop.hands.active)
        assert clock().monotonic() - begun < SOON
        (loaded,) = shop.hands.active.values()
        assert len(loaded.mails) == 1
        assert shop.hands.taken == [id, id]


@virtually
async def test_mail_that_comes_while_it_leaves_makes_it_come_back_at_once():
    """The hint comes when it is gone already."""
    shop = Shop(Store())
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await asyncio.sleep(1.0)
        resting = asyncio.create_task(shop.hands.rest(id))
        sending = asyncio.create_task(shop.send(id))
        begun = clock().monotonic()
        await asyncio.gather(resting, sending)
        await until(lambda: shop.hands.active)
        assert clock().monotonic() - begun < SOON


# -- what nobody can run -------------------------------------------------------------------------


@virtually
async def test_what_no_live_worker_has_is_flagged_and_told(caplog):
    """Only when it is overdue, only once, and it stays due for one that has it."""
    store = Store()
    shop = Shop(store, poll=2.0, kinds=(ONE,))
    stuck = await shop.begin("stuck", kind=TWO)
    known = await shop.begin("known", after=1e6)
    async with shop.running():
        await asyncio.sleep(UNCLAIMABLE_AFTER - 0.1)
        assert (await row(shop, stuck)).status == "running"
        await asyncio.sleep(100.0)
        found = await row(shop, stuck)
        assert (found.status, found.owner) == ("parked", None)
        assert found.cause == "no live worker has version 1 of test 'two'"
        assert (await row(shop, known)).status == "running"
        records = [r for r in caplog.records if r.levelno >= logging.ERROR]
        (record,) = (r for r in records if f"test {stuck} is parked" in r.getMessage())
        assert (record.hands, record.by) == ("two", shop.worker.holder), "the executor's own fields"
        other = Shop(store, "other", kinds=(TWO,))
        async with other.running():
            await until(lambda: other.hands.keys == ["stuck"], within=SOON)


@virtually
async def test_what_has_long_been_due_without_a_slot_is_told_once_a_minute(caplog):
    shop = Shop(Store(), max_in_flight=2, poll=2.0, limits={LIMITED: 1})
    for number in range(3):
        await shop.begin(f"{number}", kind=LIMITED)
    async with shop.running():
        await asyncio.sleep(WAITED_LONG - 1.0)
        assert not waiting(caplog)
        await asyncio.sleep(200.0)
        lines = waiting(caplog)
        assert 3 <= len(lines) <= 4
        assert lines[0].startswith("test 'limited' has been due for ")
        assert "1 of max_in_flight=1 are taken (the limit of 'limited')" in lines[0]
        await shop.begin("one")
        await asyncio.sleep(1.0)
        caplog.clear()
        await asyncio.sleep(130.0)
        assert all("2 of max_in_flight=2 are taken." in line for line in waiting(caplog))
        assert waiting(caplog)


@virtually
async def test_what_has_a_slot_or_waits_for_a_time_isnt_told_to_wait_for_one(caplog):
    shop = Shop(Store(), max_in_flight=2, poll=2.0)
    await shop.begin("one", after=-1000.0)
    await shop.begin("two")
    await shop.begin("later", after=1000.0)
    async with shop.running():
        await asyncio.sleep(900.0)
    assert not waiting(caplog)


def waiting(caplog) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if "waits for a slot" in line]


@virtually
async def test_what_another_live_worker_has_isnt_flagged():
    store = Store()
    shop, other = Shop(store, poll=2.0, kinds=(ONE,)), Shop(store, "other", kinds=(TWO,))
    async with other.running():
        await asyncio.sleep(SOON)
        other.journal.away.add("*")  # it lives, but doesn't get to it
        waits = await shop.begin("waits", kind=TWO)
        async with shop.running():
            await asyncio.sleep(100.0)
            assert (await row(shop, waits)).status == "running"
        other.journal.away.clear()


# -- the end of a turn ---------------------------------------------------------------------------


@virtually
async def test_what_doesnt_come_to_rest_is_cut_off_and_due_at_once():
    shop = Shop(Store())
    shop.hands.idle = False
    ids = [await shop.begin(f"{number}") for number in range(3)]
    await shop.process.supervisor.start()
    await until(lambda: len(shop.hands.active) == 3)
    first = shop.token
    begun = clock().monotonic()
    stopping = asyncio.create_task(shop.process.supervisor.stop(5.0))
    await asyncio.sleep(1.0)
    await shop.hands.rest(ids[0])
    await stopping
    assert clock().monotonic() - begun == pytest.approx(5.0, abs=SOON)
    assert shop.hands.log == ["begin", "drain", "cut off 2", "end"]
    rows = [await row(shop, id) for id in ids]
    assert [one.owner for one in rows] == [None] * 3
    assert [one.wake_at is not None for one in rows] == [False, True, True]
    assert first not in await shop.journal.inner.owned()


@virtually
async def test_it_ends_as_soon_as_the_last_one_rests():
    shop = Shop(Store())
    shop.hands.idle = False
    id = await shop.begin("a")
    await shop.process.supervisor.start()
    await until(lambda: shop.hands.active)
    stopping = asyncio.create_task(shop.process.supervisor.stop(60.0))
    await asyncio.sleep(7.0)
    begun = clock().monotonic()
    await shop.hands.rest(id)
    await stopping
    assert clock().monotonic() - begun < SOON


@virtually
async def test_nothing_is_claimed_while_it_drains_or_afterwards():
    shop = Shop(Store())
    shop.hands.idle = False
    await shop.begin("a")
    await shop.process.supervisor.start()
    await until(lambda: shop.hands.active)
    stopping = asyncio.create_task(shop.process.supervisor.stop(5.0))
    await asyncio.sleep(1.0)
    shop.journal.calls.clear()
    await shop.begin("b")
    await asyncio.sleep(1.0)
    assert not shop.journal.calls
    await stopping
    await shop.begin("c")
    await asyncio.sleep(100.0)
    assert shop.journal.calls == {"release": 1}
    assert shop.hands.keys == []


@virtually
async def test_what_cant_be_given_back_is_told_and_left_to_the_lease(caplog):
    shop = Shop(Store())
    shop.hands.idle = False
    await shop.begin("a")
    await shop.process.supervisor.start()
    await until(lambda: shop.hands.active)
    shop.journal.away.add("release")
    await shop.process.supervisor.stop(1.0)
    assert any("couldn't be given back" in r.getMessage() for r in caplog.records)
    other = Shop(shop.store, "other")
    async with other.running():
        await asyncio.sleep(SOON)
        assert other.hands.keys == ["a"], "its lease was given up, so that this is reclaimed"


@virtually
async def test_a_store_that_is_slow_to_take_back_what_was_in_hand_is_waited_for_a_while(caplog):
    for takes, is_free in ((1.5, True), (600.0, False)):
        shop = Shop(Store())
        shop.hands.idle = False
        id = await shop.begin("a")
        await shop.process.supervisor.start()
        await until(lambda shop=shop: shop.hands.active)
        shop.journal.before["release"] = functools.partial(asyncio.sleep, takes)
        begun = clock().monotonic()
        await shop.process.supervisor.stop(0.0)
        assert ((await row(shop, id)).owner is None) == is_free
        assert clock().monotonic() - begun < 2.0
    assert not any("doesn't heed" in record.getMessage() for record in caplog.records)


@virtually
async def test_what_a_turn_couldnt_give_back_is_taken_in_by_the_next():
    """Under the same token: nobody else can claim it as long as that holds."""
    shop = Shop(Store())
    await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.keys == ["a"])
        shop.journal.away.add("release")
        turn = shop.process.supervisor._posts[0]._turn
        assert turn is not None
        turn.cancel()
        await until(lambda: shop.hands.log.count("begin") == 2)
        assert shop.hands.desks[0][1] == shop.hands.desks[1][1] == shop.token
        await until(lambda: shop.hands.keys == ["a"], within=1.0)
        shop.journal.away.clear()


@virtually
async def test_when_the_lease_is_lost_all_is_dropped_without_a_write_and_claimed_anew():
    store = Store()
    shop = Shop(store, max_in_flight=3)
    ids = [await shop.begin(f"{number}") for number in range(3)]
    async with shop.running():
        await until(lambda: len(shop.hands.active) == 3)
        await asyncio.sleep(SOON)
        first = shop.token
        shop.journal.calls.clear()
        for _ in range(3):
            token = shop.token
            await store.take_away(token)
            await until(lambda token=token: shop.token not in (None, token))
            # From the second time on it may be what they died of, and waits for a while.
            await until(lambda: len(shop.hands.active) == 3, within=2 * RECOVERY_PAUSE + SOON)
        assert shop.token != first
        assert {(await row(shop, id)).owner for id in ids} == {shop.token}
        assert shop.worker.slots.taken == 3
        assert shop.hands.desks[-1][1] == shop.worker.owner == shop.token
        assert shop.hands.log == ["begin", *["cut off 3", "begin"] * 3]
        looks = {"claim", "next_wake", "reclaim", "collect", "flag_unclaimable"}
        assert not shop.journal.calls.keys() - looks
        await shop.hands.rest(ids[0])
        await shop.begin("new")
        await until(lambda: "new" in shop.hands.keys, within=SOON)


class Held(Saga[str]):
    @step(timeout=None, no_compensation="nothing to undo")
    async def hold(self, word: str, ctx: Context) -> None:
        await asyncio.Event().wait()


@virtually
async def test_a_claim_that_is_refused_is_told_and_shows_that_the_lease_was_lost(caplog):
    """At once, and not with the next beat."""
    store = Store()
    shop = Shop(store, lease=600.0)
    async with shop.running():
        await asyncio.sleep(SOON)
        first = shop.token
        await store.take_away(first)
        await shop.begin("a")
        await until(lambda: shop.token not in (None, first), within=1.0)
        await until(lambda: shop.hands.keys == ["a"], within=1.0)
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [one for one in told if one.startswith("nothing can be claimed: ")] == [
        f"nothing can be claimed: the lease {first} was ended: acquire it again for a new token"
    ]


@pytest.mark.timeout(30)
async def test_places_are_free_again_after_the_lease_was_lost():
    """With sagas: those in memory, and one whose start was under way."""
    app = Standfast("memory://").add(Held())
    async with app.running(lease=0.4, poll=0.1, drain=0, max_in_flight=3) as supervisor:
        ids = {(await app.start(Held, word)).id for word in "ab"}
        executor, journal = app.sagas.executor, app.sagas.store
        write, token = journal.start, supervisor.membership.token
        assert token is not None

        async def late(starts, *, owner):
            if owner == token:
                await app.database.port(LeaseStore).release([token])
                while not executor.desk or executor.desk.owner == token:
                    await asyncio.sleep(0.01)
            return await write(starts, owner=owner)

        journal.start = late  # type: ignore[method-assign]
        ids.add((await app.start(Held, "c")).id)
        async with asyncio.timeout(5):
            while set(executor.active) != ids:
                await asyncio.sleep(0.01)
        assert executor.desk is not None
        assert (executor.desk.slots.taken, executor.desk.slots.by_name["held"]) == (3, 3)


@virtually
async def test_what_an_idle_worker_asks_of_its_store():
    shop = Shop(Store(), poll=2.0, lease=10.0)
    await shop.begin("far away", after=1e6)
    async with shop.running():
        await asyncio.sleep(25.0)
        shop.journal.calls.clear()
        await asyncio.sleep(1000.0)
        calls = shop.journal.calls
        assert calls["next_wake"] == pytest.approx(500, abs=2)
        assert calls["flag_unclaimable"] == calls["reclaim"] == pytest.approx(1000 / 12, abs=2)
        assert calls.keys() == {"next_wake", "flag_unclaimable", "reclaim"}


# -- on a disk -----------------------------------------------------------------------------------


@pytest.mark.timeout(60)
async def test_two_processes_on_sqlite(tmp_path):
    """In real time: the other's start is hinted at, and what a dead one had is taken over."""
    async with databases(tmp_path, 2) as found:
        first, second = members(found, 1.0)
        journals = [database.port(JournalStore) for database in found]
        hands = Hands(journals[0])
        worker = a_worker(hands, journals[0], SYSTEM_CLOCK)
        supervisor = Supervisor(first, [worker], clock=SYSTEM_CLOCK, watched=False)
        await supervisor.start()
        try:
            await begin(journals[1], "a", SYSTEM_CLOCK.now())
            async with asyncio.timeout(10):
                while hands.keys != ["a"]:
                    await asyncio.sleep(0.01)
            dead = await second.join()
            one = start("b", kind=ONE)
            await journals[1].start([one], owner=dead)
            second.forget()
            async with asyncio.timeout(10):
                while hands.keys != ["a", "b"]:
                    await asyncio.sleep(0.01)
            assert await journals[1].owned() == {first.token: 2}
        finally:
            await supervisor.stop(5.0)
        assert await journals[1].owned() == {}


@virtually
async def test_hints_dont_shorten_the_pause_after_a_failure(caplog):
    """Whoever fails to start something in an outage hints at work each time."""
    caplog.set_level(logging.WARNING)
    store = Store()
    shop = Shop(store, poll=2.0, lease=600.0)
    async with shop.running():
        await asyncio.sleep(1.0)
        shop.journal.away.add("*")
        begun = sum(shop.journal.calls.values())
        for _ in range(1000):
            shop.hands.desk.doubt()
            await asyncio.sleep(0.01)
        assert sum(shop.journal.calls.values()) - begun < 15
        id = await shop.begin("a")
        shop.journal.away.clear()
        await until(lambda: shop.hands.keys == ["a"], within=2.1)
        await shop.hands.rest(id)
    told = [one.getMessage() for one in caplog.records if one.name.endswith("worker")]
    assert len(told) == 2
    assert told[0].startswith("can't reach the store for work: ")
    assert told[1].startswith("the store gives work again, after 1")


@virtually
async def test_another_outage_is_told_anew(caplog):
    shop = Shop(Store(), poll=1.0, lease=600.0)
    async with shop.running():
        for _ in range(2):
            shop.journal.away.add("*")
            await asyncio.sleep(5.0)
            shop.journal.away.clear()
            await asyncio.sleep(5.0)
    told = [one.getMessage() for one in caplog.records if one.name.endswith("worker")]
    assert [one[:9] for one in told] == ["can't rea", "the store"] * 2


@virtually
async def test_what_its_processes_die_of_again_and_again_pauses_for_longer_each_time():
    """Up to a minute: it must neither be given up nor take down one process after another."""
    store = Store()
    shop = Shop(store)
    await shop.begin("a")
    pauses = []
    async with shop.running():
        await until(lambda: shop.hands.keys == ["a"])
        for _ in range(10):
            token = shop.token
            await store.take_away(token)
            await until(lambda token=token: shop.token not in (None, token))
            lost_at = clock().monotonic()
            await until(lambda: shop.hands.keys == ["a"], within=2 * LONGEST_PAUSE)
            pauses.append(clock().monotonic() - lost_at)
    assert pauses[0] < RECOVERY_PAUSE / 2
    assert pauses[1] < RECOVERY_PAUSE + SOON
    assert LONGEST_PAUSE / 2 - SOON < pauses[-1] < LONGEST_PAUSE + SOON
