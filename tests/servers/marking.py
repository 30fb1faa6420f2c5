"""Which tests use a server, so that nobody has to remember to mark them `server`.

A test is marked when it asks for one of `FIXTURES`, itself or through other fixtures, and when one
of its parameters is a backend with a server, or a page of the documentation that needs one: such a
test or fixture asks only once it runs, and pytest doesn't foresee that. What slips through all the
same, fails and says so.
"""

from pathlib import Path

import pytest

from tests.docs.blocks import Page, PageError, read_page
from tests.servers.process import Server

FIXTURES = frozenset({"postgres_dsn", "postgres_server", "redis_server", "redis_url"})
BACKENDS = frozenset({"postgres", "redis"})


def mark(item: pytest.Item) -> None:
    """Mark a test that will use a server."""
    asked = FIXTURES.intersection(getattr(item, "fixturenames", ()))
    callspec = getattr(item, "callspec", None)
    if asked or (callspec is not None and any(map(_names_server, callspec.params.values()))):
        item.add_marker(pytest.mark.server)


def check(fixture: str, node: pytest.Item) -> None:
    """Fail a test that uses the fixture of a server without being marked."""
    if fixture in FIXTURES and node.get_closest_marker("server") is None:
        pytest.fail(
            f"{node.nodeid} uses {fixture}, and tests/servers/marking.py couldn't tell: call the "
            "backend 'postgres' or 'redis' in a parameter, or mark the test `server`",
            pytrace=False,
        )


def _names_server(value: object) -> bool:
    if isinstance(value, str):
        return value in BACKENDS
    if isinstance(value, type):
        return issubclass(value, Server)
    if isinstance(value, Path) and value.suffix == ".md":
        try:
            value = read_page(value)
        except PageError:
            return False  # tests/docs tells that
    return isinstance(value, Page) and value.needs_postgres
