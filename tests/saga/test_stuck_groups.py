"""Errors that differ only in details are one; and what is stuck comes in groups."""

import dataclasses
from ipaddress import IPv6Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import SagaNotFound
from standfast.ids import new_id
from standfast.ports.journal import Instance, Loaded
from standfast.saga.executor import SagaExecutor
from standfast.saga.registry import Definitions
from standfast.saga.stuck_groups import LONGEST, Grouping, grouped, normalised


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
            "utf8, db17, scan_12.pdf and a7b, 5s, 1h30m, 10-3, -3 and 10.0.0.1:5432",
            "utf<n>, db<n>, scan_<n>.pdf and a<n>b, <n>s, <n>h<n>m, <n>-<n>, <n> and <n>:<n>",
        ),
        ("pack[3]: too heavy", "pack[<n>]: too heavy"),
        ("\u202ered \x1b[31m7\x07, \\u202ered 7", "\\u202ered \\x1b[<n>m<n>\\x07, \\u202ered <n>"),
        ("", ""),
        ("SN0042/A17 for user17@example.com", "SN<n>/A<n> for user<n>@example.com"),
        ("order_0192f3a4-7d10-7aaa-8bbb-0123456789ab", "order_<id>"),
        ("backup_2026-11-27 of id_3fa9c2d1", "backup_<time> of id_<hex>"),
        ("from 00:1A:2b:3c:4d:5e and 00-1a-2b-3c-4d-5e", "from <id> and <id>"),
        ("[2001:db8::a]:80, fe80::1%eth0 and ::1: no", "[<id>]:<n>, <id>%eth<n> and <id>: no"),
        ("2001:db8:0:0:0:0:0:1 has no route", "<id> has no route"),
        ("std::error, a::b and pkg::v2", "std::error, a::b and pkg::v<n>"),
        ("01ARZ3NDEKTSV4RRFFQ69G5FAV or V1StGXR8_Z5jdHi6B-myT", "<id> or <id>"),
        ("pi_3MtwBwLkdIwHu7ix28a3tqPK, web-7d4bxc6f5d-x2x9z", "pi_<id>, web-<id>-<id>"),
        ("ord_qwertyu7asdfgh, 20261127T082100", "ord_<id>, <id>"),
        ("OAuth2TokenExpired: 640x480", "OAuth<n>TokenExpired: <n>x<n>"),
        ("\x1b[31mred\x1b[0m", "\\x1b[<n>mred\\x1b[<n>m"),
    ],
)
def test_what_differs_is_folded(error, expected):
    assert normalised(error) == expected


def test_the_version_that_is_needed_is_told():
    for version in (2, 3):
        cause = SagaExecutor.orphaned.cause.format(version=version, name="order-7")
        assert normalised(cause) == cause
    definitions = Definitions()
    with pytest.raises(SagaNotFound) as unknown:
        definitions.machine(Loaded(row(""), []))
    assert normalised(str(unknown.value)) == str(unknown.value)
    assert normalised("row 7 has version 12") == "row <n> has version <n>"


@pytest.mark.parametrize(
    "made",
    [
        lambda chance: f"SN{chance.randrange(10**6):04}",
        lambda chance: f"/tmp/upload/scan{chance.randrange(10**6)}.pdf",
        lambda chance: chance.randbytes(6).hex(":"),
        lambda chance: f"2001:db8::{chance.randrange(2**16):x}",
        lambda chance: IPv6Address(chance.randbytes(16)).compressed,
        lambda chance: "01" + "".join(chance.choices("0123456789ABCDEFGHJKMNPQRSTVWXYZ", k=24)),
    ],
)
def test_one_failure_of_many_is_one_group(made):
    chance = Random(7)
    assert {normalised(f"OSError: {made(chance)} is away") for _ in range(500)} <= {
        "OSError: SN<n> is away",
        "OSError: /tmp/upload/scan<n>.pdf is away",
        "OSError: <id> is away",
    }


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


def test_a_group_says_how_many_of_it_wait_for_a_worker():
    grouping = Grouping(now=10.0)
    for owner, wake_at in ((None, 9.0), (None, 10.0), (None, 11.0), (None, None), (7, 9.0)):
        grouping.add(row("charge: away", owner=owner, wake_at=wake_at))
    (group,) = grouping.groups()
    assert (group.count, group.due) == (5, 2)
    assert group.as_json()["due"] == 2
