"""The agency's web server. It starts sagas, and leaves them to the workers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from examples.travel.app import travel
from examples.travel.bookings import Booking, SessionDep, Table, engine
from examples.travel.saga import BookTrip
from examples.travel.trip import Trip
from standfast import StandfastError, Transaction
from standfast.integrations.fastapi import AppDep, adopted
from standfast.integrations.sse import ProgressResponse
from standfast.integrations.starlette import answer_error
from standfast.resilience import Bulkhead

AdoptedDep = Annotated[Transaction, adopted(SessionDep)]
followers = Bulkhead(1000)


@asynccontextmanager
async def tables(_: FastAPI) -> AsyncIterator[None]:
    """Make the agency's own table, as its migrations would."""
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
    yield
    await engine.dispose()


api = FastAPI(title="Travel agency", lifespan=travel.lifespan(inner=tables))
api.add_exception_handler(StandfastError, answer_error)


@api.post("/bookings", status_code=202)
async def book(trip: Trip, session: SessionDep, tx: AdoptedDep) -> dict[str, str]:
    """Take a wish: the row and the saga, or neither. A wish that comes twice is taken once."""
    row = {"id": trip.id, "traveller": trip.traveller, "city": trip.city}
    await session.execute(insert(Booking).values(row).on_conflict_do_nothing())
    await tx.start(BookTrip, trip, key=trip.id)
    return {"booking": trip.id}


@api.get("/bookings")
async def bookings(session: SessionDep) -> list[dict[str, Any]]:
    """All of them."""
    found = await session.scalars(select(Booking).order_by(Booking.id))
    return [one.as_json() for one in found]


@api.get("/bookings/{id}")
async def booking(id: str, session: SessionDep) -> dict[str, Any]:
    """How one stands."""
    found = await session.get(Booking, id)
    if found is None:
        raise HTTPException(404, "There is no such booking.")
    return found.as_json()


@api.delete("/bookings/{id}", status_code=202)
async def cancel(id: str, app: AppDep) -> None:
    """Ask to undo one. Once it is paid, it stays."""
    await (await app.saga(BookTrip, id)).cancel("the traveller changed plans")


@api.get("/bookings/{id}/progress")
async def progress(id: str, app: AppDep) -> ProgressResponse:
    """Follow one, as server-sent events."""
    return ProgressResponse(app, await app.saga(BookTrip, id), bulkhead=followers)
