"""What every test may ask for."""

import pytest

from tests.docs.blocks import ROOT, PageError, pages
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
