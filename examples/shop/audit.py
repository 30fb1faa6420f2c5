"""The audit: one plain SQL query for each thing that must not be. It knows nothing of the library.

Five parties keep a ledger: the customers (what they were promised), the shop (orders, news, and
the state of each saga), stock, payments and the courier. `collect` copies them into one SQLite
database in memory; each query then answers with the orders, or goods, with which something is
wrong. `python -m examples.shop.audit FOLDER [POSTGRESQL-URL]` audits a run that was kept.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

LEDGERS = {
    "customers.db": {"accepted": "order_id"},
    "stock.db": {
        "items": "sku, initial, on_hand",
        "reservations": "order_id, sku, quantity, releases",
    },
    "payments.db": {"payments": "order_id, kind, cents"},
    "courier.db": {"parcels": "order_id, sku, quantity"},
}
SHOP = {"orders": "id, total_cents, quantity", "notifications": "order_id"}
SAGAS = "SELECT key, status FROM {} WHERE pattern = 'saga' AND name = 'place-order'"

# What each order amounts to, over all ledgers.
_SUMS = """
CREATE TABLE sums AS SELECT
    key AS id,
    status,
    (SELECT total_cents FROM orders WHERE id = key) AS due,
    (SELECT total(cents) FROM payments WHERE order_id = key AND kind = 'charge')
        - (SELECT total(cents) FROM payments WHERE order_id = key AND kind = 'refund') AS paid,
    (SELECT count(*) FROM payments WHERE order_id = key AND kind = 'charge') AS charges,
    (SELECT count(*) FROM payments WHERE order_id = key AND kind = 'refund') AS refunds,
    (SELECT total(quantity * (1 - releases)) FROM reservations WHERE order_id = key) AS taken,
    (SELECT count(*) FROM parcels WHERE order_id = key) AS parcels,
    (SELECT total(quantity) FROM parcels WHERE order_id = key) AS shipped,
    (SELECT count(*) FROM notifications WHERE order_id = key) AS news
FROM sagas
"""

QUERIES = {
    "lost": """
        SELECT order_id FROM accepted WHERE order_id NOT IN (SELECT id FROM orders)
        UNION SELECT order_id FROM accepted WHERE order_id NOT IN (SELECT key FROM sagas)
        UNION SELECT id FROM orders WHERE id NOT IN (SELECT key FROM sagas)
        UNION SELECT key FROM sagas WHERE key NOT IN (SELECT id FROM orders)
    """,
    "saga not ended": "SELECT id FROM sums WHERE status NOT IN ('completed', 'compensated')",
    "double-charged": "SELECT id FROM sums WHERE charges > 1",
    "refunded twice": "SELECT id FROM sums WHERE refunds > 1 OR paid < 0",
    "double-shipped": "SELECT id FROM sums WHERE parcels > 1",
    "charged without a parcel": "SELECT id FROM sums WHERE paid > 0 AND parcels = 0",
    "parcel without its price": "SELECT id FROM sums WHERE parcels > 0 AND paid <> due",
    "completed, but not done": """
        SELECT id FROM sums WHERE status = 'completed' AND (parcels = 0 OR paid = 0 OR news <> 1)
    """,
    "compensated, but not undone": """
        SELECT id FROM sums WHERE status = 'compensated'
            AND (parcels > 0 OR paid <> 0 OR taken <> 0 OR news > 0)
    """,
    "reserved, but not shipped": "SELECT id FROM sums WHERE taken <> shipped",
    "stock not conserved": """
        SELECT sku FROM items WHERE initial <> on_hand
            + (SELECT total(quantity) FROM parcels WHERE parcels.sku = items.sku)
    """,
    "nobody's": """
        SELECT order_id FROM payments WHERE order_id NOT IN (SELECT id FROM orders)
        UNION SELECT order_id FROM parcels WHERE order_id NOT IN (SELECT id FROM orders)
        UNION SELECT order_id FROM reservations WHERE order_id NOT IN (SELECT id FROM orders)
    """,
}


@dataclass(frozen=True)
class Finding:
    """What must not be, and where it is all the same."""

    name: str
    found: list[str]


async def collect(folder: Path, postgres: str | None = None) -> sqlite3.Connection:
    """All ledgers in one database in memory. `postgres`: where the shop's is, if not `folder`."""
    books = sqlite3.connect(":memory:")
    for file, tables in LEDGERS.items():
        with sqlite3.connect(f"file:{folder / file}?mode=ro", uri=True) as ledger:
            for table, columns in tables.items():
                _copy(books, table, columns, ledger.execute(f"SELECT {columns} FROM {table}"))
        ledger.close()
    queries = {table: f"SELECT {columns} FROM {table}" for table, columns in SHOP.items()}
    columns_of = {**SHOP, "sagas": "key, status"}
    if postgres is None:
        queries["sagas"] = SAGAS.format("standfast_instances")
        with sqlite3.connect(f"file:{folder / 'shop.db'}?mode=ro", uri=True) as shop:
            for table, query in queries.items():
                _copy(books, table, columns_of[table], shop.execute(query))
        shop.close()
    else:
        queries["sagas"] = SAGAS.format("standfast.instances")
        connection = await asyncpg.connect(postgres)
        try:
            for table, query in queries.items():
                _copy(books, table, columns_of[table], await connection.fetch(query))
        finally:
            await connection.close()
    return books


def _copy(
    books: sqlite3.Connection, table: str, columns: str, rows: Iterable[Sequence[Any]]
) -> None:
    places = ", ".join("?" for _ in columns.split(","))
    books.execute(f"CREATE TABLE {table} ({columns})")
    books.executemany(f"INSERT INTO {table} VALUES ({places})", [tuple(row) for row in rows])


def audit(books: sqlite3.Connection) -> list[Finding]:
    """Ask every question; a finding is fine when nothing was found."""
    books.execute(_SUMS)
    return [
        Finding(name, [row[0] for row in books.execute(query)]) for name, query in QUERIES.items()
    ]


def outcomes(books: sqlite3.Connection) -> dict[str, int]:
    """How many sagas ended in each way; a failed compensation waits like a parked step."""
    counts = {"completed": 0, "compensated": 0, "parked": 0}
    for status, number in books.execute("SELECT status, count(*) FROM sagas GROUP BY status"):
        name = "parked" if status == "compensation_failed" else status
        counts[name] = counts.get(name, 0) + number
    return counts


def main() -> int:
    """Audit what a run has left in a folder; the exit code is 1 if anything is wrong."""
    books = asyncio.run(collect(Path(sys.argv[1]), *sys.argv[2:3]))
    print(", ".join(f"{number} {status}" for status, number in outcomes(books).items()))
    findings = audit(books)
    for finding in findings:
        print(f"{finding.name:28} {len(finding.found)}  {' '.join(finding.found[:5])}")
    return int(any(finding.found for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
