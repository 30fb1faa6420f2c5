"""The saga of a trip: flight, hotel and car at once, then the payment; or everything cancelled."""

import httpx

from examples.travel.trip import Trip
from standfast import Constant, Context, Refused, Retry, Saga, Transaction, step

SOON = Retry(attempts=5, backoff=Constant("200ms"))


class Partners:
    """The other companies, over HTTP.

    409 is a no, and nothing was done. Whatever else goes wrong leaves open whether it was done: the
    step is tried again, under the same branch key, by which the partner knows it.
    """

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=None)  # each step has one of its own

    async def ask(self, path: str, trip: Trip, ctx: Context) -> str:
        """Send the trip. Raises `Refused` when the partner says no."""
        answer = await self.http.post(path, json=trip.model_dump(), headers=ctx.headers())
        if answer.status_code == httpx.codes.CONFLICT:
            raise Refused(answer.json()["refused"])
        answer.raise_for_status()
        number: str = answer.json()["number"]
        return number


class BookTrip(Saga[Trip]):
    """Books all of a trip, or nothing."""

    name, version, deadline = "book-trip", 1, "10m"

    def __init__(self, partners: Partners) -> None:
        self.partners = partners

    @step(transactional=True)
    async def begin(self, trip: Trip, ctx: Context, tx: Transaction) -> None:
        """Note that it is under way. Row and progress commit together."""
        await note(tx, trip, "under way")

    @begin.compensation(transactional=True)
    async def give_up(self, trip: Trip, ctx: Context, tx: Transaction) -> None:
        """Note, last of all, that everything is undone."""
        await note(tx, trip, "undone")

    @step(after=begin, timeout="2s", retry=SOON)
    async def flight(self, trip: Trip, ctx: Context) -> str:
        """Book a seat."""
        return await self.partners.ask("/flight/book", trip, ctx)

    @flight.compensation(timeout="2s")
    async def cancel_flight(self, trip: Trip, ctx: Context) -> None:
        """Give the seat back, if it was booked: the airline knows."""
        await self.partners.ask("/flight/cancel", trip, ctx)

    @step(after=begin, timeout="2s", retry=SOON)
    async def hotel(self, trip: Trip, ctx: Context) -> str:
        """Book a room."""
        return await self.partners.ask("/hotel/book", trip, ctx)

    @hotel.compensation(timeout="2s")
    async def cancel_hotel(self, trip: Trip, ctx: Context) -> None:
        """Give the room back."""
        await self.partners.ask("/hotel/cancel", trip, ctx)

    @step(after=begin, timeout="2s", retry=SOON)
    async def car(self, trip: Trip, ctx: Context) -> str:
        """Book a car."""
        return await self.partners.ask("/car/book", trip, ctx)

    @car.compensation(timeout="2s")
    async def cancel_car(self, trip: Trip, ctx: Context) -> None:
        """Give the car back."""
        await self.partners.ask("/car/cancel", trip, ctx)

    @step(after=(flight, hotel, car), pivot=True, timeout="2s")  # from here on only forward
    async def payment(self, trip: Trip, ctx: Context) -> str:
        """Take the money."""
        return await self.partners.ask("/payment/book", trip, ctx)

    @step(transactional=True)
    async def done(self, trip: Trip, ctx: Context, tx: Transaction) -> None:
        """Note that all is booked."""
        await note(tx, trip, "booked")


async def note(tx: Transaction, trip: Trip, status: str) -> None:
    """Write into the agency's row how the trip stands."""
    await tx.execute("UPDATE bookings SET status = $1 WHERE id = $2", status, trip.id)
