"""The barrier in a participant's own tables: duplicates, null compensation, hanging."""

import asyncio

import pytest

from standfast import Barrier, BranchKey, Standfast, barrier
from standfast.coordination.service import ServiceOptions
from standfast.errors import CodecError, ConfigurationError, MigrationNeeded, StoreError
from standfast.testing import ManualClock

DO, UNDO = BranchKey("saga-1:charge"), BranchKey("saga-1:charge", "compensation")


@pytest.fixture
async def shop(durable_url):
    async with Standfast(durable_url, migrate=True).add(Barrier()) as app:
        async with app.transaction() as tx:
            await tx.execute("CREATE TABLE effects (what text)")
        yield app


async def come(shop, key, result=None, fails=False):
    """One message arrives at the participant."""
    async with shop.transaction() as tx, barrier(tx, key) as gate:
        if gate.first:
            await tx.execute("INSERT INTO effects (what) VALUES ($1)", key.operation)
            gate.result = result
            if fails:
                raise ZeroDivisionError
    return gate


async def effects(shop):
    async with shop.transaction() as tx:
        return [row[0] for row in await tx.fetch("SELECT what FROM effects")]


async def test_a_duplicate_does_nothing_and_gets_the_first_ones_result(shop):
    first = await come(shop, DO, {"receipt": 7})
    again = await come(shop, DO, {"receipt": 8})
    assert (first.first, first.why, first.result) == (True, "", {"receipt": 7})
    assert (again.first, again.why, again.result) == (False, "duplicate", {"receipt": 7})
    assert await effects(shop) == ["action"]


async def test_undone_once_and_only_after_it_was_done(shop):
    await come(shop, DO)
    assert (await come(shop, UNDO)).first
    assert (await come(shop, UNDO)).why == "duplicate"
    assert await effects(shop) == ["action", "compensation"]


async def test_null_compensation_then_hanging(shop):
    assert (await come(shop, UNDO)).why == "nothing_to_undo"
    assert (await come(shop, DO)).why == "already_undone"
    assert (await come(shop, UNDO)).why == "duplicate"
    assert await effects(shop) == []


async def test_a_failure_inside_leaves_no_mark(shop):
    with pytest.raises(ZeroDivisionError):
        await come(shop, DO, fails=True)
    assert (await come(shop, DO)).first
    with pytest.raises(CodecError):
        await come(shop, BranchKey("other"), result=object())
    assert (await come(shop, BranchKey("other"))).first
    assert await effects(shop) == ["action", "action"]


async def test_one_that_is_caught_inside_the_transaction_has_done_nothing(shop):
    """A handler that turns an error into an answer, and commits."""
    for _ in range(2):
        async with shop.transaction() as tx:
            await tx.execute("INSERT INTO effects (what) VALUES ('before')")
            try:
                async with barrier(tx, DO) as gate:
                    await tx.execute("INSERT INTO effects (what) VALUES ('half')")
                    raise ZeroDivisionError
            except ZeroDivisionError:
                await tx.execute("INSERT INTO effects (what) VALUES ('refused')")
        assert gate.first
    assert (await come(shop, UNDO)).why == "nothing_to_undo"
    assert await effects(shop) == ["before", "refused"] * 2


async def test_one_whose_statement_failed_and_was_caught_has_done_nothing(shop):
    async with shop.transaction() as tx:
        try:
            async with barrier(tx, DO):
                await tx.execute("INSERT INTO effects (what) VALUES ('half')")
                await tx.execute("INSERT INTO nowhere VALUES (1)")
        except StoreError:
            await tx.execute("INSERT INTO effects (what) VALUES ('refused')")
    assert (await come(shop, DO)).first
    assert await effects(shop) == ["refused", "action"]


async def test_a_deadline_inside_the_transaction_leaves_no_mark(shop):
    async with shop.transaction() as tx:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), barrier(tx, DO):
                await asyncio.Event().wait()
    assert (await come(shop, DO)).first


async def test_at_once_only_one_gets_through(shop):
    gates = await asyncio.gather(*(come(shop, key) for key in [DO, UNDO] * 10))
    did = [key.operation for key, gate in zip([DO, UNDO] * 10, gates, strict=True) if gate.first]
    assert did in ([], ["action"], ["action", "compensation"])
    assert sorted(await effects(shop)) == sorted(did)


async def test_branches_dont_know_each_other(shop):
    assert (await come(shop, DO)).first
    assert (await come(shop, BranchKey("saga-2:charge"))).first
    assert BranchKey.from_headers(UNDO.headers()) == UNDO


async def test_marks_are_purged_in_batches_and_it_is_told_how_far(durable_url):
    """Each batch was told, so `standfast purge-marks` said how many the last one had."""
    pattern = Barrier()
    async with Standfast(durable_url, migrate=True).add(pattern) as app:
        for number in range(5):
            async with app.transaction() as tx, barrier(tx, BranchKey(f"saga-{number}:charge")):
                pass
        assert await pattern.count(older_than="0s") == 5
        assert [done async for done in pattern.purge(older_than="1h", batch=2)] == []
        assert [done async for done in pattern.purge(older_than="0s", batch=2)] == [2, 4, 5]
        assert await pattern.count(older_than="0s") == 0


class Branch:
    branch_key = UNDO


async def test_the_result_of_an_undo_is_kept_too_and_none_is_a_result_that_is_empty():
    async with Standfast("memory://").add(Barrier()) as app:

        async def once(branch, result):
            async with app.transaction() as tx, barrier(tx, branch) as gate:
                if gate.first:
                    gate.result = result
            return (gate.first, gate.why, gate.result)

        assert await once(DO, 0) == (True, "", 0)
        assert await once(DO, 1) == (False, "duplicate", 0)
        assert await once(Branch(), {"refund": 8}) == (True, "", {"refund": 8})
        assert await once(UNDO, 9) == (False, "duplicate", {"refund": 8})
        assert await once(DO, 1) == (False, "duplicate", 0), "late, but it was done"
        other = BranchKey("saga-2:charge")
        assert await once(other, None) == (True, "", None)
        assert await once(other, 1) == (False, "duplicate", None)


async def test_marks_have_the_age_that_the_clock_says_and_are_kept_for_long_enough():
    pattern, clock = Barrier(), ManualClock(wall=1000.0)
    app = Standfast("memory://").add(pattern)
    for ask in (pattern.count, lambda **age: anext(pattern.purge(**age))):
        with pytest.raises(ConfigurationError, match="the app isn't open"):
            await ask(older_than="1s")
    async with app:
        async with app.transaction() as tx:
            async with barrier(tx, DO, clock=clock):
                pass
            async with barrier(tx, BranchKey("saga-2:charge")):
                pass
        assert [await pattern.marks.count(before=at) for at in (1000.0, 1000.1)] == [0, 1]
        assert await pattern.count(older_than="30d") == 1
        with pytest.raises(ConfigurationError, match="older_than=30: give 30 a unit"):
            await pattern.count(older_than=30)
    for kept_for, why in (("0s", "more than zero"), ("40000d", "Give None to keep for ever")):
        with pytest.raises(ConfigurationError, match=why):
            Barrier(kept_for=kept_for)
    assert pattern.services(ServiceOptions()) == ()


async def test_without_its_table_it_says_what_is_missing(tmp_path):
    async with Standfast(f"sqlite:///{tmp_path}/app.db") as app, app.transaction() as tx:
        with pytest.raises(MigrationNeeded, match=r"app\.add\(Barrier\(\)\) brings it"):
            async with barrier(tx, DO):
                raise AssertionError
