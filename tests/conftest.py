"""What every test may ask for."""

from typing import Any

import pytest

from tests.docs.blocks import ROOT, PageError, pages
from tests.servers import marking
from tests.servers.fixtures import (
    _postgres_address,
    _redis_address,
    postgres_dsn,
    postgres_server,
    redis_server,
    redis_url,
    tcp_proxy,
)

__all__ = [
    "_postgres_address",
    "_redis_address",
    "postgres_dsn",
    "postgres_server",
    "redis_server",
    "redis_url",
    "tcp_proxy",
]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that use a server: `make quick` leaves them out."""
    marking.mark(item)


def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> None:
    """Let no test use a server without being marked."""
    if isinstance(request.node, pytest.Item):
        marking.check(fixturedef.argname, request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell which code of the documentation nobody runs."""
    try:
        blocks = [block for page in pages() for block in page.blocks]
    except PageError:
        return  # tests/docs could not be collected, and that is told already
    skipped = [block for block in blocks if block.skip_reason is not None]
    if skipped:
        terminalreporter.section("documentation that was not run")
    for block in skipped:
        terminalreporter.line(f"{block.page.relative_to(ROOT)}:{block.line}: {block.skip_reason}")
