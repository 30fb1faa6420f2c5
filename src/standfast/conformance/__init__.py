"""The contract of the ports as tests, for authors of backends. Needs pytest and pytest-asyncio.

Subclass each suite in your tests and override its fixtures::

    class TestJournal(JournalSuite):
        @pytest.fixture
        async def database(self, tmp_path):
            database = SqliteDatabase(f"sqlite:///{tmp_path}/test.db")
            await database.open()
            await migrate(database)  # from standfast.conformance.samples
            yield database
            await database.close()

Every test needs a database without instances, leases and marks. What a backend says it can't do
(`Capabilities`) is skipped. `PolicySuite` is the contract of resilience policies, for authors of
those. The tests are ``async``: run them with ``asyncio_mode = "auto"``.
"""

try:
    import pytest
except ModuleNotFoundError as error:
    if error.name != "pytest":
        raise
    raise ModuleNotFoundError(
        "standfast.conformance is made of tests, so it needs pytest: pip install pytest "
        "pytest-asyncio",
        name=error.name,
    ) from error

_MODULES = (
    "claiming",
    "database",
    "journal",
    "leases",
    "marks",
    "policy_uses",
    "rate_limit",
    "resilience",
    "samples",
    "schema",
    "sql",
    "transaction",
    "writing",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))

from standfast.conformance.database import DatabaseSuite  # noqa: E402 - after the rewrite is set
from standfast.conformance.journal import JournalSuite  # noqa: E402
from standfast.conformance.leases import LeasesSuite  # noqa: E402
from standfast.conformance.marks import MarkSuite  # noqa: E402
from standfast.conformance.rate_limit import RateLimitSuite  # noqa: E402
from standfast.conformance.resilience import PolicySuite  # noqa: E402
from standfast.conformance.transaction import TransactionSuite  # noqa: E402

__all__ = [
    "DatabaseSuite",
    "JournalSuite",
    "LeasesSuite",
    "MarkSuite",
    "PolicySuite",
    "RateLimitSuite",
    "TransactionSuite",
]
