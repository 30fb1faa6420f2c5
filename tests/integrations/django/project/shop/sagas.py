from django.db import connection

from standfast import Barrier, Context, Saga, step, wait
from standfast.integrations.django import app, database_sync_to_async

from .models import Trip


class BookTrip(Saga[str]):
    @step(no_compensation="it is only marked")
    async def book(self, key: str, ctx: Context) -> int:
        return await database_sync_to_async(Trip.objects.filter(key=key).update)(booked=True)

    @step(no_compensation="it only looks")
    def look(self, key: str, ctx: Context) -> bool:
        """Whether the trip is booked, by a connection that no call before has left behind."""
        was_left = connection.connection is not None
        return Trip.objects.get(key=key).booked and not was_left

    @step(no_compensation="it only looks")
    def look_again(self, key: str, ctx: Context) -> bool:
        """The same, in the same thread."""
        was_left = connection.connection is not None
        return Trip.objects.get(key=key).booked and not was_left


class Approve(Saga[str]):
    approval = wait("approved", type=str)


app.add(BookTrip(), Approve(), Barrier())
