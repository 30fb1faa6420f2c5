"""The pytest plugin: an app for each test, time that a test moves, and seeds for simulations.

pytest loads it wherever standfast is installed. So it imports nothing of the library before a test
asks for a fixture, or the command line for seeds.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import pytest

if TYPE_CHECKING:
    from standfast.app import Standfast
    from standfast.backends.postgres.scratch import ScratchPostgres
    from standfast.clock import Clock
    from standfast.ports.journal import Instance
    from standfast.saga.saga import Saga
    from standfast.testing.app_clock import AppClock
    from standfast.testing.simulation.report import SimulationReport

AppFactory: TypeAlias = "Callable[[str, Clock], Standfast]"

BACKENDS = ("memory", "sqlite", "postgres")
VARIABLE = "STANDFAST_POSTGRES"
MOST = 20
"""Sagas whose timelines a failed test shows, the newest."""

_app = pytest.StashKey["Standfast"]()
_told = pytest.StashKey[str]()
_seeds = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the command line."""
    group = parser.getgroup("standfast", "standfast: sagas")
    group.addoption(
        "--standfast-backend",
        choices=BACKENDS,
        default="sqlite",
        help="where the app of the fixture `standfast_app` keeps its sagas (default: sqlite)",
    )
    group.addoption(
        "--standfast-postgres",
        metavar="URL",
        help="a PostgreSQL server on which databases for the tests may be created "
        f"(default: the environment's {VARIABLE})",
    )
    group.addoption(
        "--standfast-seeds",
        metavar="N",
        type=_count,
        help="run each simulate(…) with so many seeds, and show how far it is",
    )
    group.addoption(
        "--standfast-seed",
        metavar="SEED",
        type=int,
        help="run this seed of each simulate(…) alone",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


# -- an app ----------------------------------------------------------------------------------------


@pytest.fixture
def standfast_sagas() -> Sequence[Saga[Any]]:
    """What the app of `standfast_app` has: override this fixture with one that returns yours.

    Sagas as instances, and patterns: all that ``app.add`` takes.
    """
    return ()


@pytest.fixture
def standfast_backend(request: pytest.FixtureRequest) -> str:
    """Where the app keeps its sagas: ``"memory"``, ``"sqlite"`` or ``"postgres"``.

    By default what the option ``--standfast-backend`` says. Override it, or have tests run with
    several: ``@pytest.mark.parametrize("standfast_backend", ["sqlite", "postgres"])``.
    """
    backend: Any = request.config.getoption("--standfast-backend")
    return str(backend)


@pytest.fixture(scope="session")
def _standfast_postgres(request: pytest.FixtureRequest) -> Iterator[ScratchPostgres]:
    """This session's database, and this xdist worker's, on the server that was given."""
    server = request.config.getoption("--standfast-postgres") or os.environ.get(VARIABLE)
    if not server:
        pytest.skip(
            "no PostgreSQL: give a server on which databases may be created, as "
            f"--standfast-postgres postgresql://… or in {VARIABLE}"
        )
    try:
        from standfast.backends.postgres.scratch import scratch_postgres
    except ModuleNotFoundError as missing:
        pytest.fail(f"{missing}: pip install asyncpg", pytrace=False)
    from standfast.errors import ConfigurationError, StoreUnavailable

    with ExitStack() as stack:
        try:
            worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
            scratch = stack.enter_context(scratch_postgres(server, worker))
        except (ConfigurationError, StoreUnavailable) as error:
            pytest.fail(f"no database for the tests: {error}", pytrace=False)
        yield scratch


@pytest.fixture
def standfast_url(standfast_backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The address of an empty database, for this test alone.

    On SQLite a new file. On PostgreSQL the database of this session and xdist worker, from which
    all schemas and tables were dropped: those of the test before, your own too.
    """
    if standfast_backend == "postgres":
        scratch: ScratchPostgres = request.getfixturevalue("_standfast_postgres")
        scratch.empty()
        return scratch.url
    if standfast_backend not in BACKENDS:
        pytest.fail(
            f"standfast_backend={standfast_backend!r}: give one of {', '.join(BACKENDS)}",
            pytrace=False,
        )
    return (
        "memory://" if standfast_backend == "memory" else f"sqlite:///{tmp_path / 'standfast.db'}"
    )


@pytest.fixture
def standfast_clock() -> AppClock:
    """Time that a test moves. A test that asks for it has an app whose time stands still until
    ``await standfast_clock.advance("3d")``; in all other tests time goes on by itself.
    """
    from standfast.testing.app_clock import AppClock

    return AppClock()


@pytest.fixture
def standfast_app_factory(standfast_sagas: Sequence[Saga[Any]]) -> AppFactory:
    """A function of a database's address and a clock that makes the app of `standfast_app`.

    Override this fixture where your own code makes the app; pass both on to `Standfast`, and
    ``migrate=True``.
    """

    def make(url: str, clock: Clock) -> Standfast:
        from standfast.app import Standfast

        if not isinstance(standfast_sagas, Iterable):
            pytest.fail(
                f"standfast_sagas returned {standfast_sagas!r}: return a list", pytrace=False
            )
        return Standfast(url, clock=clock, migrate=True).add(*standfast_sagas)

    return make


@pytest.fixture
def standfast_app(
    standfast_app_factory: AppFactory, standfast_url: str, request: pytest.FixtureRequest
) -> Iterator[Standfast]:
    """An app whose database has its tables, and whose worker runs while an ``async def test_…``
    does.

    Its worker begins in the test's own task, so that it works with each plugin that runs such
    tests, and ends with it; what is in flight then is cut off after a second. Before, in fixtures
    say, ``async with app.transaction()`` opens it for a while. A plain ``def`` adopts transactions,
    or takes ``app.blocking``, which is closed after the test: ``with app.blocking.running():`` runs
    the worker. When the test fails, its report has the timelines of the app's sagas.
    """
    from standfast.backends.postgres.options import redact
    from standfast.clock import SYSTEM_CLOCK
    from standfast.errors import ConfigurationError

    clock: AppClock | None = None
    if "standfast_clock" in request.fixturenames:
        clock = request.getfixturevalue("standfast_clock")
    app = standfast_app_factory(standfast_url, SYSTEM_CLOCK if clock is None else clock.for_apps)
    if _place(app.database.url) != _place(standfast_url):
        pytest.fail(
            f"standfast_app_factory was given the database {redact(standfast_url)} and made an app "
            f"on {app.database.url}: make it on the one that it is given",
            pytrace=False,
        )
    try:
        if clock is not None:
            clock.drive(app)
    except ConfigurationError:
        pytest.fail(
            "standfast_app_factory made an app without the clock that it was given, so that "
            "standfast_clock can't move its time: write Standfast(…, clock=clock)",
            pytrace=False,
        )
    with app.blocking:
        pass  # which makes the tables
    request.node.stash[_app] = app
    yield app
    app.blocking.close()


def _place(url: str) -> tuple[str | None, int | None, str]:
    """What an address names, whatever its options are."""
    parts = urlsplit(url)
    return parts.hostname, parts.port, parts.path


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Let a test's app run around it, and tell what a failed one wants to be told."""
    app = item.stash.get(_app, None)
    owner, name = _coroutine_function(item)
    test = getattr(owner, name, None)
    runs = app is not None and inspect.iscoroutinefunction(test)
    if app is not None and test is not None and runs:
        setattr(owner, name, _within(app, test, item, examples=owner is not item))
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        if app is not None and not runs:
            _keep_stories_of_sync_code(item, app, error)
        if item.stash.get(_told, ""):
            item.add_report_section("call", "sagas", item.stash[_told])
        if isinstance(error, AssertionError):
            _tell_of_seed(item, error)
        raise
    finally:
        if runs:
            setattr(owner, name, test)


def _coroutine_function(item: pytest.Item) -> tuple[Any, str]:
    """Where an item keeps the function that a plugin runs: Hypothesis has it inside another."""
    test = getattr(item, "obj", None)
    inner = getattr(test, "hypothesis", None)
    return (item, "obj") if inner is None else (inner, "inner_test")


def _within(
    app: Standfast, test: Callable[..., Any], item: pytest.Item, *, examples: bool
) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pytest.fail("standfast needs asyncio: run this test on no other backend", pytrace=False)
        async with app.running(name="pytest", drain=1.0):
            # Hypothesis calls this for each example, in one database: the last's are told.
            before = {one.id for one in await _newest(app)} if examples else ()
            try:
                return await test(*args, **kwargs)
            except (Exception, pytest.fail.Exception) as error:
                item.stash[_told] = await _stories(app, before, error)
                raise

    return run


def _keep_stories_of_sync_code(item: pytest.Item, app: Standfast, error: BaseException) -> None:
    from standfast.errors import StandfastError

    try:
        item.stash[_told] = app.blocking.complete(_stories(app, (), error))
    except StandfastError as problem:
        item.stash[_told] = f"they can't be read: {problem}"


async def _newest(app: Standfast) -> list[Instance]:
    from standfast.ports.journal import Filter

    return await app.sagas.journal.find(Filter(), limit=MOST + 1)


async def _stories(app: Standfast, before: Collection[UUID], error: BaseException) -> str:
    """The timelines of the app's sagas, oldest first: of those that weren't there `before`, and
    that `error` doesn't tell already.
    """
    from standfast.testing.assertions import story_of

    try:
        async with asyncio.timeout(5):
            found = [one for one in await _newest(app) if one.id not in before]
            untold = [one for one in found if f"({one.id})\n" not in f"{error}"]
            told = [story_of(await app.sagas.timeline(one.id)) for one in untold[:MOST]]
    except Exception as problem:  # noqa: BLE001 - the test's own failure is what counts
        return f"they can't be read: {type(problem).__name__}: {problem}"
    if len(untold) > MOST:
        told.append(f"(and those before the newest {MOST})")
    if not found:
        return "none was started"
    return "\n\n".join(reversed(told))


# -- seeds -----------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Pass on to `simulate` what the command line asks for."""
    count, alone = config.getoption("--standfast-seeds"), config.getoption("--standfast-seed")
    if count is None and alone is None:
        return
    from standfast.testing.simulation.session import SeedSession, seed_session

    stack = config.stash[_seeds] = ExitStack()
    progress = None if hasattr(config, "workerinput") else functools.partial(_show, config)
    stack.enter_context(seed_session(SeedSession(count, alone, progress)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Undo that."""
    if _seeds in config.stash:
        config.stash[_seeds].close()


def _show(config: pytest.Config, report: SimulationReport, total: int | None) -> None:
    """Print how far a simulation is, whatever is captured."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if reporter is None:
        return
    of = "" if total is None else f" of {total:,}"
    with ExitStack() as stack:
        if capture is not None:
            stack.enter_context(capture.global_and_fixture_disabled())
        reporter.ensure_newline()
        reporter.write_line(f"  {report.saga}: {report.seeds:,}{of} seeds, nothing violated yet")


def _tell_of_seed(item: pytest.Item, error: AssertionError) -> None:
    """Say how to run the seed again that failed, if a simulation did."""
    if "standfast.testing.simulation.simulate" not in sys.modules:
        return
    from standfast.testing.simulation.simulate import InvariantViolated

    if not isinstance(error, InvariantViolated):
        return
    count = item.config.getoption("--standfast-seeds")
    # It may be in the test's name, by `split_seeds`.
    seeds = "" if count is None else f" --standfast-seeds {count}"
    item.add_report_section(
        "call",
        "seed",
        f"To run seed {error.seed} of this test alone:\n\n"
        f"  pytest {shlex.quote(item.nodeid)}{seeds} --standfast-seed {error.seed}",
    )
