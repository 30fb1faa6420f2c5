"""Booking a trip, as a saga. Its steps may run twice, and write the same then."""

from examples.travel_django.booking.models import Booking, Trip
from standfast import Context, Refused, Saga, step
from standfast.integrations.django import app


def reserve(trip: int, what: str) -> int:
    """Ask a partner. Raises `Refused` where it has nothing."""
    if what == "car" and Trip.objects.get(pk=trip).destination == "Venice":
        raise Refused("there are no cars in Venice")
    # One that was released before, when this request was slow, stays cancelled.
    booking, _ = Booking.objects.get_or_create(trip_id=trip, what=what)
    number: int = booking.pk
    return number


def release(trip: int, what: str) -> None:
    """Tell a partner that it isn't wanted any more, though it may never have been asked for.

    It is noted in the book then: so a `reserve` that comes late books nothing. What a book with one
    line for each thing does by itself, the barrier does for all else, as in ``examples/travel``.
    """
    Booking.objects.update_or_create(trip_id=trip, what=what, defaults={"cancelled": True})


def confirm(trip: int) -> None:
    """Tell the traveller."""
    Trip.objects.filter(pk=trip).update(confirmed=True)


class BookTrip(Saga[int]):
    """A flight, a room and a car: or nothing of all that."""

    name = "book-trip"

    @step
    def flight(self, trip: int, ctx: Context) -> int:
        """Book the flight."""
        return reserve(trip, "flight")

    @flight.compensation
    def cancel_flight(self, trip: int, ctx: Context) -> None:
        """Give it back."""
        release(trip, "flight")

    @step
    def room(self, trip: int, ctx: Context) -> int:
        """Book a room."""
        return reserve(trip, "room")

    @room.compensation
    def cancel_room(self, trip: int, ctx: Context) -> None:
        """Give it back."""
        release(trip, "room")

    @step
    def car(self, trip: int, ctx: Context) -> int:
        """Book a car; not every place has some."""
        return reserve(trip, "car")

    @car.compensation
    def cancel_car(self, trip: int, ctx: Context) -> None:
        """Give it back."""
        release(trip, "car")

    @step(pivot=True)
    def confirm(self, trip: int, ctx: Context) -> None:
        """From here on it is booked."""
        confirm(trip)


app.add(BookTrip())
