"""What the three services have in common."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.shop.faults import Faults
from examples.shop.orders import Order
from standfast import Barrier, BranchKey, Standfast, Transaction, barrier

Deed: TypeAlias = Callable[[Transaction, Order, BranchKey], Awaitable[Any]]
SetUp: TypeAlias = Callable[[Transaction], Awaitable[None]]


def refusal(why: str) -> dict[str, str]:
    """What a deed answers that won't be done. The barrier keeps it like any other answer."""
    return {"refused": why}


def service(database: str, set_up: SetUp, deeds: Mapping[str, Deed], *, seed: int) -> Starlette:
    """A service that does each of `deeds` at its path, once for a branch.

    `GET /tally` counts what came in, by the fault it met and by what the barrier said.
    """
    ledger = Standfast(database).add(Barrier())
    tally: Counter[str] = Counter()

    def route(path: str, deed: Deed) -> Route:
        async def act(request: Request) -> Response:
            order = msgspec.json.decode(await request.body(), type=Order)
            branch = BranchKey.from_headers(request.headers)
            async with ledger.transaction() as tx, barrier(tx, branch) as gate:
                if gate.first:
                    gate.result = msgspec.to_builtins(await deed(tx, order, branch))
            refused = isinstance(gate.result, dict) and "refused" in gate.result
            tally[gate.why or ("refused" if refused else "done")] += 1
            if gate.why == "already_undone":
                return JSONResponse({"error": "this came after its own undo"}, 410)
            return JSONResponse(gate.result, 409 if refused else 200)

        return Route(path, act, methods=["POST"])

    async def read_tally(request: Request) -> Response:
        return JSONResponse(tally)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with ledger:
            async with ledger.transaction() as tx:
                await set_up(tx)
            yield

    routes = [route(path, deed) for path, deed in deeds.items()]
    app = Starlette(routes=[*routes, Route("/tally", read_tally)], lifespan=lifespan)
    app.add_middleware(Faults, seed=seed, tally=tally)
    return app
