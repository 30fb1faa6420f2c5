"""Airline, hotels, cars and bank, as one web server: participants of others' sagas.

They take their time, and some of their answers get lost, though what was asked for is done. So what
is asked comes twice: the barrier lets each branch take effect once.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from examples.travel.trip import Trip
from standfast import Barrier, BranchKey, Standfast, StandfastError, Transaction, barrier
from standfast.integrations.fastapi import TransactionDep
from standfast.integrations.starlette import answer_error

TAKES = float(os.environ.get("PARTNERS_TAKE", "0.05"))  # seconds
LOST = 9  # of so many answers, one
NO_HOTELS = "Atlantis"
LIMIT = 200_000  # cents

ledger = Standfast(os.environ["PARTNERS_DATABASE"], migrate=True).add(Barrier())


@asynccontextmanager
async def tables(_: FastAPI) -> AsyncIterator[None]:
    """Make the ledger. Nothing in it forbids to book twice: that is up to the barrier."""
    async with ledger.transaction() as tx:
        await tx.execute(
            "CREATE TABLE IF NOT EXISTS entries (number integer PRIMARY KEY, branch text NOT NULL,"
            " trip text NOT NULL, partner text NOT NULL, kind text NOT NULL)"
        )
    yield


api = FastAPI(title="Partners", lifespan=ledger.lifespan(inner=tables))
api.add_exception_handler(StandfastError, answer_error)
asked = count(1)


@api.middleware("http")
async def bad_luck(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Be slow, and lose an answer now and then."""
    if request.method != "POST":
        return await call_next(request)
    await asyncio.sleep(TAKES)
    answer = await call_next(request)
    return answer if next(asked) % LOST else Response(status_code=502)


@api.post("/{partner}/{act}")
async def serve(
    partner: Literal["flight", "hotel", "car", "payment"],
    act: Literal["book", "cancel"],
    trip: Trip,
    request: Request,
    tx: TransactionDep,
) -> JSONResponse:
    """Do it once for a branch. A refusal is kept as well: it is an answer, so it commits."""
    branch = BranchKey.from_headers(request.headers)
    async with barrier(tx, branch) as gate:
        if gate.first:
            deed = book if act == "book" else cancel
            gate.result = await deed(tx, partner, trip, branch)
    if gate.why == "already_undone":
        return JSONResponse({"refused": "it came after its own undo"}, 409)
    told = gate.result or {"number": ""}
    return JSONResponse(told, 409 if "refused" in told else 200)


async def book(tx: Transaction, partner: str, trip: Trip, branch: BranchKey) -> dict[str, str]:
    """Book it, or say no."""
    if partner == "hotel" and trip.city == NO_HOTELS:
        return {"refused": f"there are no hotels in {NO_HOTELS}"}
    if partner == "payment" and trip.cents > LIMIT:
        return {"refused": "the card is over its limit"}
    await tx.execute(
        "INSERT INTO entries (branch, trip, partner, kind) VALUES ($1, $2, $3, 'book')",
        *(branch.key, trip.id, partner),
    )
    return {"number": f"{partner} {trip.id}"}


async def cancel(tx: Transaction, partner: str, trip: Trip, branch: BranchKey) -> dict[str, str]:
    """Cancel what this branch booked, which is nothing if it was refused."""
    await tx.execute(
        "INSERT INTO entries (branch, trip, partner, kind)"
        " SELECT branch, trip, partner, 'cancel' FROM entries WHERE branch = $1",
        branch.key,
    )
    return {"number": ""}


@api.get("/ledger")
async def entries(tx: TransactionDep) -> list[dict[str, Any]]:
    """Everything that was ever done, in order."""
    found = await tx.fetch("SELECT trip, partner, kind FROM entries ORDER BY number")
    return [{name: row[name] for name in ("trip", "partner", "kind")} for row in found]
