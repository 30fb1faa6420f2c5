"""The courier: takes parcels away. `python -m examples.shop.services.courier DATABASE SEED`.

There is no way back from here, so shipping is the pivot of the saga.
"""

import sys

from examples.shop.orders import Order, Parcel
from examples.shop.serve import serve
from examples.shop.services.service import refusal, service
from standfast import BranchKey, Transaction

MOST_IN_A_PARCEL = 10


async def set_up(tx: Transaction) -> None:
    """Make the ledger. Nothing in it forbids to ship twice: that is up to the barrier."""
    await tx.execute(
        "CREATE TABLE IF NOT EXISTS parcels (number integer PRIMARY KEY, branch text NOT NULL,"
        " order_id text NOT NULL, sku text NOT NULL, quantity int NOT NULL)"
    )


async def ship(tx: Transaction, order: Order, branch: BranchKey) -> Parcel | dict[str, str]:
    """Take it away, unless it is too heavy."""
    if order.quantity > MOST_IN_A_PARCEL:
        return refusal(f"too heavy: {order.quantity} pieces")
    number = await tx.fetch_value(
        "INSERT INTO parcels (branch, order_id, sku, quantity) VALUES ($1, $2, $3, $4)"
        " RETURNING number",
        *(branch.key, order.id, order.sku, order.quantity),
    )
    return Parcel(number)


if __name__ == "__main__":
    database, seed = sys.argv[1:3]
    serve(service(database, set_up, {"/ship": ship}, seed=int(seed)))
