"""Customers: they order at their own pace, and ask again until they know that it was accepted."""

import asyncio
import random
import sqlite3
from pathlib import Path

import httpx
import msgspec

from examples.shop.orders import Order

PRICES = {"lamp": 2_000, "chair": 4_500, "teapot": 1_200, "clock": 3_300}
PER_SECOND = 25.0


def initial_stock(orders: int) -> dict[str, int]:
    """Enough for most orders; the clocks run out."""
    return {sku: orders // 3 if sku == "clock" else 10 * orders for sku in PRICES}


def wishes(orders: int, seed: int) -> list[Order]:
    """The orders of a run: some too dear for the card, some too heavy for the courier."""
    luck = random.Random(f"{seed} wishes")
    found = []
    for number in range(1, orders + 1):
        sku = luck.choice(list(PRICES))
        quantity = luck.randint(1, 4)
        total = quantity * PRICES[sku]
        kind = luck.random()
        if kind < 0.06:
            total += 60_000  # gift-wrapped in gold
        elif kind < 0.12:
            sku, quantity, total = "teapot", 11, 11 * PRICES["teapot"]
        found.append(Order(f"order-{number:04}", sku, quantity, total))
    return found


class Customers:
    """All of them. What they were promised is written to a ledger of their own."""

    def __init__(self, ledger: Path, shop: httpx.AsyncClient, seed: int) -> None:
        self.shop = shop
        self.luck = random.Random(f"{seed} customers")
        self.accepted = 0
        self._ledger = sqlite3.connect(ledger, isolation_level=None)
        self._ledger.execute("CREATE TABLE accepted (order_id TEXT NOT NULL)")

    async def order_all(self, orders: list[Order]) -> None:
        """Order, each at a moment of its own; returns when all are accepted."""
        async with asyncio.TaskGroup() as group:
            for order in orders:
                group.create_task(self.order(order))
                await asyncio.sleep(self.luck.expovariate(PER_SECOND))
        self._ledger.close()

    async def order(self, order: Order) -> None:
        """Ask until the shop accepts. With the same id, asking again is no second order."""
        for wait in (0.1, 0.2, 0.5, 1, 2, 5):
            try:
                answer = await self.shop.post("/orders", content=msgspec.json.encode(order))
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == 202:
                    self._ledger.execute("INSERT INTO accepted VALUES (?)", (order.id,))
                    self.accepted += 1
                    return
                if answer.status_code < 500:
                    raise RuntimeError(f"the shop turned {order} down: {answer.text}")
            await asyncio.sleep(wait)
        raise RuntimeError(f"the shop doesn't answer: {order} was given up")
