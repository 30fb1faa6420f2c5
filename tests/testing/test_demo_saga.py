"""The saga of the demo, ten thousand times, on ledgers instead of its three services."""

from __future__ import annotations

import pytest
from examples.shop.orders import Order, Parcel, Receipt, Reservation
from examples.shop.saga import PlaceOrder

from standfast import Context
from standfast.testing import Ledger, World, simulate, split_seeds

ORDER = Order("order-7", "lamp", 2, 1999)
SCHEMA = "CREATE TABLE notifications (order_id TEXT, text TEXT)"


class Stock(Ledger):
    async def reserve(self, order: Order, ctx: Context) -> Reservation:
        await self.post(ctx, order.quantity)
        return Reservation(order.sku, order.quantity, (self.limit or 0) - self.total)

    async def release(self, order: Order, ctx: Context) -> None:
        await self.reverse(ctx)


class Payments(Ledger):
    async def charge(self, order: Order, ctx: Context) -> Receipt:
        await self.post(ctx, order.total_cents)
        return Receipt(1, order.total_cents)

    async def refund(self, order: Order, ctx: Context) -> None:
        await self.reverse(ctx)


class Courier(Ledger):
    async def ship(self, order: Order, ctx: Context) -> Parcel:
        await self.post(ctx)
        return Parcel(1)


def place_order() -> PlaceOrder:
    return PlaceOrder(Stock("stock", limit=5), Payments("payments"), Courier("courier"))


def is_all_or_nothing(world: World) -> None:
    saga = world.saga
    news = len(world.rows("SELECT * FROM notifications WHERE order_id = $1", ORDER.id))
    totals = (saga.stock.total, saga.payments.total, saga.courier.total)
    if world.completed:
        assert totals == (2, 1999, 1)
        assert news == 1
    elif world.compensated:
        assert totals == (0, 0, 0)
        assert news == 0


def is_told_once_and_only_when_shipped(world: World) -> None:
    news = len(world.rows("SELECT * FROM notifications"))
    assert news <= world.saga.courier.total <= 1


@pytest.mark.slow
@pytest.mark.parametrize("seeds", split_seeds(10_000, 4), ids=str)
def test_the_demos_saga_holds_for_ten_thousand_seeds(seeds):
    report = simulate(
        place_order,
        ORDER,
        seeds=seeds,
        invariants=is_all_or_nothing,
        always=is_told_once_and_only_when_shipped,
        schema=SCHEMA,
    )
    assert report.seeds == len(seeds)
    assert report.missed == []
    assert report.paths > 300
    assert report.coverage["notify", "crash after its commit"]
    assert report.coverage["notify", "commit's answer lost"]
    assert report.coverage["undo charge", "outage"]
