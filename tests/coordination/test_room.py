"""How many instances processes have room for, by what their notes tell."""

import json

import pytest

from standfast.coordination.room import Limits, Taken, limits, slots_note, told

KIND = ("saga", "order", 1)


def test_what_a_worker_tells_is_read_back():
    kinds = {KIND: 3, ("saga", "order", 2): 3, ("saga", "pay", 1): None}
    note = json.dumps({"slots": slots_note("saga", 100, kinds)})
    assert limits(note, KIND) == Limits(100, 3)
    assert limits(note, ("saga", "pay", 1)) == Limits(100, None)


@pytest.mark.parametrize(
    "note",
    [
        *("", "{}", "[]", "null", '{"slots": 7}', '{"slots": {"saga": 7}}'),
        '{"slots": {"saga": {"total": "7", "own": {}}}}',
        '{"slots": {"saga": {"total": 7, "own": []}}}',
        '{"slots": {"saga": {"total": 7, "own": {"order": "x"}}}}',
    ],
)
def test_a_note_of_another_release_tells_nothing(note):
    assert limits(note, KIND) is None


FREE = Taken(Limits(3, None), 2)
FULL = Taken(Limits(3, None), 3)
FULL_OF_NAME = Taken(Limits(9, 2), 5, 2)


@pytest.mark.parametrize(
    ("processes", "why"),
    [
        ([], ""),
        ([FREE], ""),
        ([FULL, FREE], ""),
        ([FULL], "3 of max_in_flight=3 are taken"),
        ([FULL_OF_NAME], "2 of max_in_flight=2 are taken (the limit of 'order')"),
        ([FULL, FULL], "6 of 6 are taken in 2 processes (max_in_flight)"),
        ([FULL, FULL_OF_NAME], "5 of 5 are taken in 2 processes (max_in_flight of 'order')"),
    ],
)
def test_only_where_no_process_has_a_slot_all_wait_for_one(processes, why):
    assert told("order", processes) == why
