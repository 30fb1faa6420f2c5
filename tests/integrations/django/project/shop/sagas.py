from standfast import Barrier, Context, Saga, step, wait
from standfast.integrations.django import app, database_sync_to_async

from .models import Trip


class BookTrip(Saga[str]):
    @step(no_compensation="it is only marked")
    async def book(self, key: str, ctx: Context) -> int:
        return await database_sync_to_async(Trip.objects.filter(key=key).update)(booked=True)


class Approve(Saga[str]):
    approval = wait("approved", type=str)


app.add(BookTrip(), Approve(), Barrier())
