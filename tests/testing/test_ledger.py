"""A `Ledger` answers the three anomalies as a participant with a barrier does."""

from __future__ import annotations

import pytest

from standfast import BranchKey, Refused
from standfast.testing import Ledger
from standfast.testing.ledger import watching

DO, UNDO = BranchKey("saga:reserve"), BranchKey("saga:reserve", "compensation")


async def test_a_duplicate_takes_effect_once_and_is_answered_alike():
    ledger = Ledger("stock")
    first = await ledger.post(DO, 3)
    assert await ledger.post(DO, 3) == first == "stock-1"
    assert ledger.total == 3
    await ledger.reverse(UNDO)
    await ledger.reverse(UNDO)
    assert ledger.total == 0
    assert ledger.entries[DO.key].reversed == 1


async def test_an_undo_of_nothing_is_nothing_and_what_comes_after_it_is_refused():
    ledger = Ledger()
    await ledger.reverse(UNDO)
    assert ledger.total == 0
    with pytest.raises(Refused, match="has been undone already"):
        await ledger.post(DO)
    assert ledger.entries == {}


async def test_beyond_its_limit_it_refuses():
    ledger = Ledger("stock", limit=5)
    await ledger.post(DO, 3)
    with pytest.raises(Refused, match="stock: 3 asked, 2 left"):
        await ledger.post(BranchKey("other:reserve"), 3)
    await ledger.reverse(UNDO)
    assert await ledger.post(BranchKey("other:reserve"), 3) == "stock-2"


async def test_without_a_barrier_it_does_what_it_is_told():
    ledger = Ledger(barrier=False)
    await ledger.post(DO, 2)
    await ledger.post(DO, 2)
    assert ledger.total == 4
    await ledger.reverse(UNDO)
    assert ledger.total == 2
    assert repr(ledger) == "Ledger('ledger', total=2)"


async def test_a_ledger_is_watched_for_as_long_as_a_block_lasts():
    seen, ledger = [], Ledger("stock")

    async def use():
        with watching(seen.append):
            await ledger.post(DO, 3)
            raise KeyError("ends the block")

    with pytest.raises(KeyError):
        await use()
    assert set(map(id, seen)) == {id(ledger)}
    seen.clear()
    await ledger.reverse(UNDO)
    assert seen == []
