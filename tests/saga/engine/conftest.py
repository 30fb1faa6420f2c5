"""The engine on every backend that can do what a test needs.

| fixture | the backends |
|---|---|
| `app_url` | all |
| `durable_url` | those that several processes share, and that survive a crash |
| `shared_url` | of these, those on which several workers run at once |
| `lone_url` | of these, those that take one worker, while others stand by |
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from standfast import Standfast
from standfast.backends.memory import MemoryDatabase
from standfast.backends.postgres import PostgresDatabase
from standfast.backends.sqlite import SqliteDatabase
from standfast.ports.database import Capabilities

BACKENDS = {
    "memory": MemoryDatabase.capabilities,
    "sqlite": SqliteDatabase.capabilities,
    "postgres": PostgresDatabase.capabilities,
}


def _having(able: Callable[[Capabilities], bool]) -> list[str]:
    return [name for name, capabilities in BACKENDS.items() if able(capabilities)]


def _url(request: pytest.FixtureRequest) -> str:
    if request.param == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        return dsn
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/app.db"
    return "memory://"


@pytest.fixture(params=list(BACKENDS))
def app_url(request: pytest.FixtureRequest) -> str:
    return _url(request)


@pytest.fixture(params=_having(lambda c: c.durable and c.many_processes))
def durable_url(request: pytest.FixtureRequest) -> str:
    return _url(request)


@pytest.fixture(params=_having(lambda c: c.many_processes and c.many_workers))
def shared_url(request: pytest.FixtureRequest) -> str:
    return _url(request)


@pytest.fixture(params=_having(lambda c: c.many_processes and not c.many_workers))
def lone_url(request: pytest.FixtureRequest) -> str:
    return _url(request)


@pytest.fixture
async def work(app_url: str) -> AsyncIterator[Callable[..., Any]]:
    """``await work(SagaA(…), …, lease=…)``: an app on `app_url` with a worker."""
    async with AsyncExitStack() as stack:

        async def begin(*sagas: Any, **options: Any) -> Standfast:
            app = Standfast(app_url, migrate=True).add(*sagas)
            await stack.enter_async_context(app.running(**{"drain": 2, **options}))
            return app

        yield begin
