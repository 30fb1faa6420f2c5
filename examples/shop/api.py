"""The shop's web server: an order that it has accepted won't be forgotten.

`python -m examples.shop.api DATABASE STOCK PAYMENTS COURIER` (a database's and three services'
URLs).
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from examples.shop.app import shop
from examples.shop.orders import Order
from examples.shop.saga import PlaceOrder
from examples.shop.serve import serve
from standfast import SagaConflict, Standfast, StoreError

ORDERS = """
CREATE TABLE IF NOT EXISTS orders
    (id text PRIMARY KEY, sku text NOT NULL, quantity int NOT NULL, total_cents int NOT NULL)
"""
NOTIFICATIONS = """
CREATE TABLE IF NOT EXISTS notifications (order_id text NOT NULL, text text NOT NULL)
"""


def api(app: Standfast) -> Starlette:
    """`POST /orders` takes an order, `GET /orders` counts them by the state of their sagas."""

    async def place(request: Request) -> Response:
        try:
            order = msgspec.json.decode(await request.body(), type=Order)
        except msgspec.DecodeError as error:
            return JSONResponse({"error": f"{error}"}, 400)
        try:
            async with app.transaction() as tx:  # the row and the saga: both, or neither
                await tx.execute(
                    "INSERT INTO orders (id, sku, quantity, total_cents) VALUES ($1, $2, $3, $4)"
                    " ON CONFLICT (id) DO NOTHING",
                    *(order.id, order.sku, order.quantity, order.total_cents),
                )
                handle = await tx.start(PlaceOrder, order, key=order.id)
        except SagaConflict as error:  # this id belongs to another order
            return JSONResponse({"error": f"{error}"}, 409)
        except StoreError as error:  # nobody knows: ask again with the same id
            return JSONResponse({"error": f"{error}"}, 503)
        return JSONResponse({"saga": f"{handle.id}"}, 202)

    async def count(request: Request) -> Response:
        counts = await app.sagas.store.count("saga")
        return JSONResponse({status: number for (_, status), number in counts.items()})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with app:
            async with app.transaction() as tx:
                await tx.execute(ORDERS)
                await tx.execute(NOTIFICATIONS)
            yield

    routes = [Route("/orders", place, methods=["POST"]), Route("/orders", count)]
    return Starlette(routes=routes, lifespan=lifespan)


if __name__ == "__main__":
    serve(api(shop(*sys.argv[1:5])))
