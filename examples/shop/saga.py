"""The saga of an order: reserve, charge, ship, notify; or give everything back."""

from examples.shop.clients import Courier, Payments, Stock
from examples.shop.orders import Order, Parcel, Receipt, Reservation
from standfast import Context, Retry, Saga, Transaction, step


class PlaceOrder(Saga[Order]):
    """What was reserved is charged and shipped, or released and refunded. Nothing in between.

    A step whose answer never came may have happened all the same. So a compensation doesn't ask
    for the step's result: it names the branch (`ctx.headers()`), and the service knows the rest.
    """

    name, version, deadline = "place-order", 1, "10m"

    def __init__(self, stock: Stock, payments: Payments, courier: Courier) -> None:
        self.stock = stock
        self.payments = payments
        self.courier = courier

    @step(timeout="1s")
    async def reserve(self, order: Order, ctx: Context) -> Reservation:
        """Put the goods aside."""
        return await self.stock.reserve(order, ctx)

    @reserve.compensation(timeout="1s")
    async def release(self, order: Order, ctx: Context) -> None:
        """Put the goods back."""
        await self.stock.release(order, ctx)

    @step(timeout="1s", retry=Retry(attempts=2))  # rather undo than keep trying somebody's card
    async def charge(self, order: Order, ctx: Context) -> Receipt:
        """Take the money."""
        return await self.payments.charge(order, ctx)

    @charge.compensation(timeout="1s")
    async def refund(self, order: Order, ctx: Context) -> None:
        """Give the money back."""
        await self.payments.refund(order, ctx)

    @step(pivot=True, timeout="1s")  # past this point only forward: retry, never undo
    async def ship(self, order: Order, ctx: Context) -> Parcel:
        """Hand it to the courier."""
        return await self.courier.ship(order, ctx)

    @step(transactional=True)  # its row and the saga's progress commit together: exactly once
    async def notify(self, order: Order, ctx: Context, tx: Transaction) -> None:
        """Note down the news for the customer."""
        text = f"Parcel {ctx.result(self.ship).number} is on its way."
        await tx.execute(
            "INSERT INTO notifications (order_id, text) VALUES ($1, $2)", order.id, text
        )
