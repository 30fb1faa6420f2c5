"""The audit finds what it is there to find."""

import pytest

from tests.crash.voyage import ACTIONS
from tests.soak.load.audit import TOLD_AT_MOST, Ledgers, audit
from tests.soak.load.told import Told, cancelled, fails

GOOD, BAD, CANCELLED = 1, 7, 11
Effects = list[tuple[str, str, str]]


def effects(number: int, *operations: str, end: bool = False) -> Effects:
    found = [(str(number), branch, word) for branch in sorted(ACTIONS) for word in operations]
    return [*found, (str(number), "end", "action")] if end else found


DONE = effects(GOOD, "action", end=True)
UNDONE = effects(BAD, "action", "compensation")


def books(number: int, outcome: str, found: Effects, stamps: int = 1):
    told = Told({number}, {number}, {number: outcome})
    return audit(told, Ledgers(found, [str(number)] * stamps))


def test_the_numbers_are_what_they_are_for():
    assert not fails(GOOD)
    assert not cancelled(GOOD)
    assert fails(BAD)
    assert not cancelled(BAD)
    assert cancelled(CANCELLED)
    assert not fails(CANCELLED)


@pytest.mark.parametrize(
    ("number", "outcome", "found", "stamps"),
    [
        (GOOD, "completed", DONE, 1),
        (BAD, "compensated", UNDONE, 1),
        (CANCELLED, "completed", effects(CANCELLED, "action", end=True), 1),
        (CANCELLED, "compensated", effects(CANCELLED, "action", "compensation")[:6], 0),
        (CANCELLED, "compensated", [], 0),
    ],
)
def test_what_is_right_is_left_alone(number, outcome, found, stamps):
    assert books(number, outcome, found, stamps).faults == []


@pytest.mark.parametrize(
    ("number", "outcome", "found", "stamps", "which", "text"),
    [
        (GOOD, "completed", DONE[1:], 1, "lost", "no effect"),
        (GOOD, "completed", DONE[:-1], 1, "lost", "end: no effect"),
        (GOOD, "completed", DONE, 0, "lost", "transactional"),
        (BAD, "compensated", UNDONE[:-1], 1, "lost", "action"),
        (CANCELLED, "compensated", effects(CANCELLED, "action")[:1], 0, "lost", "action"),
        (GOOD, "completed", [*DONE, DONE[0]], 1, "doubled", "action, action"),
        (BAD, "compensated", [*UNDONE, UNDONE[1]], 1, "doubled", "compensation, compensation"),
        (GOOD, "completed", DONE, 2, "doubled", "2 times"),
        (GOOD, "completed", [*DONE, (str(GOOD), "room", "compensation")], 1, "wrong", "room"),
        (BAD, "compensated", [*UNDONE[2:], *UNDONE[1::-1]], 1, "wrong", "compensation, action"),
        (BAD, "compensated", [*UNDONE, (str(BAD), "end", "action")], 1, "lost", "end"),
        (GOOD, "compensated", UNDONE, 1, "wrong", "ended compensated"),
    ],
)
def test_what_is_not_is_found(number, outcome, found, stamps, which, text):
    faults = getattr(books(number, outcome, found, stamps), which)
    assert any(text in fault for fault in faults), faults


def test_a_saga_that_never_ended_is_lost():
    assert audit(Told({1, 2}, {1, 2}, {}), Ledgers([], [])).lost == [
        "saga 1 was started and never ended",
        "saga 2 was started and never ended",
    ]


def test_an_effect_of_a_saga_that_nobody_started_is_found():
    assert "99" in audit(Told(), Ledgers([("99", "room", "action")], [])).wrong[0]
    assert "98" in audit(Told(), Ledgers([], ["98"])).wrong[0]


def test_not_more_is_told_than_can_be_read():
    numbers = set(range(100))
    faults = audit(Told(numbers, numbers, {}), Ledgers([], [])).faults
    assert len(faults) == TOLD_AT_MOST + 1
    assert faults[-1] == "and 80 more"
