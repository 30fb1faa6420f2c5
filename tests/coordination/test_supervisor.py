"""Services under a supervisor: begun, kept running, drained and stopped in time; what it tells."""

import asyncio
import logging
import random

import pytest

from standfast.coordination.membership import MEMBER
from standfast.coordination.service import Duty
from standfast.errors import ConfigurationError, StaleWriter, StoreUnavailable
from tests.coordination.world import (
    BEAT,
    LEASE,
    Scripted,
    Store,
    clock,
    deaf,
    fails,
    returns,
    runs_then_fails,
    slow_to_start,
    slow_to_stop,
    tasks_of,
    until,
    virtually,
    works,
)


async def runs_long_then_fails(duty: Duty) -> None:
    """A turn that works for a minute and a second."""
    duty.ready()
    await asyncio.sleep(61.0)
    raise OSError("no more")


async def hangs(duty: Duty) -> None:
    """A turn that doesn't see that it should stop."""
    duty.ready()
    await asyncio.sleep(1e6)


@pytest.fixture
def unlucky(monkeypatch):
    """Jitter is at its longest."""
    monkeypatch.setattr(random, "random", lambda: 1.0)


# -- starting and stopping -----------------------------------------------------------------------


@virtually
async def test_services_start_in_order_and_stop_together():
    diary: list[str] = []
    names = ("a", "b", "c")
    process = Store().process(*(Scripted(name, slow_to_start, diary=diary) for name in names))
    supervisor = process.supervisor
    async with process.running():
        assert clock().monotonic() == 15.0, "each is up when the next begins"
        assert process.states == dict.fromkeys(names, "running")
        assert [status.name for status in supervisor.services] == list(names)
    begun = [f"{name} begins" for name in names]
    assert diary[:3] == begun
    assert sorted(diary[3:]) == ["a ends", "b ends", "c ends"]
    assert process.states == dict.fromkeys(names, "stopped")
    assert clock().monotonic() == 15.0, "none had anything to finish"


@virtually
async def test_a_duty_tells_whose_it_is():
    store, (plain, alone) = Store(), (Scripted("plain"), Scripted("alone", exclusive=True))
    process = store.process(plain, alone)
    async with process.running():
        held = await store.held()
        ((duty,), (own,)) = plain.duties, alone.duties
        assert duty.membership is own.membership is process.membership
        assert duty.token == own.token == held[f"{MEMBER}a"].token == process.membership.token
        assert (duty.own_token, own.own_token) == (None, held["service:alone"].token)
        assert set(held) == {f"{MEMBER}a", "service:alone"}
    assert await store.held() == {}


@virtually
async def test_without_services_there_is_the_membership():
    store = Store()
    process = store.process()
    async with process.running() as supervisor:
        assert supervisor.services == []
        assert process.membership.is_held
    assert await store.held() == {}


def test_two_of_one_name_cant_be():
    with pytest.raises(ConfigurationError, match="two services are named 'x': rename"):
        _supervised("x", "y", "x")


@virtually
async def _supervised(*names: str) -> None:
    Store().process(*map(Scripted, names))


@virtually
async def test_the_first_failure_is_raised_by_start_and_all_is_undone():
    store, diary = Store(), []
    services = [
        Scripted("a", diary=diary),
        Scripted("b", fails, diary=diary, exclusive=True),
        Scripted("c", diary=diary),
    ]
    process = store.process(*services)
    with pytest.raises(OSError, match="no"):
        await process.supervisor.start()
    assert diary == ["a begins", "b begins", "a ends"]
    assert not services[2].duties
    assert await store.held() == {}
    assert {process.states["a"], process.states["b"]} == {"stopped"}
    assert clock().monotonic() < 1.0, "it isn't tried again"


@virtually
async def test_one_that_ends_before_it_is_up_fails_the_start():
    async def nothing(duty: Duty) -> None:
        return

    with pytest.raises(RuntimeError, match="it ended by itself"):
        await Store().process(Scripted("a", nothing)).supervisor.start()


@virtually
async def test_a_store_that_is_away_fails_the_start():
    process = Store().process(Scripted("a"))
    process.port.away.add("acquire")
    with pytest.raises(StoreUnavailable):
        await process.supervisor.start()


@virtually
async def test_a_start_that_is_given_up_leaves_nothing():
    """As by Ctrl-C while a service takes its time."""
    store = Store()
    first = store.process(Scripted("alone", exclusive=True), name="first")
    diary: list[str] = []
    services = Scripted("a", diary=diary), Scripted("alone", slow_to_start, diary=diary)
    second = store.process(*services, name="second")
    async with first.running():
        starting = asyncio.create_task(second.supervisor.start(drain=5.0))
        await until(lambda: "a begins" in diary)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert diary[:2] == ["a begins", "alone begins"]
        assert "a ends" in diary, "what was up is drained"
        assert set(await store.held()) == {f"{MEMBER}first", "service:alone"}
        assert asyncio.all_tasks() == {asyncio.current_task(), *tasks_of(first)}


# -- failing -------------------------------------------------------------------------------------


@virtually
async def test_one_that_fails_is_begun_again_with_growing_pauses(unlucky):
    """Up to half a minute; the others don't notice, and once it ran for long, it is as new.

    One that comes up each time, and then fails, pauses for longer each time too.
    """
    store = Store()
    bad = Scripted("bad", runs_then_fails, *[fails] * 9, runs_long_then_fails, works)
    good = Scripted("good")
    process = store.process(bad, good)
    async with process.running() as supervisor:
        await asyncio.sleep(1.1)
        status = supervisor.services[0]
        assert (status.state, status.failures, status.restarts) == ("restarting", 1, 0)
        assert (status.error, status.since) == ("OSError: no more", store.clock.now() - 0.1)
        await until(lambda: len(bad.began) == 11, within=600)
        pauses = [round(b - a, 3) for a, b in zip(bad.began, bad.began[1:], strict=False)]
        assert pauses == [1.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
        status = supervisor.services[0]
        assert (status.state, status.failures, status.restarts) == ("running", 10, 10)
        assert status.error == "OSError: no", "what it failed with last"
        await until(lambda: len(bad.began) == 12, within=600)
        assert bad.began[-1] - bad.began[-2] == pytest.approx(61.2), "from the beginning"
        assert process.states == {"bad": "running", "good": "running"}
        assert len(good.duties) == 1
        assert len({duty.token for duty in bad.duties}) == 1, "under the same lease"


@virtually
async def test_one_that_comes_up_and_fails_each_time_pauses_for_longer_each_time(unlucky):
    bad = Scripted("bad", *[runs_then_fails] * 4, works)
    async with Store().process(bad).running():
        await until(lambda: len(bad.began) == 5, within=600)
    pauses = [round(b - a - 1.0, 3) for a, b in zip(bad.began, bad.began[1:], strict=False)]
    assert pauses == [0.2, 0.4, 0.8, 1.6]


@virtually
async def test_pauses_are_jittered():
    pauses = set()
    for _ in range(20):
        bad = Scripted("bad", runs_then_fails, works)
        async with Store().process(bad).running():
            await until(lambda: len(bad.began) == 2)
        pauses.add(round(bad.began[1] - bad.began[0] - 1.0, 6))
    assert len(pauses) > 10
    assert all(0.1 <= pause <= 0.2 for pause in pauses)


@virtually
async def test_one_that_ends_by_itself_has_failed():
    odd = Scripted("odd", returns, works)
    process = Store().process(odd)
    async with process.running() as supervisor:
        await until(lambda: len(odd.duties) == 2 and process.states["odd"] == "running")
        assert supervisor.services[0].error == "RuntimeError: it ended by itself"
        assert supervisor.services[0].restarts == 1


@virtually
async def test_one_that_cancels_itself_has_failed():
    async def gives_up(duty: Duty) -> None:
        duty.ready()
        raise asyncio.CancelledError

    odd = Scripted("odd", gives_up, works)
    process = Store().process(odd)
    async with process.running():
        await until(lambda: len(odd.duties) == 2 and process.states["odd"] == "running")


@virtually
async def test_an_error_with_an_odd_message_is_told():
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError("no message")

    async def turn(duty: Duty) -> None:
        duty.ready()
        raise Odd("\0" * 1000)

    process = Store().process(Scripted("odd", turn, works))
    async with process.running() as supervisor:
        await until(lambda: supervisor.services[0].error)
        assert supervisor.services[0].error.startswith("Odd: ")
        assert len(supervisor.services[0].error) <= 500


@virtually
async def test_while_an_exclusive_one_pauses_another_process_may_run_it(unlucky):
    store = Store()
    bad = Scripted("alone", runs_then_fails, works, exclusive=True)
    good = Scripted("alone", exclusive=True)
    first, second = store.process(bad, name="first"), store.process(good, name="second")
    async with first.running():
        standing = asyncio.create_task(second.supervisor.start())
        await until(lambda: good.duties)
        await standing
        assert good.began[0] == pytest.approx(1.0), "as soon as it failed"
        await asyncio.sleep(60.0)
        assert (first.states["alone"], len(bad.duties)) == ("standing_by", 1)
        status = first.supervisor.services[0]
        assert (status.is_up, status.error) == (True, "OSError: no more")
        await second.supervisor.stop(1.0)
        await until(lambda: len(bad.duties) == 2, within=LEASE)
        assert first.states["alone"] == "running"


# -- draining ------------------------------------------------------------------------------------


@virtually
async def test_all_drain_within_the_one_time_that_is_given():
    services = [Scripted(name, slow_to_stop) for name in "abc"]
    process = Store().process(*services)
    await process.supervisor.start()
    begun = clock().monotonic()
    await process.supervisor.stop(12.0)
    assert clock().monotonic() - begun == pytest.approx(5.0, abs=0.01), "all at the same time"
    assert [service.duties[0].drain for service in services] == [12.0] * 3
    assert [service.diary[-1] for service in services] == ["a ends", "b ends", "c ends"]
    assert set(process.states.values()) == {"stopped"}


@virtually
async def test_what_isnt_done_within_the_drain_is_cut_off():
    services = [Scripted("a", slow_to_stop), Scripted("b")]
    process = Store().process(*services)
    await process.supervisor.start()
    begun = clock().monotonic()
    await process.supervisor.stop(2.0)
    assert clock().monotonic() - begun == pytest.approx(3.0, abs=0.01), "and a moment more"
    assert [service.diary[-1] for service in services] == ["a cut", "b ends"]


@virtually
async def test_those_that_arent_done_share_the_one_drain():
    process = Store().process(*(Scripted(name, hangs) for name in "abc"))
    await process.supervisor.start()
    begun = clock().monotonic()
    await process.supervisor.stop(20.0)
    assert clock().monotonic() - begun == pytest.approx(21.0, abs=0.01), "and a moment more in all"


@virtually
async def test_a_stop_that_is_cancelled_leaves_nothing():
    store = Store()
    services = [Scripted("a", slow_to_stop), Scripted("alone", exclusive=True)]
    process = store.process(*services)
    await process.supervisor.start()
    stopping = asyncio.create_task(process.supervisor.stop(60.0))
    await asyncio.sleep(1.0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert services[0].diary[-1] == "a cut"
    assert await store.held() == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtually
@pytest.mark.parametrize("after", [0.0, 2.5, 60.0])
async def test_however_often_it_is_cancelled_nothing_is_left(after):
    """In its start too; the scopes of anyio cancel in each iteration of the event loop."""

    async def tidies(duty: Duty) -> None:
        duty.ready()
        try:
            await asyncio.sleep(1e6)
        finally:
            await asyncio.sleep(0.5)

    store = Store()
    services = [Scripted("a", tidies), Scripted("slow", slow_to_start, exclusive=True)]
    process = store.process(*services)

    async def work() -> None:
        async with process.running(drain=30.0):
            await asyncio.sleep(1e6)

    working = asyncio.create_task(work())
    await asyncio.sleep(after)
    begun = clock().monotonic()
    while not working.done():
        working.cancel()
        await asyncio.sleep(0.01)
    assert working.cancelled()
    assert clock().monotonic() - begun < 1.0, "nor is there a drain for what is cancelled"
    assert await store.held() == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}


@virtually
async def test_the_lease_is_kept_while_it_drains():
    """Or else what it finishes would be refused."""
    store = Store()

    async def long(duty: Duty) -> None:
        duty.ready()
        await duty.stopping.wait()
        await asyncio.sleep(5 * LEASE)
        assert duty.membership.is_held
        assert duty.membership.token == duty.token

    process, other = store.process(Scripted("a", long)), store.process(name="other")
    async with other.running():
        await process.supervisor.start()
        await process.supervisor.stop(6 * LEASE)
    assert clock().monotonic() == 5 * LEASE


@virtually
async def test_one_that_fails_while_it_drains_is_told_and_not_begun_again(caplog):
    async def turn(duty: Duty) -> None:
        duty.ready()
        await duty.stopping.wait()
        raise OSError("too late")

    service = Scripted("a", turn)
    process = Store().process(service)
    async with process.running():
        pass
    assert (process.states, len(service.duties)) == ({"a": "stopped"}, 1)
    assert any("service 'a' failed while it drained" in r.getMessage() for r in caplog.records)


@virtually
async def test_one_that_fails_while_another_drains_is_not_begun_again():
    store = Store()
    first, second = Scripted("first", runs_then_fails, works), Scripted("second", slow_to_stop)
    process = store.process(first, second)
    async with process.running(drain=20.0):
        pass
    assert (len(first.duties), process.states) == (1, {"first": "stopped", "second": "stopped"})
    assert clock().monotonic() == pytest.approx(5.0)


@virtually
async def test_stopping_one_that_pauses_takes_no_time(unlucky):
    bad = Scripted("bad", runs_then_fails, *[fails] * 8)
    process = Store().process(bad)
    await process.supervisor.start()
    await until(lambda: len(bad.duties) == 9, within=600)
    begun = clock().monotonic()
    await process.supervisor.stop(30.0)
    assert clock().monotonic() - begun < 0.01
    assert process.states == {"bad": "stopped"}


@virtually
async def test_stopping_one_that_is_just_beginning_again(unlucky, caplog):
    """It is told to stop before it was up: it comes up, sees that, and ends as it should."""
    service = Scripted("a", runs_then_fails, slow_to_start)
    process = Store().process(service)
    await process.supervisor.start()
    await until(lambda: len(service.duties) == 2)
    assert process.states == {"a": "starting"}
    caplog.clear()
    await process.supervisor.stop(30.0)
    assert (process.states, service.diary[-1]) == ({"a": "stopped"}, "a ends")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@virtually
@pytest.mark.parametrize("store_is_away", [False, True])
async def test_stop_ends_though_a_service_swallows_its_cancellation(store_is_away):
    store, diary = Store(), []
    services = [Scripted("a", diary=diary), Scripted("deaf", deaf(900.0), diary=diary)]
    process = store.process(*services)
    await process.supervisor.start()
    begun = clock().monotonic()
    if store_is_away:
        process.port.away.add("*")
    await process.supervisor.stop(2.0)
    assert clock().monotonic() - begun <= 2.0 + 4.0
    assert diary == ["a begins", "deaf begins", "a ends"], "the other is stopped all the same"
    assert set(process.states.values()) == {"stopped"}
    if not store_is_away:
        assert await store.held() == {}, "and what it still writes is refused"


# -- what is told, and what it costs -------------------------------------------------------------


@virtually
async def test_how_services_stand_is_told_to_all():
    store = Store()
    process = store.process(Scripted("a", runs_then_fails, works), Scripted("b", exclusive=True))
    async with process.running() as supervisor:
        await process.membership.can_run("a", [("saga", "order", 1)])
        await asyncio.sleep(0.01)
        note = await store.note()
        assert note["kinds"] == [["saga", "order", 1]]
        assert [(one["name"], one["state"]) for one in note["services"]] == [
            ("a", "running"),
            ("b", "running"),
        ]
        await until(lambda: process.states["a"] == "restarting")
        await asyncio.sleep(0.01)
        (told, _) = (await store.note())["services"]
        status = supervisor.services[0]
        assert told == {
            "name": "a",
            "state": "restarting",
            "since": status.since,
            "restarts": 0,
            "error": "OSError: no more",
        }
        await until(lambda: process.states["a"] == "running")
        await asyncio.sleep(0.01)
        (told, _) = (await store.note())["services"]
        assert (told["state"], told["restarts"]) == ("running", 1)
        assert (await store.note())["kinds"] == [["saga", "order", 1]]


@virtually
async def test_what_is_told_comes_back_with_a_new_lease():
    store = Store()
    process = store.process(Scripted("a"))
    async with process.running():
        await process.membership.can_run("a", [("saga", "order", 1)])
        token = process.membership.token
        await store.take_away(token)
        await until(lambda: process.membership.token != token)
        await until(lambda: process.states["a"] == "running")
        await asyncio.sleep(0.01)
        note = await store.note()
        assert note["kinds"] == [["saga", "order", 1]]
        assert [(one["state"], one["restarts"]) for one in note["services"]] == [("running", 1)]


@virtually
async def test_that_it_cant_be_told_harms_nothing():
    store = Store()
    process = store.process(Scripted("a", runs_then_fails, works))
    process.port.away.add("annotate")
    async with process.running() as supervisor:
        await until(lambda: supervisor.services[0].restarts == 1)
        assert process.states == {"a": "running"}
        await asyncio.sleep(LEASE)
        assert process.membership.is_held


@virtually
async def test_changes_that_come_together_are_told_together():
    store = Store()
    process = store.process(*(Scripted(f"s{number}") for number in range(20)))
    async with process.running():
        await asyncio.sleep(0.01)
        before = process.port.calls["annotate"]
        await store.take_away(process.membership.token)
        await until(lambda: set(process.states.values()) == {"running"})
        await asyncio.sleep(LEASE)
        # All cut, begun, and up again: sixty changes.
        assert process.port.calls["annotate"] - before <= 3


@virtually
async def test_what_an_idle_process_asks_of_its_store():
    """One renewal and one look at each beat, however many services and leases it has."""
    store = Store()
    services = [Scripted(f"s{number}", exclusive=number % 2 == 0) for number in range(10)]
    process = store.process(*services)
    async with process.running():
        await asyncio.sleep(BEAT / 2)
        process.port.calls.clear()
        await asyncio.sleep(100 * BEAT)
        assert process.port.calls == {"renew": 100, "expire": 100}


@virtually
async def test_what_standing_by_asks_of_its_store():
    store = Store()
    first, second = (
        store.process(Scripted("alone", exclusive=True), name=name, lease=10.0) for name in "ab"
    )
    await first.supervisor.start()
    starting = asyncio.create_task(second.supervisor.start())
    await asyncio.sleep(5.0)
    second.port.calls.clear()
    await asyncio.sleep(100.0)
    calls = dict(second.port.calls)
    assert 199 <= calls.pop("acquire") <= 201
    assert 239 <= calls.pop("expire") <= 241
    assert calls == {"renew": 40}
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await first.supervisor.stop(1.0)


@virtually
async def test_a_beat_that_raises_what_nobody_thought_of_is_not_the_last(caplog):
    store = Store()
    process = store.process(Scripted("a"))

    async def odd() -> None:
        process.port.behind.clear()
        raise ZeroDivisionError("odd")

    async with process.running():
        process.port.behind["renew"] = odd
        await asyncio.sleep(10 * LEASE)
        assert process.membership.is_held
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


@virtually
async def test_beats_keep_their_time_though_the_store_is_slow():
    """What a beat takes delays no later one."""
    store = Store()
    process = store.process(Scripted("a"))
    process.port.behind["renew"] = lambda: asyncio.sleep(0.8 * BEAT)
    async with process.running():
        await asyncio.sleep(100 * BEAT + 0.01)
        assert process.port.calls["renew"] == 100


@virtually
async def test_one_that_stands_by_holds_up_nobody():
    store = Store()
    first = store.process(Scripted("alone", exclusive=True), name="first")
    second = store.process(Scripted("alone", exclusive=True), Scripted("other"), name="second")
    async with first.running(), second.running() as supervisor:
        assert [(one.name, one.state, one.is_up) for one in supervisor.services] == [
            ("alone", "standing_by", True),
            ("other", "running", True),
        ]
        await first.supervisor.stop(1.0)
        await until(lambda: second.states["alone"] == "running", within=1.0)


@virtually
async def test_after_standing_by_a_first_failure_is_a_failure_like_any(unlucky):
    store = Store()
    first = store.process(Scripted("alone", exclusive=True), name="first")
    second = store.process(Scripted("alone", fails, works, exclusive=True), name="second")
    async with first.running(), second.running():
        await first.supervisor.stop(1.0)
        await until(lambda: second.states["alone"] == "running")
        assert second.supervisor.services[0].failures == 1


@virtually
async def test_one_that_is_never_ready_holds_up_the_others_for_a_while_only(caplog):
    async def shy(duty: Duty) -> None:
        await duty.stopping.wait()

    process = Store().process(Scripted("shy", shy), Scripted("other"))
    async with process.running():
        assert process.states == {"shy": "starting", "other": "running"}
        assert clock().monotonic() == pytest.approx(10.0, abs=0.1)
        assert "service 'shy' isn't ready after 10 s" in caplog.text


@virtually
async def test_one_that_fails_when_nobody_waited_for_it_any_longer_is_begun_again(caplog):
    async def late_to_fail(duty: Duty) -> None:
        await asyncio.sleep(15.0)
        raise OSError("no")

    process = Store().process(Scripted("late", late_to_fail, works))
    async with process.running() as supervisor:
        assert process.states == {"late": "starting"}
        await until(lambda: process.states["late"] == "running")
        assert supervisor.services[0].restarts == 1


@virtually
async def test_ready_may_be_said_twice():
    async def eager(duty: Duty) -> None:
        duty.ready()
        duty.ready()
        await duty.stopping.wait()

    process = Store().process(Scripted("eager", eager))
    async with process.running() as supervisor:
        await asyncio.sleep(60.0)
        assert (supervisor.services[0].state, supervisor.services[0].restarts) == ("running", 0)


@virtually
async def test_an_exclusive_one_is_cut_off_when_its_lease_may_have_run_out():
    """Its process can't reach the store; another may run it by now."""
    store = Store()
    alone = Scripted("alone", exclusive=True)
    cut, other = store.process(alone, name="cut"), Scripted("alone", exclusive=True)
    second = store.process(other, name="second")
    async with cut.running(), second.running():
        cut.port.away.update({"renew", "acquire", "expire", "annotate"})
        gone = clock().monotonic()
        await until(lambda: other.duties)
        assert alone.diary[-1] == "alone cut", "before the other begins, or at the same moment"
        assert clock().monotonic() - gone <= LEASE + 0.1
        assert cut.states["alone"] in ("restarting", "standing_by")
        cut.port.away.clear()
        await asyncio.sleep(2 * LEASE)
        assert cut.states["alone"] == "standing_by"
        assert second.states["alone"] == "running"


@virtually
async def test_a_stale_writer_is_no_failure_of_the_service(caplog):
    """It says that the lease was lost: so it goes on under the next, at once."""
    store = Store()

    async def writes(duty: Duty) -> None:
        duty.ready()
        while True:
            await asyncio.sleep(0.1)
            if duty.token not in {lease.token for lease in await store.leases.leases()}:
                raise StaleWriter("the lease was ended")

    service = Scripted("a", writes, works)
    process = store.process(service)
    async with process.running() as supervisor:
        await store.leases.release([service.duties[0].token])
        lost = clock().monotonic()
        await until(lambda: len(service.duties) == 2, within=1.0)
        assert clock().monotonic() - lost < 0.5, "not at the next beat"
        assert supervisor.services[0].failures == 0
        assert "failed" not in caplog.text


@virtually
async def test_whatever_asking_for_a_lease_raises_is_a_failure_and_seen(unlucky, caplog):
    store = Store()
    process = store.process(Scripted("alone", exclusive=True))

    async def odd() -> None:
        process.port.behind.clear()
        raise ZeroDivisionError("odd")

    async with process.running() as supervisor:
        await store.leases.release([process.membership.held("service:alone")])
        process.port.behind["acquire"] = odd
        await until(lambda: supervisor.services[0].failures == 1)
        assert "ZeroDivisionError" in supervisor.services[0].error
        await until(lambda: process.states["alone"] == "running")


@virtually
async def test_one_that_asks_the_process_to_exit_has_failed_like_any(unlucky):
    async def exits(duty: Duty) -> None:
        duty.ready()
        raise SystemExit(3)

    process = Store().process(Scripted("a", exits, works), Scripted("b"))
    async with process.running() as supervisor:
        await until(lambda: supervisor.services[0].failures == 1)
        assert "SystemExit(3)" in supervisor.services[0].error
        await until(lambda: process.states["a"] == "running")
        assert process.states["b"] == "running"


@virtually
async def test_a_first_failure_names_the_service():
    process = Store().process(Scripted("bad", fails))
    with pytest.raises(OSError, match="no") as caught:
        await process.supervisor.start()
    assert caught.value.__notes__ == ["standfast: service 'bad' failed at its start"]


@virtually
async def test_a_renewal_waits_for_none_of_what_a_beat_does_besides():
    """The leases of others, the clock and the note may take their time, or never end."""
    store = Store()
    process = store.process(Scripted("a"))

    async def hangs() -> None:
        await asyncio.Event().wait()

    async with process.running():
        await until(lambda: process.states == {"a": "running"})
        process.port.before["expire"] = hangs
        process.port.calls.clear()
        await asyncio.sleep(10 * LEASE)
        assert process.port.calls["renew"] >= 39
        assert process.port.calls["expire"] == 1
        assert process.membership.is_held


@virtually
async def test_a_service_that_fails_in_an_outage_adds_no_flood(caplog):
    """One line without a traceback, and none at all while the heart tells of it already."""
    store = Store()

    async def asks(duty):
        duty.ready()
        await duty.pause(1.0)
        await duty.membership.leases.leases()
        await duty.stopping.wait()

    process = store.process(Scripted("a", asks))
    async with process.running():
        process.port.away.add("*")
        await asyncio.sleep(300.0)
        told = [one for one in caplog.records if "service" in one.getMessage()]
        assert len(told) <= 2
        assert not any(one.exc_info for one in told)
        process.port.away.clear()
        await until(lambda: process.states == {"a": "running"})


# -- what is told --------------------------------------------------------------------------------


def said(caplog) -> list[tuple[str, str]]:
    """Level and message of what was logged since this was last asked."""
    found = [(one.levelname, one.getMessage()) for one in caplog.records]
    caplog.clear()
    return found


@virtually
async def test_a_failure_is_told_with_its_error_and_when_it_goes_on(unlucky, caplog):
    caplog.set_level(logging.DEBUG, logger="standfast.coordination")
    process = Store().process(Scripted("a", runs_then_fails, works))
    async with process.running(drain=0.0):
        await until(lambda: process.states == {"a": "restarting"})
        (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert isinstance(record.exc_info[1], OSError)
        await until(lambda: process.states == {"a": "running"})
        assert said(caplog) == [
            ("DEBUG", "service 'a': running"),
            ("DEBUG", "service 'a': restarting"),
            ("ERROR", "service 'a' failed; beginning again in 0.2 s"),
            ("DEBUG", "service 'a': starting"),
            ("DEBUG", "service 'a': running"),
        ]
    assert said(caplog) == [("DEBUG", f"service 'a': {one}") for one in ("draining", "stopped")]


@virtually
async def test_a_lost_lease_is_told_and_that_there_is_another(caplog):
    caplog.set_level(logging.INFO, logger="standfast.coordination")
    store = Store()
    service = Scripted("a")
    process = store.process(service)
    async with process.running():
        await store.take_away(process.membership.token)
        await until(lambda: len(service.duties) == 2, within=LEASE)
        why = "it was paused, blocked or cut off for over 2 s"
        assert said(caplog) == [
            (
                "ERROR",
                f"this process's lease was lost ({why}): what it had in hand went to others",
            ),
            ("INFO", "this process has a lease again: its services begin anew"),
        ]


@virtually
async def test_what_a_beat_does_besides_is_told_when_it_fails_and_when_it_goes_again(caplog):
    process = Store().process(Scripted("a"))
    async with process.running() as supervisor:
        assert supervisor.store_answers
        process.port.away.add("expire")
        await asyncio.sleep(5 * BEAT + 0.1)
        assert not supervisor.store_answers
        assert said(caplog) == [
            ("ERROR", "can't reach the store for the leases of others: no expire now")
        ]
        process.port.away.clear()
        await asyncio.sleep(BEAT)
        assert supervisor.store_answers
        assert said(caplog) == [
            ("WARNING", "the store tells of the leases of others again, after 5s")
        ]
        process.membership._keep_time = lambda: 1 / 0
        await asyncio.sleep(BEAT)
        (record,) = caplog.records
        assert record.getMessage() == "looking after the leases of others failed"
        assert isinstance(record.exc_info[1], ZeroDivisionError)


@virtually
async def test_that_it_cant_be_told_how_services_stand_is_told_once_where_nothing_else_is(caplog):
    process = Store().process(Scripted("a", runs_then_fails, works))
    untold = ("WARNING", "how the services stand couldn't be told: no annotate now")
    async with process.running() as supervisor:
        process.port.away.add("annotate")
        await until(lambda: process.states == {"a": "restarting"})
        await asyncio.sleep(0.001)
        assert untold in said(caplog)
        await asyncio.sleep(2 * BEAT)
        assert not supervisor.store_answers, "the note is told with a beat, too"
        assert said(caplog)
        supervisor.changed()
        await asyncio.sleep(0.001)
        assert said(caplog) == []


@virtually
async def test_what_isnt_done_or_doesnt_heed_is_told_with_where_it_stands(caplog):
    process = Store().process(Scripted("late", hangs), Scripted("deaf", deaf(600.0)))
    await process.supervisor.start()
    await process.supervisor.stop(1.0)
    told = said(caplog)
    assert [one for one in told if "deaf" not in one[1].splitlines()[0]] == [
        ("WARNING", "service 'late' isn't done in time: cut off")
    ]
    isnt_done, heedless = [one for one in told if "deaf" in one[1].splitlines()[0]]
    assert isnt_done == ("WARNING", "service 'deaf' isn't done in time: cut off")
    assert heedless[0] == "ERROR"
    first, *where = heedless[1].splitlines()
    assert first == (
        "service 'deaf' doesn't heed its cancellation: going on without it. It is here:"
    )
    assert "await asyncio.sleep(left)" in "".join(where)
