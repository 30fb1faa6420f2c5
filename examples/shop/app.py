"""The shop as an app: its database and its saga. Its web server and its worker both make one."""

import httpx

from examples.shop.clients import Courier, Payments, Stock
from examples.shop.saga import PlaceOrder
from standfast import Standfast


def shop(database: str, stock: str, payments: str, courier: str) -> Standfast:
    """Make it from the database's URL and the services' addresses."""
    http = httpx.AsyncClient(timeout=None)  # each step has a timeout of its own
    saga = PlaceOrder(Stock(http, stock), Payments(http, payments), Courier(http, courier))
    return Standfast(database, migrate=True).add(saga)
