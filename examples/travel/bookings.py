"""The agency's own table, and the session of a request: SQLAlchemy as anybody uses it."""

import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(
    os.environ["TRAVEL_DATABASE"].replace("postgresql://", "postgresql+asyncpg://")
)


class Table(DeclarativeBase):
    """All tables of the agency."""


class Booking(Table):
    """A trip that was asked for. `status`: accepted, under way, booked or undone."""

    __tablename__ = "bookings"

    id: Mapped[str] = mapped_column(primary_key=True)
    traveller: Mapped[str]
    city: Mapped[str]
    status: Mapped[str] = mapped_column(default="accepted")

    def as_json(self) -> dict[str, Any]:
        """What a client gets."""
        return {"id": self.id, "city": self.city, "status": self.status}


async def session() -> AsyncIterator[AsyncSession]:
    """One for each request, in a transaction that commits when the endpoint has returned."""
    async with AsyncSession(engine) as made, made.begin():
        yield made


SessionDep = Annotated[AsyncSession, Depends(session, scope="function")]
