"""Which workers are alive, and what they have room for, as those see it who wait for results."""

from __future__ import annotations

import json
from typing import Any

from standfast.conformance.samples import passive, start
from standfast.coordination.membership import MEMBER
from standfast.ports.journal import JournalStore
from standfast.saga.workers import FRESH, SLOTS_FRESH, TELL_EVERY, Workers, is_due
from tests.coordination.hands import ONE, TWO
from tests.coordination.world import Port, Store, clock, virtually


class Scene:
    def __init__(self) -> None:
        self.store = Store()
        self.journal, self.leases = (
            Port(self.store.database.port(JournalStore)),
            Port(self.store.leases),
        )
        journal: Any = self.journal
        leases: Any = self.leases
        self.workers = Workers(leases, journal, clock())

    async def process(self, name: str, *kinds: Any, ttl: float = 600.0, **note: Any) -> int:
        told = json.dumps({"kinds": kinds, **note})
        (token,) = await self.store.leases.acquire([MEMBER + name], name, ttl=ttl, note=told)
        assert token is not None
        return token

    async def own(self, token: int, number: int, kind: tuple[str, str, int] = ONE) -> None:
        starts = [start(kind=kind) for _ in range(number)]
        await self.journal.inner.start(starts, owner=token)

    async def full(self, kind: tuple[str, str, int] = ONE) -> str:
        await clock().sleep(SLOTS_FRESH)
        row = start(kind=kind, wake_at=self.store.clock.now()).instance
        return await self.workers.full(row)


def slots(total: int, **own: int) -> dict[str, Any]:
    return {"slots": {"test": {"total": total, "own": own}}}


@virtually
async def test_holders_are_processes_and_one_whose_lease_ran_out_is_told_so():
    scene = Scene()
    lives, late = await scene.process("a", ONE), await scene.process("b", ttl=1.0)
    await scene.store.leases.acquire(["service:x"], "a", ttl=600.0)
    assert await scene.workers.holders() == {lives: "a", late: "b"}
    await clock().sleep(1.5)
    assert await scene.workers.holders() == {lives: "a", late: "b (lease ran out)"}


@virtually
async def test_who_has_a_kind_is_looked_up_once_in_a_while():
    scene = Scene()
    assert await scene.workers.lack(ONE)
    await scene.process("a", ONE)
    await scene.process("b", TWO, ttl=1.0)
    await clock().sleep(FRESH - 0.1)
    assert await scene.workers.lack(ONE), "as it was seen"
    assert scene.leases.calls["leases"] == 1
    await clock().sleep(0.1)
    assert not await scene.workers.lack(ONE)
    assert await scene.workers.lack(TWO), "its lease ran out"
    assert await scene.workers.lack(("test", "one", 2))
    assert scene.leases.calls["leases"] == 2


@virtually
async def test_that_nobody_has_a_kind_is_news_once_a_minute():
    workers = Scene().workers
    assert (workers.is_news(ONE), workers.is_news(ONE), workers.is_news(TWO)) == (True, False, True)
    await clock().sleep(TELL_EVERY - 0.1)
    assert not workers.is_news(ONE)
    await clock().sleep(0.1)
    assert (workers.is_news(ONE), workers.is_news(ONE)) == (True, False)


@virtually
async def test_only_what_is_due_and_has_no_owner_waits_for_a_slot():
    scene = Scene()
    token = await scene.process("a", ONE, **slots(1))
    await scene.own(token, 1)
    now = scene.store.clock.now()
    for changes, due in (
        ({"wake_at": now}, True),
        ({"wake_at": now - 5}, True),
        ({"wake_at": now + 1}, False),
        ({"wake_at": None}, False),
        ({"wake_at": now - 5, "owner": 7}, False),
    ):
        row = start(kind=ONE, **changes).instance
        assert is_due(row, now) == due
        assert bool(await scene.workers.full(row)) == due


@virtually
async def test_slots_are_taken_where_all_live_processes_that_have_the_kind_are_full():
    scene = Scene()
    assert await scene.full() == "", "nobody has it"
    first = await scene.process("a", ONE, TWO, **slots(2))
    await scene.own(first, 1)
    assert await scene.full() == ""
    await scene.own(first, 1, TWO)
    assert await scene.full() == "2 of max_in_flight=2 are taken"
    await scene.process("dead", ONE, ttl=0.5, **slots(9))
    await scene.process("else", TWO, **slots(9))
    assert await scene.full() == "2 of max_in_flight=2 are taken"
    assert await scene.full(TWO) == ""
    second = await scene.process("b", ONE, **slots(9, one=1))
    await scene.own(second, 1, TWO)
    assert await scene.full() == "", "of that name it has none"
    await scene.own(second, 1)
    why = "3 of 3 are taken in 2 processes (max_in_flight of 'one')"
    assert await scene.full() == why
    row = start(kind=ONE, wake_at=0.0).instance
    scene.leases.calls.clear()
    assert await scene.workers.full(row) == why
    assert not scene.leases.calls, "as it was counted just now"
    await scene.process("old", ONE)
    assert await scene.full() == "", "an older one says nothing of its slots"


@virtually
async def test_of_a_name_all_that_a_process_has_is_counted_and_nothing_else():
    scene = Scene()
    token = await scene.process("a", ONE, TWO, **slots(2000, one=600))
    await scene.own(token, 599)
    await scene.own(token, 5, TWO)
    await scene.own(token, 1, ("other", "one", 1))
    await passive(scene.store.database, kind=ONE)
    assert await scene.full() == ""
    await scene.own(token, 1, ("test", "one", 2))
    assert await scene.full() == "600 of max_in_flight=600 are taken (the limit of 'one')"
