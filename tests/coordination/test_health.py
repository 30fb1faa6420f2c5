"""Whether a process lives and works, as a table; and what the watchdog and the heart tell of it."""

import asyncio
import time
from dataclasses import replace

import pytest

from standfast.backends.memory import MemoryDatabase
from standfast.clock import SYSTEM_CLOCK
from standfast.coordination.health import Facts, liveness, patience, readiness
from standfast.coordination.lifecycle import ServiceStatus
from standfast.coordination.membership import Membership
from standfast.coordination.supervisor import Supervisor
from standfast.coordination.watchdog import Watchdog
from standfast.errors import StoreUnavailable
from standfast.ports.leases import LeaseStore
from tests.saga.engine.world import until

WELL = Facts(
    lease=10.0,
    has_begun=True,
    is_stopping=False,
    blocked_for=0.0,
    is_beating=True,
    beat_age=2.0,
    lease_held=True,
    store_answers=True,
    services=(ServiceStatus("sagas", "running", 0.0),),
)
ABOUT_TO = replace(
    WELL, has_begun=False, is_beating=False, lease_held=False, store_answers=False, services=()
)


def service(state, error=""):
    return (ServiceStatus("sagas", state, 0.0, error=error),)


@pytest.mark.parametrize(
    ("changed", "bad", "reason"),
    [
        ({}, None, ""),
        ({"blocked_for": 5.0}, None, ""),
        ({"blocked_for": 5.1}, "loop", "the event loop hasn't run for 5.1 s, over half the lease"),
        ({"is_beating": False}, "beat", "the heartbeat has ended"),
        ({"beat_age": 60.0}, None, ""),
        ({"beat_age": 61.0}, "beat", "the heart hasn't beaten for 61 s"),
        ({"beat_age": 100.0, "lease": 30.0}, None, ""),
        # A restart brings no database back, and no lease.
        ({"store_answers": False, "lease_held": False}, None, ""),
        ({"services": service("restarting", "OSError: x")}, None, ""),
        ({"is_stopping": True, "is_beating": False, "beat_age": 900.0}, None, ""),
        ({"is_stopping": True, "blocked_for": 6.0}, "loop", "hasn't run for 6.0 s"),
        ({"hindrances": {"sagas": "no thread"}}, "service:sagas", "no thread"),
        ({"hindrances": {"sagas": "no thread"}, "is_stopping": True}, None, ""),
    ],
)
def test_a_process_lives(changed, bad, reason):
    assert_is(liveness(replace(WELL, **changed)), bad, reason)


@pytest.mark.parametrize(
    ("changed", "bad", "reason"),
    [
        ({}, None, ""),
        ({"lease_held": False}, "lease", "isn't surely held"),
        ({"store_answers": False}, "store", "the last beat didn't reach the store"),
        ({"beat_age": 10.0}, None, ""),
        ({"beat_age": 10.1}, "store", "no beat has ended for 10.1 s"),
        ({"services": service("standing_by")}, None, ""),
        ({"services": service("starting")}, "service:sagas", "starting"),
        (
            {"services": service("restarting", "OSError: the disk is gone")},
            "service:sagas",
            "restarting after OSError: the disk is gone",
        ),
        ({"services": service("stopped")}, "service:sagas", "stopped"),
        ({"is_stopping": True}, "process", "draining"),
    ],
)
def test_a_process_works(changed, bad, reason):
    assert_is(readiness(replace(WELL, **changed)), bad, reason)


def assert_is(report, bad, reason):
    assert [one.name for one in report.checks if not one.ok] == ([] if bad is None else [bad])
    assert report.ok is (bad is None)
    assert all(one.reason for one in report.checks)
    if bad is not None:
        (told,) = [one.reason for one in report.checks if not one.ok]
        assert reason in told


def test_one_that_is_about_to_begin_lives_but_does_not_work_yet():
    assert liveness(ABOUT_TO).ok
    assert_is(readiness(ABOUT_TO), "process", "it is starting")


def test_each_service_is_told():
    both = (ServiceStatus("a", "running", 0.0), ServiceStatus("b", "draining", 0.0))
    report = readiness(replace(WELL, services=both))
    assert [(one.name, one.ok) for one in report.checks[2:]] == [
        ("service:a", True),
        ("service:b", False),
    ]


@pytest.mark.parametrize(("lease", "seconds"), [(1.0, 60.0), (10.0, 60.0), (60.0, 360.0)])
def test_a_beat_may_wait_long_for_a_store(lease, seconds):
    assert patience(lease) == seconds


async def test_the_watchdog_knows_for_how_long_the_loop_is_blocked():
    watchdog = Watchdog(0.4)
    assert watchdog.blocked_for == 0.0
    watchdog.start(asyncio.get_running_loop())
    try:
        for _ in range(2):
            await until(lambda: watchdog.blocked_for < 0.05)
            time.sleep(0.6)
            assert 0.3 < watchdog.blocked_for < 5.0
    finally:
        watchdog.stop()
    await until(lambda: watchdog.blocked_for == 0.0)


async def test_the_watchdog_remembers_for_a_while_that_the_loop_was_blocked():
    watchdog = Watchdog(0.4)
    watchdog.start(asyncio.get_running_loop())
    try:
        assert watchdog.blocked_lately() == 0.0
        time.sleep(0.4)
        await until(lambda: watchdog.blocked_lately() > 0.1)
        await until(lambda: watchdog.blocked_lately() == 0.0)
    finally:
        watchdog.stop()


async def test_a_loop_that_stays_blocked_is_told_once_a_lease(caplog):
    watchdog = Watchdog(0.8)
    watchdog.start(asyncio.get_running_loop())
    try:
        time.sleep(1.7)  # a quarter of a lease until the first word, and one lease to each other
    finally:
        watchdog.stop()
    told = [r for r in caplog.records if "the event loop hasn't run for" in r.getMessage()]
    assert 2 <= len(told) <= 3, "no more, though this machine be slow"


class _Idle:
    name = "idle"
    exclusive = False

    async def run(self, duty):
        duty.ready()
        await duty.stopping.wait()


async def test_the_heart_tells_when_it_beat_last(monkeypatch):
    database = MemoryDatabase()
    await database.open()
    leases = database.port(LeaseStore)
    membership = Membership(leases, clock=SYSTEM_CLOCK, lease=0.4)
    supervisor = Supervisor(membership, [_Idle()], clock=SYSTEM_CLOCK)
    assert (supervisor.has_begun, supervisor.is_beating, supervisor.beat_age) == (False, False, 0.0)
    await supervisor.start()
    try:
        assert (supervisor.has_begun, supervisor.is_beating) == (True, True)
        await asyncio.sleep(0.5)
        assert supervisor.beat_age < 0.4

        async def away(tokens, *, ttl):
            raise StoreUnavailable("gone")

        monkeypatch.setattr(leases, "renew", away)
        await asyncio.sleep(0.5)
        assert supervisor.beat_age < 0.4  # it beats on
        assert not supervisor.store_answers
        monkeypatch.undo()
    finally:
        await supervisor.stop(1.0)
    assert (supervisor.is_stopping, supervisor.is_beating) == (True, False)
    await database.close()
