"""What happens between two looks, or while another thing is under way."""

import asyncio

from standfast.coordination.worker import UNCLAIMABLE_AFTER
from tests.coordination.hands import LIMITED, ONE, TWO, Shop
from tests.coordination.test_worker import SOON, _Deaf, row
from tests.coordination.world import BEAT, Scripted, Store, clock, until, virtually


@virtually
async def test_a_loss_suspected_during_a_beat_is_looked_into_at_once():
    """The suspicion was forgotten as the next wait began."""
    process = Store().process(Scripted("a"))

    async def suspect() -> None:
        process.port.behind.clear()
        process.membership.suspect()

    async with process.running():
        process.port.behind["renew"] = suspect
        await asyncio.sleep(1.5 * BEAT)
        assert process.port.calls["renew"] == 2


@virtually
async def test_after_the_stop_nobody_is_told_of_freed_leases():
    """The subscription outlived the process's work; on SQLite it goes on polling."""
    store = Store()
    process = store.process(Scripted("a"))
    subscribe, listening = store.leases.on_freed, []

    def on_freed(callback):
        end = subscribe(callback)
        listening.append(callback)

        def unsubscribe() -> None:
            listening.remove(callback)
            end()

        return unsubscribe

    store.leases.on_freed = on_freed  # type: ignore[method-assign]
    async with process.running():
        assert len(listening) == 1
    assert listening == []


@virtually
async def test_a_change_while_it_tells_of_another_is_told_too():
    """`standfast services` showed a state that was over, for good."""
    store = Store()

    async def runs_then_fails_then_works(duty) -> None:
        duty.ready()
        await asyncio.sleep(1.0)
        raise OSError("no more")

    async def works_late(duty) -> None:
        duty.ready()
        await duty.stopping.wait()

    process = store.process(Scripted("a", runs_then_fails_then_works, works_late))
    async with process.running():
        await asyncio.sleep(0.5)
        process.port.before["annotate"] = lambda: asyncio.sleep(2.0)  # it runs again meanwhile
        await until(lambda: process.states["a"] == "restarting")
        await until(lambda: process.states["a"] == "running")
        await asyncio.sleep(10.0)
        (told,) = (await store.note())["services"]
        assert (told["state"], told["restarts"]) == ("running", 1)


@virtually
async def test_what_is_in_hand_is_given_back_after_the_last_write():
    """Writes that were accepted came after the release, and were refused as stale."""
    shop = Shop(Store())

    async def note() -> None:
        shop.hands.log.append("release")

    shop.journal.before["release"] = note
    async with shop.running():
        await asyncio.sleep(SOON)
    assert shop.hands.log == ["begin", "drain", "cut off 0", "end", "release"]


@virtually
async def test_one_that_leaves_during_a_look_that_nothing_hinted_at_is_seen_by_it():
    """Which instances are in memory was asked after the look at the store."""
    shop = Shop(Store(), poll=5.0)
    shop.journal.inner = _Deaf(shop.journal.inner)
    id = await shop.begin("a")
    async with shop.running():
        await until(lambda: shop.hands.active)
        await asyncio.sleep(1.0)
        await shop.send(id)

        async def leave() -> None:
            shop.journal.behind.clear()
            await shop.hands.rest(id)

        shop.journal.behind["next_wake"] = leave
        await until(lambda: not shop.journal.behind)
        begun = clock().monotonic()
        await until(lambda: shop.hands.active)
        assert clock().monotonic() - begun < 2 * SOON


@virtually
async def test_a_place_taken_by_a_start_leaves_others_waiting_for_it():
    """The look found no room for the kind, and nobody noted that one might wait."""
    shop = Shop(Store(), poll=60.0, limits={LIMITED: 1})
    shop.journal.inner = _Deaf(shop.journal.inner)
    async with shop.running():
        await asyncio.sleep(5.0)
        assert shop.hands.desk.slots.take_if_free("limited", 1)  # as by a start in this process
        await shop.begin("waits", kind=LIMITED, after=95.0)
        await asyncio.sleep(100.0)  # a poll found no room; meanwhile it became due
        assert not shop.hands.active
        begun = clock().monotonic()
        assert shop.hands.desk.slots.give_back("limited")  # so somebody may wait for it
        shop.hands.desk.wake()
        await until(lambda: shop.hands.keys == ["waits"])
        assert clock().monotonic() - begun < SOON


@virtually
async def test_what_is_only_just_overdue_isnt_flagged():
    """There was no time for a worker that has the version to come up."""
    shop = Shop(Store(), kinds=(ONE,))
    late = await shop.begin("late", kind=TWO, after=0.1 - UNCLAIMABLE_AFTER)
    overdue = await shop.begin("overdue", kind=TWO, after=-0.1 - UNCLAIMABLE_AFTER)
    async with shop.running():
        await asyncio.sleep(SOON)
        assert (await row(shop, late)).status == "running"
        assert (await row(shop, overdue)).status == "parked"
