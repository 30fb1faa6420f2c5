"""Sagas with all that a saga can have: items, a condition, a wait, a child, a transaction."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from standfast import Context, Saga, child, step, wait
from standfast.testing import Ledger


@dataclass(frozen=True)
class Trip:
    cities: tuple[str, ...] = ("Oslo", "Rome", "Bern")
    insured: bool = True


@dataclass(frozen=True)
class Approval:
    by: str


class Insure(Saga[str]):
    """The child: it can be undone after it has completed."""

    name = "insure"

    def __init__(self, insurer: Ledger) -> None:
        self.insurer = insurer

    @step(timeout="5s")
    async def quote(self, who: str, ctx: Context) -> int:
        return 7

    @quote.compensation
    async def forget_quote(self, who: str, ctx: Context) -> None:
        pass

    @step
    async def insure(self, who: str, ctx: Context) -> str:
        return await self.insurer.post(ctx, ctx.result(self.quote))

    @insure.compensation
    async def cancel(self, who: str, ctx: Context) -> None:
        await self.insurer.reverse(ctx)


class BookTrip(Saga[Trip]):
    """Hotels beside a flight, an approval, an insurance, and the payment as the pivot."""

    name, version, deadline = "book-trip", 1, "2h"

    def __init__(self, insurer: Ledger) -> None:
        self.hotels = Ledger("hotels", limit=6)
        self.flights = Ledger("flights")
        self.insurer = insurer

    @step(after=(), each=lambda self, trip, ctx: trip.cities, limit=2, timeout="10s")
    async def hotel(self, trip: Trip, ctx: Context, city: str) -> str:
        await asyncio.sleep(0.2)
        return f"{city}: {await self.hotels.post(ctx)}"

    @hotel.compensation
    async def cancel_hotel(self, trip: Trip, ctx: Context, city: str) -> None:
        await self.hotels.reverse(ctx)

    @step(after=(), timeout="10s", on_exhausted="park")
    async def flight(self, trip: Trip, ctx: Context) -> str:
        await asyncio.sleep(0.3)
        return await self.flights.post(ctx)

    @flight.compensation
    async def cancel_flight(self, trip: Trip, ctx: Context) -> None:
        await self.flights.reverse(ctx)

    approved = wait("approved", type=Approval, timeout="1h", after=[hotel, flight])

    insurance = child(
        Insure, lambda self, trip, ctx: "me", when=lambda self, trip, ctx: trip.insured
    )

    @step(transactional=True, pivot=True, timeout="10s")
    async def pay(self, trip: Trip, ctx: Context, tx) -> int:
        await tx.execute("INSERT INTO payments (id, amount) VALUES ($1, $2)", ctx.key, 100)
        return await tx.fetch_value("SELECT count(*) FROM payments")

    @step
    async def thank(self, trip: Trip, ctx: Context) -> str:
        return f"{ctx.result(self.approved).by}: {len(ctx.result(self.hotel))} hotels"


SCHEMA = "CREATE TABLE payments (id TEXT PRIMARY KEY, amount INTEGER NOT NULL)"


def trip() -> list[Saga]:
    insurer = Ledger("insurer")
    return [BookTrip(insurer), Insure(insurer)]
