"""Stock: puts goods aside, and back. `python -m examples.shop.services.stock DATABASE SEED ITEMS`.

ITEMS is JSON: how many there are of each. Goods that were put aside and not put back are the
courier's to take.
"""

import json
import sys
from functools import partial

from examples.shop.orders import Order, Reservation
from examples.shop.serve import serve
from examples.shop.services.service import refusal, service
from standfast import BranchKey, Transaction


async def set_up(items: dict[str, int], tx: Transaction) -> None:
    """Make the ledger. Nothing in it forbids to reserve twice: that is up to the barrier."""
    await tx.execute(
        "CREATE TABLE IF NOT EXISTS items"
        " (sku text PRIMARY KEY, initial int NOT NULL, on_hand int NOT NULL)"
    )
    await tx.execute(
        "CREATE TABLE IF NOT EXISTS reservations (branch text NOT NULL, order_id text NOT NULL,"
        " sku text NOT NULL, quantity int NOT NULL, releases int NOT NULL DEFAULT 0)"
    )
    for sku, initial in items.items():
        await tx.execute("INSERT INTO items VALUES ($1, $2, $2)", sku, initial)


async def reserve(tx: Transaction, order: Order, branch: BranchKey) -> Reservation | dict[str, str]:
    """Put goods aside, if there are enough."""
    left = await tx.fetch_value("SELECT on_hand FROM items WHERE sku = $1", order.sku)
    if left is None or left < order.quantity:
        return refusal(f"out of stock: {left or 0} {order.sku} left")
    await tx.execute(
        "UPDATE items SET on_hand = on_hand - $1 WHERE sku = $2", order.quantity, order.sku
    )
    await tx.execute(
        "INSERT INTO reservations (branch, order_id, sku, quantity) VALUES ($1, $2, $3, $4)",
        *(branch.key, order.id, order.sku, order.quantity),
    )
    return Reservation(order.sku, order.quantity, left - order.quantity)


async def release(tx: Transaction, order: Order, branch: BranchKey) -> None:
    """Put back what this branch put aside, which is nothing if it was refused."""
    reserved = await tx.execute(
        "UPDATE reservations SET releases = releases + 1 WHERE branch = $1", branch.key
    )
    if reserved:
        await tx.execute(
            "UPDATE items SET on_hand = on_hand + $1 WHERE sku = $2", order.quantity, order.sku
        )


if __name__ == "__main__":
    database, seed, items = sys.argv[1:4]
    deeds = {"/reserve": reserve, "/release": release}
    serve(service(database, partial(set_up, json.loads(items)), deeds, seed=int(seed)))
