"""Apps for sync code, on each database, closed after the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from standfast import Standfast
from tests.blocking.sagas import app_on


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database's."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/blocking.db"
    if request.param == "memory":
        return "memory://"
    dsn: str = request.getfixturevalue("postgres_dsn")
    return dsn


@pytest.fixture
def app(url: str) -> Iterator[Standfast]:
    app = app_on(url)
    yield app
    app.blocking.close()
