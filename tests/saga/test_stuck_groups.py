"""Errors that differ only in details are one; and what is stuck comes in groups."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.ids import new_id
from standfast.ports.journal import Instance
from standfast.saga.stuck_groups import LONGEST, grouped, normalised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("OSError: the bank is away", "OSError: the bank is away"),
        ("order 17 has 3.5 kg, not -2", "order <n> has <n> kg, not <n>"),
        ("no row 0192f3a4-7d10-7aaa-8bbb-0123456789ab", "no row <id>"),
        ("<X object at 0x7f3ab2c0>", "<X object at <hex>>"),
        ("commit deadbeef01 is unknown", "commit <hex> is unknown"),
        ("a decade of facade defaced", "a decade of facade defaced"),
        ("KeyError: 'order-17'", "KeyError: <value>"),
        ('no "rose" left, isn\'t it', "no <value> left, isn't it"),
        ("can't reach 'a' and won't", "can't reach <value> and won't"),
        ("since 2026-11-27T08:21:00.123Z, and 2026-11-27 08:21", "since <time>, and <time>"),
        ("at 08:21:00 it broke\nwith\ta tab", "at <time> it broke with a tab"),
        (
            "utf8 and h2 stay, 5s and 10.0.0.1:5432 don't",
            "utf8 and h2 stay, <n>s and <n>:<n> don't",
        ),
        ("pack[3]: too heavy", "pack[<n>]: too heavy"),
        ("", ""),
        ("\x1b[31mred\x1b[0m", "\\x1b[<n>mred\\x1b[<n>m"),
    ],
)
def test_what_differs_is_folded(error, expected):
    assert normalised(error) == expected


@given(st.text(), st.integers(), st.uuids(), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_and_ids_never_tell_errors_apart(text, number, id, other):
    assert normalised(f"{text} {number} of {id}") == normalised(
        f"{text} {number + 1} of {new_id()}"
    )
    assert "\n" not in normalised(text)
    assert len(normalised(text)) <= LONGEST
    assert normalised(f"it took {other}s") == "it took <n>s"


def row(cause: str, at: float = 0.0, **values: object) -> Instance:
    id = new_id()
    made = Instance(
        id,
        "saga",
        "order",
        1,
        str(id),
        "",
        "",
        "parked",
        "charge",
        cause,
        None,
        None,
        None,
        at,
        at,
        None,
    )
    return dataclasses.replace(made, **values)  # type: ignore[arg-type]


def test_groups_have_counts_the_oldest_and_an_example():
    oldest = row("charge: OSError: order 3 failed", 1.0)
    rows = [
        row("charge: OSError: order 1 failed", 5.0),
        oldest,
        row("charge: OSError: order 2 failed", 3.0),
        row("charge: OSError: order 2 failed", 9.0, step="ship"),
        row("charge: OSError: order 2 failed", 9.0, name="invoice"),
        row("undo of charge: away (compensating, for a 1)", 2.0, status="compensation_failed"),
        row("undo of charge: away (compensating, for b)", 4.0, status="compensation_failed"),
        row("charge: OSError: order 2 failed", 0.0, status="running"),
    ]
    first, second, *others = grouped(rows)
    assert (first.saga, first.step, first.status) == ("order", "charge", "parked")
    assert (first.count, first.since, first.example) == (3, 1.0, oldest.id)
    assert (first.error, first.cause) == (
        "charge: OSError: order <n> failed",
        "charge: OSError: order 3 failed",
    )
    assert (second.count, second.error, second.since) == (2, "undo of charge: away", 2.0)
    assert [one.count for one in others] == [1, 1]
    assert first.as_json()["example"] == str(oldest.id)
    assert grouped([]) == []
