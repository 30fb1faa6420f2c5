"""A process's leases: renewed in one go, trusted by the clock, lost, given up; and their note."""

import asyncio
import json

import pytest

from standfast.coordination.membership import MEMBER, Membership
from standfast.errors import StoreUnavailable
from standfast.ports.leases import kinds_of
from tests.coordination.disk import on_sqlite
from tests.coordination.world import BEAT, LEASE, Store, clock, virtually

HOLDS = LEASE - BEAT


@virtually
async def test_a_member_is_seen_by_all():
    store = Store()
    membership, _ = store.membership()
    assert not membership.is_held
    token = await membership.join()
    assert token == membership.token
    assert membership.is_held
    ((name, lease),) = [(one.name, one) for one in await store.leases.leases()]
    assert name.startswith(MEMBER)
    assert (lease.token, lease.holder, lease.expires_in) == (token, "a", HOLDS)
    await membership.leave()
    assert (await store.held(), membership.token, membership.is_held) == ({}, None, False)


@virtually
async def test_two_of_one_name_are_two():
    """Names are for people: two processes may have the same."""
    store = Store()
    (one, _), (other, _) = store.membership("same"), store.membership("same")
    assert await one.join() < await other.join()
    assert [await one.check(), await other.check()] == [True, True]
    await one.leave()
    assert await other.check()


@virtually
async def test_many_leases_are_renewed_in_one_call():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    for number in range(50):
        assert await membership.hold(f"partition:{number}") is not None
    await asyncio.sleep(HOLDS - 0.1)
    assert await membership.check()
    assert port.calls["renew"] == 1
    held = await store.leases.leases()
    assert len(held) == 51
    assert {lease.expires_in for lease in held} == {HOLDS}


@virtually
async def test_it_is_held_only_for_as_long_as_it_surely_is():
    """By monotonic time, from when it was asked for: others may have it a moment later."""
    store = Store()
    membership, port = store.membership()

    async def slow() -> None:
        await asyncio.sleep(1.0)

    port.behind["acquire"] = slow
    await membership.join()
    assert membership.sure_until == HOLDS, "the answer took a second of it"
    await asyncio.sleep(HOLDS - 1.0 - 0.001)
    assert membership.is_held
    await asyncio.sleep(0.002)  # paused past the lease
    assert not membership.is_held
    assert membership.token is not None, "nobody has ended it yet"
    port.behind["renew"] = slow
    asked = clock().monotonic()
    assert await membership.check(), "so it may still be renewed"
    assert membership.is_held
    assert membership.sure_until == asked + HOLDS


@virtually
async def test_one_that_the_clock_was_set_back_for_isnt_trusted_for_longer():
    """Wall time plays no part in it."""
    store = Store()
    membership, _ = store.membership()
    await membership.join()
    store.clock.now = lambda: 0.0  # type: ignore[method-assign]
    await asyncio.sleep(HOLDS + 0.001)
    assert not membership.is_held


@virtually
async def test_a_store_that_is_away_doesnt_prolong_it():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    port.away.add("renew")
    await asyncio.sleep(1.0)
    with pytest.raises(StoreUnavailable):
        await membership.check()
    assert membership.is_held
    assert membership.sure_until == HOLDS
    await asyncio.sleep(HOLDS)
    assert not membership.is_held


@virtually
async def test_a_lost_one_isnt_held_any_more():
    store = Store()
    membership, _ = store.membership()
    await store.take_away(await membership.join())
    assert not await membership.check()
    assert not membership.is_held
    membership.forget()
    assert not await membership.check(), "and there is nothing to renew"
    second = await membership.join()
    assert membership.is_held
    assert second == membership.token


@virtually
async def test_the_answer_about_an_old_one_says_nothing_of_the_new():
    """A renewal is under way while it is lost and taken anew."""
    store = Store()
    membership, port = store.membership()
    first = await membership.join()

    async def meanwhile() -> None:
        port.behind.clear()
        membership.forget()
        await asyncio.sleep(1.0)
        await membership.join()

    port.behind["renew"] = meanwhile
    await membership.check()
    assert membership.token != first
    assert membership.sure_until == 1.0 + HOLDS, "as of its own asking"


@virtually
async def test_a_held_lease_is_one_process_s():
    store = Store()
    (one, _), (other, _) = store.membership("a"), store.membership("b")
    await one.join()
    await other.join()
    token = await one.hold("leader")
    assert token is not None
    assert await other.hold("leader") is None
    for _ in range(10):
        await asyncio.sleep(BEAT)
        assert [await one.check(), await other.check()] == [True, True]
        await other.tend()
    assert (await store.held())["leader"].token == token
    await one.let_go("leader")
    await one.let_go("leader")  # which it hasn't any more
    second = await other.hold("leader")
    assert second is not None
    assert second > token
    assert one.take_lost() == other.take_lost() == []


@virtually
async def test_a_lost_lease_is_told_once():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    tokens = {name: await membership.hold(name) for name in ("x", "y", "z")}
    await store.take_away(tokens["x"])
    await store.take_away(tokens["z"])
    assert membership.take_lost() == [], "it doesn't know yet"
    assert await membership.check(), "the membership stands"
    assert sorted(membership.take_lost()) == ["x", "z"]
    assert membership.take_lost() == []
    assert await membership.check()
    assert membership.take_lost() == []
    assert set(await store.held()) == {f"{MEMBER}a", "y"}
    port.calls.clear()
    await membership.let_go("x")
    assert not port.calls, "there is nothing to give up"
    assert await membership.hold("x") is not None, "and it may be taken again"


@virtually
async def test_one_that_was_let_go_or_taken_anew_meanwhile_isnt_told_as_lost():
    """A renewal is under way that finds the old one gone."""
    store = Store()
    membership, port = store.membership()
    await membership.join()
    for name in ("gone", "anew"):
        await store.take_away(await membership.hold(name))

    async def meanwhile() -> None:
        await membership.let_go("gone")
        await membership.let_go("anew")
        assert await membership.hold("anew") is not None

    port.behind["renew"] = meanwhile
    assert await membership.check()
    port.behind.clear()
    assert membership.take_lost() == []
    assert await membership.check()
    assert membership.take_lost() == []
    assert set(await store.held()) == {f"{MEMBER}a", "anew"}


@virtually
async def test_what_was_lost_with_the_membership_isnt_told_under_the_next():
    """By then it may have been taken anew."""
    store = Store()
    membership, _ = store.membership()
    token = await membership.join()
    await store.take_away(await membership.hold("x"))
    await store.take_away(token)
    assert not await membership.check()
    membership.forget()
    await membership.join()
    assert await membership.hold("x") is not None
    assert membership.take_lost() == []


@virtually
async def test_leaving_gives_all_up_in_one_call():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    for name in "xyz":
        await membership.hold(name)
    await membership.leave()
    assert (port.calls["release"], await store.held()) == (1, {})
    await membership.leave()
    assert not await membership.check()


@virtually
async def test_what_cant_be_given_up_runs_out(caplog):
    store = Store()
    (membership, port), (other, _) = store.membership("a"), store.membership("b")
    await membership.join()
    await membership.hold("x")
    port.away.add("release")
    await membership.let_go("x")
    await membership.leave()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert all("will run out: no release now" in r.getMessage() for r in caplog.records)
    assert not membership.is_held
    await other.join()
    assert await other.hold("x") is None
    await asyncio.sleep(HOLDS)
    assert await other.hold("x") is not None


@virtually
async def test_the_dead_are_ended_and_that_is_told():
    store = Store()
    (one, _), (dead, _) = store.membership("a"), store.membership("dead")
    await one.join()
    await dead.join()
    told: list[str] = []
    end = one.on_takeover(lambda: told.append("first"))
    one.on_takeover(lambda: told.append("second"))
    for _ in range(4):
        await asyncio.sleep(BEAT)
        assert await one.check()
        await one.tend()
    assert told == ["first", "second"]
    assert set(await store.held()) == {f"{MEMBER}a"}
    end()
    end()
    await dead.join()
    await asyncio.sleep(HOLDS)
    await one.tend()
    assert told == ["first", "second", "second"]


@virtually
async def test_time_is_kept_with_every_beat():
    store = Store()
    kept: list[float] = []

    async def keep_time() -> None:
        kept.append(clock().monotonic())

    membership = Membership(store.leases, clock=store.clock, lease=LEASE, keep_time=keep_time)
    await membership.join()
    await membership.tend()
    await asyncio.sleep(BEAT)
    await membership.tend()
    assert kept == [0.0, BEAT]
    assert membership.beats_every == BEAT


# -- the note ------------------------------------------------------------------------------------


@virtually
async def test_a_note_is_kept_and_only_changes_are_written():
    store = Store()
    membership, port = store.membership()
    await membership.tell(place="here")
    assert not port.calls, "before it joins there is nowhere to write"
    await membership.join()
    assert await store.note() == {"place": "here"}
    await membership.can_run("sagas", [("saga", "order", 1), ("saga", "order", 2)])
    await membership.can_run("tcc", [("tcc", "pay", 1)])
    every = [["saga", "order", 1], ["saga", "order", 2], ["tcc", "pay", 1]]
    assert await store.note() == {"place": "here", "kinds": every}
    assert port.calls["annotate"] == 2
    await membership.can_run("tcc", [("tcc", "pay", 1)])
    await membership.tell(place="here")
    assert port.calls["annotate"] == 2
    await membership.can_run("sagas", [])
    assert (await store.note())["kinds"] == [["tcc", "pay", 1]]


@virtually
async def test_a_new_lease_begins_with_the_note():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    await membership.can_run("sagas", [("saga", "order", 1)])
    await store.take_away(membership.token)
    membership.forget()
    await membership.tell(place="there")
    port.calls.clear()
    await membership.join()
    assert await store.note() == {"kinds": [["saga", "order", 1]], "place": "there"}
    assert port.calls == {"expire": 1, "acquire": 1}


@virtually
async def test_what_couldnt_be_told_is_told_the_next_time():
    """Or else others would think for ever that nobody has these kinds."""
    store = Store()
    membership, port = store.membership()
    await membership.join()
    port.away.add("annotate")
    with pytest.raises(StoreUnavailable):
        await membership.can_run("sagas", [("saga", "order", 1)])
    port.away.clear()
    await membership.can_run("sagas", [("saga", "order", 1)])
    assert await store.note() == {"kinds": [["saga", "order", 1]]}


@virtually
async def test_the_last_told_is_the_last_written():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    waits = iter([3.0, 2.0, 1.0])

    async def slow() -> None:
        await asyncio.sleep(next(waits))

    port.before["annotate"] = slow
    await asyncio.gather(*(membership.tell(number=number) for number in range(3)))
    assert await store.note() == {"number": 2}


@virtually
async def test_what_is_told_while_it_joins_is_not_lost():
    store = Store()
    membership, port = store.membership()

    async def meanwhile() -> None:
        await membership.tell(place="here")

    port.behind["acquire"] = meanwhile
    await membership.join()
    await membership.tell(place="here")
    assert await store.note() == {"place": "here"}


# -- with a store on disk ------------------------------------------------------------------------


@pytest.mark.timeout(30)
async def test_two_processes_and_one_lease_on_sqlite(tmp_path):
    """In real time: one is late by half a lease and keeps it, one is dead and loses it."""
    async with on_sqlite(tmp_path, 2, lease=1.0) as (late, other):
        await late.join()
        await other.join()
        token = await late.hold("leader")
        assert await other.hold("leader") is None
        await asyncio.sleep(0.5)
        assert await other.check()
        await other.tend()
        assert await late.check()
        assert late.take_lost() == []
        await other.check()
        async with asyncio.timeout(10):
            while (taken := await other.hold("leader")) is None:
                await other.check()
                await other.tend()
                await asyncio.sleep(0.05)
        assert token is not None
        assert taken > token
        assert not late.is_held
        assert not await late.check()
        assert late.take_lost() == ["leader"]
        names = {lease.holder: json.loads(lease.note) for lease in await late.leases.leases(MEMBER)}
        assert names == {"1": {}}
        await other.leave()


@virtually
@pytest.mark.parametrize("asks", ["join", "hold"])
async def test_who_asks_for_a_lease_tells_of_the_dead_whose_leases_that_ends(asks, caplog):
    store = Store()
    membership, _ = store.membership()
    acted = []
    membership.on_takeover(lambda: acted.append("now"))
    await store.leases.acquire(["member:dead", "service:x"], "dead", ttl=1.0)
    await asyncio.sleep(2.0)
    if asks == "join":
        await membership.join()
    else:
        assert await membership.hold("service:x") is not None
    assert acted == ["now"]
    (told,) = [r for r in caplog.records if "took over from the dead" in r.getMessage()]
    assert "2 lease(s) ran out" in told.getMessage()


# -- which kinds a process has -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "kinds"),
    [
        ('{"kinds": [["saga", "order", 1], ["saga", "pay", 2]]}',
         [("saga", "order", 1), ("saga", "pay", 2)]),
        ('{"kinds": [["saga", "order", 1, "of a newer release"]]}', [("saga", "order", 1)]),
        ('{"kinds": [["saga", "order"], [7, "order", 1], ["saga", "order", "1"], "saga", 7]}', []),
        ('{"kinds": [["saga", ["order"], 1], ["saga", "order", 1.5], [], null]}', []),
        ('{"kinds": "saga"}', []),
        ('{"kinds": null}', []),
        ("{}", []),
        ("[]", []),
        ("7", []),
        ("no json", []),
        ("", []),
    ],
)  # fmt: skip
def test_of_a_note_is_taken_what_can_be_read(note, kinds):
    assert kinds_of(note) == kinds


@virtually
async def test_what_all_services_can_run_is_told_together():
    store = Store()
    membership, port = store.membership()
    await membership.join()
    order, pay, gone = ("saga", "order", 1), ("saga", "pay", 1), ("saga", "gone", 1)
    await membership.can_run("relay", [])
    assert await store.note() == {"kinds": []}
    await membership.can_run("sagas", [order, gone], {order: "aa", gone: "bb"}, {"saga": 1})
    await membership.can_run("others", [pay], None, {"other": 2})
    await membership.tell(up=True)
    assert await store.note() == {
        "kinds": [[*order], [*gone], [*pay]],
        "fingerprints": [[*order, "aa"], [*gone, "bb"]],
        "slots": {"saga": 1, "other": 2},
        "up": True,
    }
    written = port.calls["annotate"]
    await membership.can_run("others", [pay])
    assert port.calls["annotate"] == written, "nothing is new"
    await membership.can_run("sagas", [order], {order: "cc"}, {"saga": 3})
    assert await store.note() == {
        "kinds": [[*order], [*pay]],
        "fingerprints": [[*order, "cc"]],
        "slots": {"saga": 3, "other": 2},
        "up": True,
    }
    other, _ = store.membership("b")
    await other.join()
    assert [name for name, _ in await membership.others()] == ["b"]
    ((name, note),) = await other.others()
    assert (name, kinds_of(note)) == ("a", [order, pay])
