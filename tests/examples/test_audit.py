"""The audit of the shop finds each kind of fault, and nothing in sound ledgers."""

import sqlite3
from pathlib import Path

import pytest
from examples.shop.audit import LEDGERS, QUERIES, SHOP, audit, collect, outcomes

SOUND = """
INSERT INTO accepted VALUES ('done'), ('undone'), ('refused');
INSERT INTO orders VALUES ('done', 600, 3), ('undone', 200, 1), ('refused', 1400, 7);
INSERT INTO sagas VALUES ('done', 'completed'), ('undone', 'compensated'),
    ('refused', 'compensated');
INSERT INTO notifications VALUES ('done');
INSERT INTO items VALUES ('lamp', 5, 2), ('chair', 5, 5);
INSERT INTO reservations VALUES ('done', 'lamp', 3, 0), ('undone', 'lamp', 1, 1);
INSERT INTO payments VALUES ('done', 'charge', 600), ('undone', 'charge', 200),
    ('undone', 'refund', 200);
INSERT INTO parcels VALUES ('done', 'lamp', 3);
"""

# What is done to sound ledgers, and all that the audit must say to it.
FAULTS = {
    "order without a row": (
        "DELETE FROM orders WHERE id = 'refused'",
        {"lost": ["refused"]},
    ),
    "order without a saga": (
        "DELETE FROM sagas WHERE key = 'refused'",
        {"lost": ["refused"]},
    ),
    "unanswered order without a saga": (
        "INSERT INTO orders VALUES ('half', 1, 1)",
        {"lost": ["half"]},
    ),
    "saga without an order": (
        "INSERT INTO sagas VALUES ('ghost', 'compensated')",
        {"lost": ["ghost"]},
    ),
    "saga still running": (
        "UPDATE sagas SET status = 'running' WHERE key = 'refused'",
        {"saga not ended": ["refused"]},
    ),
    "saga parked": (
        "UPDATE sagas SET status = 'compensation_failed' WHERE key = 'refused'",
        {"saga not ended": ["refused"]},
    ),
    "charged twice": (
        "INSERT INTO payments VALUES ('done', 'charge', 600)",
        {"double-charged": ["done"], "parcel without its price": ["done"]},
    ),
    "charged twice, refunded twice": (
        "INSERT INTO payments VALUES ('undone', 'charge', 200), ('undone', 'refund', 200)",
        {"double-charged": ["undone"], "refunded twice": ["undone"]},
    ),
    "refunded twice": (
        "INSERT INTO payments VALUES ('undone', 'refund', 200)",
        {"refunded twice": ["undone"], "compensated, but not undone": ["undone"]},
    ),
    "shipped twice": (
        "INSERT INTO parcels VALUES ('done', 'lamp', 3)",
        {
            "double-shipped": ["done"],
            "reserved, but not shipped": ["done"],
            "stock not conserved": ["lamp"],
        },
    ),
    "parcel lost": (
        "DELETE FROM parcels",
        {
            "charged without a parcel": ["done"],
            "completed, but not done": ["done"],
            "reserved, but not shipped": ["done"],
            "stock not conserved": ["lamp"],
        },
    ),
    "shipped for free": (
        "DELETE FROM payments WHERE order_id = 'done'",
        {"parcel without its price": ["done"], "completed, but not done": ["done"]},
    ),
    "shipped for too little": (
        "UPDATE payments SET cents = 1 WHERE order_id = 'done'",
        {"parcel without its price": ["done"]},
    ),
    "no news": (
        "DELETE FROM notifications",
        {"completed, but not done": ["done"]},
    ),
    "news twice": (
        "INSERT INTO notifications VALUES ('done')",
        {"completed, but not done": ["done"]},
    ),
    "not refunded": (
        "DELETE FROM payments WHERE kind = 'refund'",
        {
            "charged without a parcel": ["undone"],
            "compensated, but not undone": ["undone"],
        },
    ),
    "not released": (
        "UPDATE reservations SET releases = 0; UPDATE items SET on_hand = 1 WHERE sku = 'lamp'",
        {
            "compensated, but not undone": ["undone"],
            "reserved, but not shipped": ["undone"],
            "stock not conserved": ["lamp"],
        },
    ),
    "released twice": (
        "UPDATE reservations SET releases = 2 WHERE order_id = 'undone'",
        {
            "compensated, but not undone": ["undone"],
            "reserved, but not shipped": ["undone"],
        },
    ),
    "stock vanished": (
        "UPDATE items SET on_hand = 4 WHERE sku = 'chair'",
        {"stock not conserved": ["chair"]},
    ),
    "a charge for no order": (
        "INSERT INTO payments VALUES ('ghost', 'charge', 1)",
        {"nobody's": ["ghost"]},
    ),
}


def sound_books() -> sqlite3.Connection:
    books = sqlite3.connect(":memory:")
    for tables in (*LEDGERS.values(), SHOP, {"sagas": "key, status"}):
        for table, columns in tables.items():
            books.execute(f"CREATE TABLE {table} ({columns})")
    books.executescript(SOUND)
    return books


def found(books: sqlite3.Connection) -> dict[str, list[str]]:
    return {finding.name: finding.found for finding in audit(books) if finding.found}


def test_nothing_is_found_in_sound_ledgers() -> None:
    books = sound_books()
    assert found(books) == {}
    assert outcomes(books) == {"completed": 1, "compensated": 2, "parked": 0}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named(fault: str) -> None:
    sabotage, expected = FAULTS[fault]
    books = sound_books()
    books.executescript(sabotage)
    assert found(books) == expected


def test_every_question_has_a_fault_that_answers_it() -> None:
    assert {name for _, expected in FAULTS.values() for name in expected} == set(QUERIES)


async def test_a_ledger_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        await collect(tmp_path)
