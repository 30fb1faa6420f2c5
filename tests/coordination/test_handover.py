"""Leases that are lost, handed over and taken over, and the services that run under them."""

import asyncio
import logging
from collections import Counter

import pytest

from standfast.coordination.membership import MEMBER
from standfast.coordination.service import Duty
from standfast.coordination.supervisor import Supervisor
from tests.coordination.disk import on_sqlite
from tests.coordination.world import (
    BEAT,
    LEASE,
    Process,
    Scripted,
    Store,
    clock,
    deaf,
    slow_to_stop,
    tasks_of,
    until,
    virtually,
    works,
)

# -- losing the lease ----------------------------------------------------------------------------


@virtually
async def test_losing_the_membership_cuts_all_and_begins_anew_under_another(caplog):
    store, diary = Store(), []
    names = ("a", "b")
    services = [Scripted(name, diary=diary) for name in names]
    services.append(Scripted("alone", diary=diary, exclusive=True))
    process = store.process(*services)
    async with process.running() as supervisor:
        first = process.membership.token
        for lease in (await store.held()).values():
            await store.take_away(lease.token)
        await until(lambda: len(services[2].duties) == 2, within=BEAT + 0.01)
        assert set(diary[3:6]) == {"a cut", "b cut", "alone cut"}
        assert set(diary[6:]) == {"a begins", "b begins", "alone begins"}
        assert set(process.states.values()) == {"running"}
        token = process.membership.token
        assert token is not None
        assert token > (first or 0)
        assert {service.duties[1].token for service in services} == {token}
        own = services[2].duties[1].own_token
        assert own == (await store.held())["service:alone"].token
        assert [status.restarts for status in supervisor.services] == [1, 1, 1]
        assert [status.failures for status in supervisor.services] == [0, 0, 0]
        told = [r.getMessage() for r in caplog.records if "lease was lost" in r.getMessage()]
        assert len(told) == 1
        await asyncio.sleep(10 * LEASE)
        assert len(diary) == 9, "and all is well again"


@virtually
async def test_after_the_membership_was_lost_an_exclusive_one_has_another_fencing_token():
    """Also if its own lease still stood: what the turn before goes on to write is refused so."""
    store, alone = Store(), Scripted("alone", exclusive=True)
    process = store.process(alone)
    async with process.running():
        await store.take_away(process.membership.token)
        await until(lambda: len(alone.duties) == 2, within=2 * LEASE)
        first, second = (duty.own_token for duty in alone.duties)
        assert second == (await store.held())["service:alone"].token
        assert second > first


@virtually
async def test_it_is_found_at_the_next_beat_after_a_pause():
    """A process that was paused for long; others have ended its lease meanwhile."""
    store = Store()
    service = Scripted("a")
    process, other = store.process(service), store.process(name="other")
    async with other.running(), process.running():
        process.port.before["renew"] = lambda: asyncio.sleep(10 * LEASE)
        await until(lambda: not process.membership.is_held)
        process.port.before.clear()
        await until(lambda: len(service.duties) == 2, within=11 * LEASE)
        assert service.duties[0].token < service.duties[1].token
        assert process.membership.is_held


@virtually
async def test_while_the_store_is_away_it_isnt_lost_and_the_services_go_on(caplog):
    store = Store()
    service = Scripted("a")
    process = store.process(service)
    async with process.running() as supervisor:
        assert supervisor.store_answers
        process.port.away.add("*")
        await asyncio.sleep(10 * LEASE)
        assert not supervisor.store_answers
        assert not process.membership.is_held, "nobody can say so any more"
        assert process.states == {"a": "running"}
        assert any("can't reach the store" in r.getMessage() for r in caplog.records)
        process.port.away.clear()
        await asyncio.sleep(BEAT)
        assert supervisor.store_answers
        assert process.membership.is_held
    assert len(service.duties) == 1
    told = [one.getMessage() for one in caplog.records]
    assert [one for one in told if "can't reach" in one] == [
        "can't reach the store to renew the lease: no renew now"
    ], "of a beat that fails the rest isn't done"
    assert sum("the store renews the lease again, after 39s" in one for one in told) == 1


@virtually
async def test_lost_and_then_the_store_is_away():
    """It comes back with the first beat that reaches the store."""
    store = Store()
    service = Scripted("a")
    process = store.process(service)
    async with process.running():
        await store.take_away(process.membership.token)
        process.port.away.add("acquire")
        await until(lambda: service.diary[-1] == "a cut")
        await asyncio.sleep(5 * LEASE)
        assert (process.states, len(service.duties)) == ({"a": "restarting"}, 1)
        assert process.membership.token is None
        process.port.away.clear()
        await until(lambda: len(service.duties) == 2, within=BEAT + 0.01)
        await until(lambda: process.states == {"a": "running"})


@virtually
async def test_lost_and_stopped_at_once():
    store = Store()
    process = store.process(Scripted("a"), Scripted("alone", exclusive=True))
    await process.supervisor.start()
    await store.take_away(process.membership.token)
    process.port.away.add("acquire")
    await until(lambda: process.states["a"] == "restarting")
    begun = clock().monotonic()
    await process.supervisor.stop(30.0)
    assert clock().monotonic() - begun < 3.0
    assert set(process.states.values()) == {"stopped"}


@virtually
async def test_lost_while_it_drains(caplog):
    """What it was finishing belongs to others: it is cut off, and that is the end of it."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    store = Store()
    service = Scripted("a", slow_to_stop)
    process = store.process(service)
    await process.supervisor.start()
    stopping = asyncio.create_task(process.supervisor.stop(30.0))
    await until(lambda: process.states == {"a": "draining"})
    await store.take_away(process.membership.token)
    await stopping
    assert clock().monotonic() <= 2 * BEAT
    assert (service.diary, process.states) == (["a begins", "a cut"], {"a": "stopped"})
    assert await store.held() == {}
    task = process.supervisor._posts[0].task
    assert task is not None
    assert task.cancelled() or task.exception() is None
    assert not errors


@virtually
async def test_lost_just_as_an_exclusive_one_gets_its_lease():
    """Its turn must not begin under the token that was lost meanwhile."""
    store = Store()
    alone = Scripted("alone", exclusive=True)
    process = store.process(alone)

    async def meanwhile() -> None:
        process.port.behind.clear()
        await store.take_away(process.membership.token)
        await asyncio.sleep(2 * BEAT)

    process.port.behind["acquire"] = _second(process, meanwhile)
    async with process.running():
        await asyncio.sleep(10 * LEASE)
        assert alone.duties[-1].token == process.membership.token
        assert alone.duties[-1].own_token == (await store.held())["service:alone"].token


@virtually
async def test_an_exclusive_one_doesnt_begin_once_the_membership_may_have_run_out():
    """Its own lease was granted, but the answer took longer than the membership surely holds."""
    alone = Scripted("alone", exclusive=True)
    process = Store().process(alone)

    async def meanwhile() -> None:
        process.port.behind.clear()
        process.port.away.update({"renew", "expire"})
        await asyncio.sleep(2 * LEASE)

    process.port.behind["acquire"] = _second(process, meanwhile)
    async with process.running():
        await asyncio.sleep(2 * LEASE)
        assert not process.membership.is_held
        assert not alone.duties
        process.port.away.clear()
        await until(lambda: alone.duties)
        assert process.membership.is_held


def _second(process: Process, act):
    """At the second call, which is for the service's own lease."""

    async def maybe() -> None:
        if process.port.calls["acquire"] == 2:
            await act()

    return maybe


@virtually
@pytest.mark.parametrize("blocked", [0.0, 7.6])
async def test_what_cut_an_exclusive_one_off_is_told(caplog, monkeypatch, blocked):
    monkeypatch.setattr(Supervisor, "blocked_lately", blocked)
    store = Store()
    process = store.process(Scripted("alone", exclusive=True))
    async with process.running():
        process.port.away = {"renew"}
        await asyncio.sleep(LEASE)
        (told,) = [one for one in caplog.messages if "is cut off" in one]
        assert ("the event loop was blocked for 7.6 s" in told) is bool(blocked)
        assert ("the store doesn't answer" in told) is not blocked


@virtually
async def test_losing_only_its_own_lease_cuts_only_that_service(caplog):
    store = Store()
    plain, alone = Scripted("plain"), Scripted("alone", exclusive=True)
    process = store.process(plain, alone)
    async with process.running() as supervisor:
        token = process.membership.token
        await store.take_away((await store.held())["service:alone"].token)
        await until(lambda: len(alone.duties) == 2, within=BEAT + 0.01)
        assert (alone.diary[1:], process.membership.token) == (["alone cut", "alone begins"], token)
        assert len(plain.duties) == 1
        first, second = alone.duties
        assert (first.token, second.token) == (token, token)
        assert (first.own_token or 0) < (second.own_token or 0)
        assert [status.restarts for status in supervisor.services] == [0, 1]
        told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
        assert told == ["the lease of service 'alone' was lost to another"]


@virtually
async def test_one_whose_own_lease_another_took_stands_by():
    store = Store()
    alone = Scripted("alone", exclusive=True)
    process = store.process(alone)
    async with process.running():
        await store.take_away((await store.held())["service:alone"].token)
        (taken,) = await store.leases.acquire(["service:alone"], "thief", ttl=3 * LEASE)
        assert taken is not None
        await until(lambda: process.states == {"alone": "standing_by"}, within=BEAT + 0.01)
        assert process.membership.is_held
        await until(lambda: len(alone.duties) == 2, within=4 * LEASE)


@virtually
async def test_one_that_is_deaf_to_the_loss_of_its_own_lease_harms_no_other(caplog):
    """Neither is it begun a second time beside itself, nor is the heartbeat kept from beating."""
    store = Store()
    plain, stubborn = Scripted("plain"), Scripted("deaf", deaf(10 * LEASE), works, exclusive=True)
    process, other = store.process(plain, stubborn), store.process(name="other")
    async with other.running(), process.running():
        token = process.membership.token
        await store.take_away((await store.held())["service:deaf"].token)
        await asyncio.sleep(9 * LEASE)
        assert process.membership.is_held
        assert process.membership.token == token, "the membership was kept"
        assert len(plain.duties) == 1
        assert len(stubborn.duties) == 1
        assert any("'deaf' doesn't end" in r.getMessage() for r in caplog.records)
        await until(lambda: len(stubborn.duties) == 2, within=3 * LEASE)


@virtually
async def test_one_that_is_deaf_to_the_loss_of_the_membership_holds_up_no_other():
    store = Store()
    plain, stubborn = Scripted("plain"), Scripted("deaf", deaf(10 * LEASE), works)
    process = store.process(plain, stubborn)
    async with process.running():
        await store.take_away(process.membership.token)
        await until(lambda: len(plain.duties) == 2, within=BEAT + LEASE + 0.1)
        assert len(stubborn.duties) == 1
        await until(lambda: len(stubborn.duties) == 2, within=11 * LEASE)
        assert stubborn.duties[1].token == process.membership.token


# -- standing by ---------------------------------------------------------------------------------


@virtually
async def test_an_exclusive_service_is_taken_over_at_once_when_the_other_leaves():
    store = Store()
    lease = 60.0
    services = [Scripted("alone", exclusive=True) for _ in range(3)]
    processes = [
        store.process(service, name=name, lease=lease)
        for service, name in zip(services, "abc", strict=True)
    ]
    await processes[0].supervisor.start()
    starting = [asyncio.create_task(process.supervisor.start()) for process in processes[1:]]
    await until(lambda: [p.states["alone"] for p in processes[1:]] == ["standing_by"] * 2)
    await asyncio.sleep(5 * lease)
    assert [len(service.duties) for service in services] == [1, 0, 0]
    for left in range(2):
        one = next(process for process in processes if process.states["alone"] == "running")
        begun = clock().monotonic()
        await one.supervisor.stop(1.0)
        await until(lambda left=left: sum(len(s.duties) for s in services) == left + 2)
        assert clock().monotonic() - begun < 0.01, "the hint is enough"
    states = Counter(process.states["alone"] for process in processes)
    assert states == {"stopped": 2, "running": 1}
    await asyncio.gather(*starting)
    for process in processes:
        if process.states["alone"] == "running":
            await process.supervisor.stop(1.0)
    tokens = [service.duties[0].own_token for service in services]
    assert len(set(tokens)) == 3
    assert await store.held() == {}


@virtually
async def test_without_hints_it_is_taken_over_well_below_a_lease():
    store = Store()
    lease = 60.0
    first, second = (
        store.process(Scripted("alone", exclusive=True), name=name, lease=lease) for name in "ab"
    )
    second.port.inner = _Deaf(store.leases)
    await first.supervisor.start()
    starting = asyncio.create_task(second.supervisor.start())
    await asyncio.sleep(100.0)
    begun = clock().monotonic()
    await first.supervisor.stop(1.0)
    await starting
    assert clock().monotonic() - begun <= 0.5
    await second.supervisor.stop(1.0)


class _Deaf:
    """Leases of whose end one isn't told."""

    def __init__(self, inner) -> None:
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def on_freed(self, callback):
        return lambda: None


@virtually
async def test_a_hint_that_comes_while_it_asks_is_heard():
    """The other leaves between its answer and its hearing of it."""
    store = Store()
    lease = 60.0
    first, second = (
        store.process(Scripted("alone", exclusive=True), name=name, lease=lease) for name in "ab"
    )
    await first.supervisor.start()
    starting = asyncio.create_task(second.supervisor.start())
    await until(lambda: second.states["alone"] == "standing_by")
    left: list[float] = []

    async def leave() -> None:
        second.port.behind.clear()
        await first.supervisor.stop(1.0)
        left.append(clock().monotonic())
        await asyncio.sleep(0.01)

    second.port.behind["acquire"] = leave
    await until(lambda: second.states["alone"] == "running")
    await starting
    assert clock().monotonic() - left[0] < 0.1
    await second.supervisor.stop(1.0)


@virtually
async def test_what_a_dead_process_ran_is_taken_over_within_a_lease():
    """It is killed just after a beat, and the other's beats are just before its own."""
    store = Store()
    dead, lives = (Scripted("alone", exclusive=True) for _ in range(2))
    second = store.process(lives, name="lives")
    starting = None
    first = store.process(dead, name="dead")
    await first.supervisor.start()
    await asyncio.sleep(BEAT - 0.01)
    starting = asyncio.create_task(second.supervisor.start())
    await asyncio.sleep(0.02 + 5 * BEAT)
    for task in tasks_of(first):
        task.cancel()
    died = clock().monotonic()
    await until(lambda: lives.duties, within=2 * LEASE)
    assert LEASE / 2 < clock().monotonic() - died <= LEASE
    await starting
    assert set(await store.held()) == {f"{MEMBER}lives", "service:alone"}
    await second.supervisor.stop(1.0)


@virtually
async def test_standing_by_through_a_store_that_is_away(caplog):
    caplog.set_level(logging.INFO, logger="standfast.coordination")
    store = Store()
    first, second = (store.process(Scripted("alone", exclusive=True), name=name) for name in "ab")
    await first.supervisor.start()
    starting = asyncio.create_task(second.supervisor.start())
    await until(lambda: second.states["alone"] == "standing_by")
    second.port.away.add("acquire")
    await first.supervisor.stop(1.0)
    await asyncio.sleep(5 * LEASE)
    assert second.states["alone"] == "standing_by"
    second.port.away.clear()
    await until(lambda: second.states["alone"] == "running", within=1.0)
    told = [(one.levelname, one.getMessage()) for one in caplog.records]
    assert [one for one in told if "service 'alone'" in one[1]] == [
        ("INFO", "another process runs service 'alone': standing by"),
        ("ERROR", "service 'alone' can't ask for its lease: no acquire now"),
        ("WARNING", "service 'alone' can ask for its lease again, after 20.5s"),
    ]
    await starting
    await second.supervisor.stop(1.0)


# -- in real time --------------------------------------------------------------------------------


@pytest.mark.timeout(30)
async def test_a_process_that_leaves_on_sqlite_is_followed_at_once(tmp_path):
    """Two apps on one file, as two processes have it: the other hears of the commit."""
    diary: list[str] = []
    async with on_sqlite(tmp_path, 2) as memberships:
        supervisors = [
            Supervisor(m, [_Alone(m.name, diary)], clock=m._clock, watched=False)
            for m in memberships
        ]
        await supervisors[0].start()
        starting = asyncio.create_task(supervisors[1].start())
        await asyncio.sleep(0.3)
        assert diary == ["0 begins"]
        await supervisors[0].stop(1.0)
        async with asyncio.timeout(5.0):  # far below the lease of a minute
            while supervisors[1].services[0].state != "running":
                await asyncio.sleep(0.01)
        await starting
        assert diary == ["0 begins", "0 ends", "1 begins"]
        await supervisors[1].stop(1.0)


class _Alone:
    name, exclusive = "alone", True

    def __init__(self, whose: str, diary: list[str]) -> None:
        self.whose, self.diary = whose, diary

    async def run(self, duty: Duty) -> None:
        self.diary.append(f"{self.whose} begins")
        duty.ready()
        await duty.stopping.wait()
        self.diary.append(f"{self.whose} ends")
