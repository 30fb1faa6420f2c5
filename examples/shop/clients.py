"""How a step speaks to a service over HTTP, and what the answer means."""

from typing import TypeVar

import httpx
import msgspec

from examples.shop.orders import Order, Parcel, Receipt, Reservation
from standfast import Context, Refused

T = TypeVar("T")


class Service:
    """A service at an address.

    A step can end in three ways. An answer: done. `Refused`: the service says no, and did nothing.
    Anything else (an error, a timeout, a broken connection): nobody knows, so the saga tries again
    under the same branch key, and undoes the step if it must give up.
    """

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self.http = http
        self.url = url

    async def ask(self, path: str, order: Order, ctx: Context, expected: type[T]) -> T:
        """Send the order, with the headers that name the branch."""
        answer = await self.http.post(
            self.url + path, content=msgspec.json.encode(order), headers=ctx.headers()
        )
        if answer.status_code == httpx.codes.CONFLICT:
            raise Refused(answer.json()["refused"])
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=expected)


class Stock(Service):
    """Puts goods aside, and back."""

    async def reserve(self, order: Order, ctx: Context) -> Reservation:
        """Raises `Refused` when there isn't enough."""
        return await self.ask("/reserve", order, ctx, Reservation)

    async def release(self, order: Order, ctx: Context) -> None:
        """Undo what this branch reserved, if it did."""
        await self.ask("/release", order, ctx, type(None))


class Payments(Service):
    """Takes money, and gives it back."""

    async def charge(self, order: Order, ctx: Context) -> Receipt:
        """Raises `Refused` when the card is declined."""
        return await self.ask("/charge", order, ctx, Receipt)

    async def refund(self, order: Order, ctx: Context) -> None:
        """Undo what this branch charged, if it did."""
        await self.ask("/refund", order, ctx, type(None))


class Courier(Service):
    """Takes parcels away, for good."""

    async def ship(self, order: Order, ctx: Context) -> Parcel:
        """Raises `Refused` when the parcel is too heavy."""
        return await self.ask("/ship", order, ctx, Parcel)
