"""What a waiter makes of what it finds stored, as a table: every sight has its row."""

from itertools import product

import pytest

from standfast.saga.verdict import Sight, judge

# finished, readable, runnable_here, spoken_to: the verdict. `by_fact` only tells how the last two
# came about.
TABLE = {
    (True, True, False, False): "ended",
    (True, True, False, True): "ended",  # what is said to it now comes after its end
    (True, True, True, False): "ended",
    (True, True, True, True): "ended",
    (True, False, False, False): "unreadable",
    (True, False, False, True): "unreadable",
    (True, False, True, False): "unreadable",
    (True, False, True, True): "unreadable",
    (False, True, False, False): "stuck",
    (False, True, False, True): "wait",
    (False, True, True, False): "wait",
    (False, True, True, True): "wait",
    (False, False, False, False): "unreadable",
    (False, False, False, True): "wait",  # whoever has its version may move it
    (False, False, True, False): "wait",
    (False, False, True, True): "wait",
}


def test_the_table_is_complete():
    assert set(TABLE) == set(product((True, False), repeat=4))


@pytest.mark.parametrize("by_fact", [True, False])
@pytest.mark.parametrize(("seen", "verdict"), TABLE.items())
def test_verdict(seen, verdict, by_fact):
    finished, readable, runnable_here, spoken_to = seen
    assert judge(Sight(finished, readable, by_fact, runnable_here, spoken_to)) == verdict
