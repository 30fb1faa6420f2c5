"""The shop of the README, on ledgers: the saga that the simulation is tested with."""

from __future__ import annotations

from dataclasses import dataclass

from standfast import Context, Saga, step
from standfast.testing import Ledger


@dataclass(frozen=True)
class Order:
    id: str = "1"
    quantity: int = 2
    total_cents: int = 1999


class PlaceOrder(Saga[Order]):
    """Reserve, charge, ship, notify: or give everything back."""

    name, version, deadline = "place-order", 1, "10m"

    def __init__(
        self,
        stock: Ledger | None = None,
        payments: Ledger | None = None,
        courier: Ledger | None = None,
    ) -> None:
        self.stock = stock or Ledger("stock", limit=10)
        self.payments = payments or Ledger("payments")
        self.courier = courier or Ledger("courier")
        self.notes = Ledger("notes")

    @step(timeout="5s")
    async def reserve(self, order: Order, ctx: Context) -> str:
        return await self.stock.post(ctx, order.quantity)

    @reserve.compensation(timeout="5s")
    async def release(self, order: Order, ctx: Context) -> None:
        await self.stock.reverse(ctx)

    @step(timeout="10s")
    async def charge(self, order: Order, ctx: Context) -> str:
        return await self.payments.post(ctx, order.total_cents)

    @charge.compensation
    async def refund(self, order: Order, ctx: Context) -> None:
        await self.payments.reverse(ctx)

    @step(pivot=True, timeout="20s")
    async def ship(self, order: Order, ctx: Context) -> str:
        return await self.courier.post(ctx)

    @step
    async def notify(self, order: Order, ctx: Context) -> str:
        await self.notes.post(ctx)
        return f"{ctx.result(self.ship)} is on its way"
