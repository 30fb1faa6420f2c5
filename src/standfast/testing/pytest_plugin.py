"""The pytest plugin: an app for each test, time that a test moves, and seeds for simulations.

pytest loads it wherever standfast is installed. So it imports nothing of the library before a test
asks for a fixture, or the command line for seeds.
"""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

if TYPE_CHECKING:
    from standfast.app import Standfast
    from standfast.backends.postgres.scratch import ScratchPostgres
    from standfast.clock import Clock
    from standfast.saga.saga import Saga
    from standfast.testing.app_clock import AppClock
    from standfast.testing.simulation.report import SimulationReport

AppFactory: TypeAlias = "Callable[[str, Clock], Standfast]"

BACKENDS = ("memory", "sqlite", "postgres")
FIXTURES = frozenset({"standfast_app", "standfast_clock"})
VARIABLE = "STANDFAST_POSTGRES"

_app = pytest.StashKey["Standfast"]()
_told = pytest.StashKey[str]()
_called = pytest.StashKey[bool]()  # while a test runs: whether it is async
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
def standfast_clock(request: pytest.FixtureRequest) -> AppClock:
    """Time that a test moves. A test that asks for it has an app whose time stands still until
    ``await standfast_clock.advance("3d")``; in all other tests time goes on by itself.
    """
    from standfast.testing.app_clock import AppClock

    if _app in request.node.stash:
        pytest.fail(
            "standfast_clock was asked for when standfast_app was made already, so that it can't "
            "move its time: name it in the parameters of the test, or of a fixture",
            pytrace=False,
        )
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
    from standfast.clock import SYSTEM_CLOCK
    from standfast.errors import ConfigurationError
    from standfast.testing.app_under_test import made

    clock: AppClock | None = None
    if "standfast_clock" in request.fixturenames:
        clock = request.getfixturevalue("standfast_clock")
    if request.node.stash.get(_called, False):
        pytest.fail(
            "standfast_app was asked for when the test ran already, so that its worker can't run "
            "around it: name it in the parameters of the test, or of a fixture",
            pytrace=False,
        )
    app = made(standfast_app_factory, standfast_url, clock.for_apps if clock else SYSTEM_CLOCK)
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
    del request.node.stash[_app]
    app.blocking.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Tell what a fixture has to do that uses the app in another way than it can."""
    try:
        return (yield)
    except Exception as error:
        if _app in item.stash:
            from standfast.testing.app_under_test import note_what_to_do

            note_what_to_do(item.stash[_app], error)
        raise


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Let a test's app run around it, and tell what a failed one wants to be told."""
    app = item.stash.get(_app, None)
    owner, name = _coroutine_function(item)
    test = getattr(owner, name, None)
    runs = app is not None and _is_async(item)
    if app is not None and test is not None and runs:
        from standfast.testing.app_under_test import within

        app.blocking.close()  # a fixture may have used it
        tell = functools.partial(item.stash.__setitem__, _told)
        setattr(owner, name, within(app, test, tell, examples=owner is not item))
    item.stash[_called] = _is_async(item)
    try:
        with ExitStack() as stack:
            if not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
                from standfast.testing.forgotten import refusing_forgotten

                stack.enter_context(refusing_forgotten(can_await=_is_async(item)))
            return (yield)
    except (Exception, pytest.fail.Exception) as error:
        app = item.stash.get(_app, None)
        if app is not None:
            from standfast.testing.app_under_test import note_what_to_do, stories_of_sync_code

            note_what_to_do(app, error)
            if not runs:
                item.stash[_told] = stories_of_sync_code(app, error)
        if item.stash.get(_told, ""):
            item.add_report_section("call", "sagas", item.stash[_told])
        if isinstance(error, AssertionError):
            _tell_of_seed(item, error)
        raise
    finally:
        del item.stash[_called]
        if runs:
            setattr(owner, name, test)


def _is_async(item: pytest.Item) -> bool:
    owner, name = _coroutine_function(item)
    return inspect.iscoroutinefunction(getattr(owner, name, None))


def _coroutine_function(item: pytest.Item) -> tuple[Any, str]:
    """Where an item keeps the function that a plugin runs: Hypothesis has it inside another."""
    test = getattr(item, "obj", None)
    inner = getattr(test, "hypothesis", None)
    return (item, "obj") if inner is None else (inner, "inner_test")


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
