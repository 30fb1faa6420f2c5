"""Payments: takes money, and gives it back.

`python -m examples.shop.services.payments DATABASE SEED`
"""

import sys

from examples.shop.orders import Order, Receipt
from examples.shop.serve import serve
from examples.shop.services.service import refusal, service
from standfast import BranchKey, Transaction

LIMIT_CENTS = 50_000


async def set_up(tx: Transaction) -> None:
    """Make the ledger. Nothing in it forbids to charge twice: that is up to the barrier."""
    await tx.execute(
        "CREATE TABLE IF NOT EXISTS payments (number integer PRIMARY KEY, branch text NOT NULL,"
        " order_id text NOT NULL, kind text NOT NULL, cents int NOT NULL)"
    )


async def charge(tx: Transaction, order: Order, branch: BranchKey) -> Receipt | dict[str, str]:
    """Take the money, unless the card is declined."""
    if order.total_cents > LIMIT_CENTS:
        return refusal("card declined: over its limit")
    number = await tx.fetch_value(
        "INSERT INTO payments (branch, order_id, kind, cents) VALUES ($1, $2, 'charge', $3)"
        " RETURNING number",
        *(branch.key, order.id, order.total_cents),
    )
    return Receipt(number, order.total_cents)


async def refund(tx: Transaction, order: Order, branch: BranchKey) -> None:
    """Give back what this branch took, which is nothing if it was refused."""
    await tx.execute(
        "INSERT INTO payments (branch, order_id, kind, cents)"
        " SELECT branch, order_id, 'refund', cents FROM payments"
        " WHERE branch = $1 AND kind = 'charge'",
        branch.key,
    )


if __name__ == "__main__":
    database, seed = sys.argv[1:3]
    serve(service(database, set_up, {"/charge": charge, "/refund": refund}, seed=int(seed)))
