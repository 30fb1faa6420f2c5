"""Two processes that have other code for the same kind are told of each other."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from standfast import Context, Saga, Standfast, step
from standfast.backends.memory import MemoryDatabase
from standfast.coordination.fingerprints import fingerprints, unlike
from standfast.saga.definition import Definition
from standfast.saga.plan import Plan, StepPlan
from tests.coordination.hands import ONE, TWO, Shop
from tests.coordination.world import Store, until, virtually
from tests.saga.classes import saga_class

ORDER, PAY = ("saga", "order", 1), ("saga", "pay", 2)


@pytest.mark.parametrize(
    "note",
    ["", "no json", "[]", "{}", '{"fingerprints": 5}', '{"fingerprints": [[1], "x", ["a", "b"]]}'],
)
def test_what_cant_be_read_of_a_note_is_left_out(note):
    assert fingerprints(note) == {}


def test_fingerprints_are_compared_by_kind():
    note = '{"fingerprints": [["saga", "order", 1, "aa"], ["saga", "other", 1, "bb"], [5]]}'
    assert fingerprints(note) == {ORDER: "aa", ("saga", "other", 1): "bb"}
    assert unlike({ORDER: "aa", PAY: "cc"}, fingerprints(note)) == []
    assert unlike({ORDER: "xx", PAY: "cc"}, fingerprints(note)) == [ORDER]


async def act(self: Any, order: int, ctx: Context) -> None: ...


def saga(*names: str, **options: Any) -> Saga[Any]:
    body = {name: step(no_compensation="none", **options)(act) for name in names}
    return saga_class(Saga[int], {"name": "order", **body})()


def test_a_fingerprint_is_of_what_a_journal_depends_on():
    def of(*steps: StepPlan) -> str:
        return Plan("order", 1, steps).fingerprint

    a = StepPlan("a", no_compensation="none")
    first = of(a)
    assert first == of(StepPlan("a", no_compensation="none", timeout=5.0, on_exhausted="park"))
    others = {
        of(StepPlan("b", no_compensation="none")),
        of(StepPlan("a", undo=True)),
        of(StepPlan("a", pivot=True, on_exhausted="park")),
        of(StepPlan("a", no_compensation="none", conditional=True)),
        of(StepPlan("a", no_compensation="none", fans_out=True)),
        of(StepPlan("a", form="wait", signal="x")),
        of(StepPlan("a", form="wait", signal="y")),
        of(a, StepPlan("b", no_compensation="none")),
        of(a, StepPlan("b", after=("a",), no_compensation="none")),
    }
    assert len(others | {first}) == 10


async def test_a_worker_warns_once_of_other_code_under_its_name(caplog):
    caplog.set_level(logging.WARNING, logger="standfast")
    database = MemoryDatabase()
    one, two = (Standfast(database).add(saga(*names)) for names in (("a",), ("a", "b")))
    async with one.running(name="one", drain=5):
        async with two.running(name="two", drain=5):
            pass
        warned = [r.getMessage() for r in caplog.records if "other steps here" in r.getMessage()]
        (said,) = warned
        assert "saga 'order' version 1 has other steps here than in one" in said
        assert Definition(saga("a")).plan.fingerprint in said
        assert Definition(saga("a", "b")).plan.fingerprint in said
        caplog.clear()
        same = Standfast(database).add(saga("a", timeout="5s"))
        async with same.running(name="three", drain=5):
            pass
        assert not [r for r in caplog.records if "other steps" in r.getMessage()]


@virtually
async def test_each_other_code_is_told_of_once(caplog):
    store = Store()
    shop = Shop(store)
    shop.hands.fingerprints = {ONE: "aa", TWO: "bb"}
    (token,) = await store.leases.acquire(["member:other"], "other", ttl=600.0)
    assert token is not None
    async with shop.running():
        for theirs, is_news in (("cc", True), ("cc", False), ("dd", True), ("cc", False)):
            note = {"fingerprints": [[*ONE, theirs], [*TWO, "bb"]]}
            await store.leases.annotate(token, json.dumps(note))
            caplog.clear()
            before = shop.token
            await store.take_away(before)
            await until(lambda before=before: shop.worker.owner == shop.token != before)
            said = [r.getMessage() for r in caplog.records if "other steps here" in r.getMessage()]
            assert len(said) == is_news
            assert all(f"(fingerprint aa, there {theirs})" in one for one in said)
