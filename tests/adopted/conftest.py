"""An app, its database, and each way to open a transaction there."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from standfast import Barrier, Context, Saga, Standfast, step, wait
from standfast.ports.leases import LeaseStore
from tests.adopted.ways import POSTGRES, SQLITE, way


@dataclass
class Order:
    id: str


class Place(Saga[Order]):
    paid = wait("paid", type=int)

    @step(no_compensation="nothing to undo")
    async def ship(self, order: Order, ctx: Context) -> str:
        return f"shipped {order.id}"


class Ship(Saga[Order]):
    @step(no_compensation="nothing to undo")
    async def ship(self, order: Order, ctx: Context) -> str:
        return f"shipped {order.id}"


@pytest.fixture
def backend():
    """Its name; a parameter of the test stands for it."""
    return "sqlite"


@pytest.fixture
def url(backend, request, tmp_path):
    if backend == "sqlite":
        return f"sqlite:///{tmp_path}/app.db"
    return request.getfixturevalue("postgres_dsn")


@pytest.fixture
async def app(url):
    """An app that isn't open; its tables are there."""
    app = Standfast(url, migrate=True).add(Place(), Ship(), Barrier())
    async with app, app.transaction() as tx:
        await tx.execute("CREATE TABLE orders (id varchar(40) PRIMARY KEY, note varchar(40))")
    return app


@pytest.fixture
async def opened(url):
    """Opens ways by name; at the end they are rolled back and closed."""
    async with AsyncExitStack() as stack:

        async def open_one(name):
            one = way(name, url)
            await one.open()
            stack.push_async_callback(one.close)
            return one

        yield open_one


@pytest.fixture
def looked(app, monkeypatch):
    """The store tells the worker nothing; set once that has looked, so that only hints wake it."""
    store, looked = app.sagas.store, asyncio.Event()
    ask = store.next_wake

    async def next_wake(kinds):
        answer = await ask(kinds)
        looked.set()
        return answer

    monkeypatch.setattr(store, "next_wake", next_wake)
    monkeypatch.setattr(store, "on_due", lambda callback: lambda: None)
    # On SQLite that tells of any commit too.
    leases = app.database.port(LeaseStore)
    monkeypatch.setattr(leases, "on_freed", lambda callback: lambda: None)
    return looked


@pytest.fixture
def telling(name):
    """Asked for by tests of ways whose commits are told of: it is run for those alone."""
    return name


def pytest_generate_tests(metafunc):
    """`name`: each way, with the backend that it is for."""
    if "name" in metafunc.fixturenames:
        pairs = [("sqlite", name) for name in SQLITE] + [("postgres", name) for name in POSTGRES]
        if "telling" in metafunc.fixturenames:
            pairs = [pair for pair in pairs if {**SQLITE, **POSTGRES}[pair[1]][0].tells]
        metafunc.parametrize(("backend", "name"), pairs)
