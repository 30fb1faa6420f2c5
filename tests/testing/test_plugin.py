"""The pytest plugin, in small projects of users, each in a pytest of its own."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

pytest_plugins = ("pytester",)
pytestmark = pytest.mark.slow

SHOP = """
from standfast import Context, Saga, sleep, step

class Remind(Saga[str]):
    name, version = "remind", 1

    def __init__(self, pay):
        self.pay = pay

    @step(no_compensation="nothing to undo")
    async def first(self, order: str, ctx: Context) -> str:
        return order

    pause = sleep("3d")

    @step(no_compensation="nothing to undo")
    async def charge(self, order: str, ctx: Context) -> str:
        return await self.pay(order)
"""
CONFTEST = """
import pytest
from shop import Remind

async def pay(order):
    return f"paid {order}"

@pytest.fixture
def standfast_sagas():
    return [Remind(pay)]
"""
PASSES = """
import pytest
from shop import Remind
from standfast.testing import assert_completed

def each(app):
    return app.operations.each(app.operations.select())

class TestReminders:
    {mark}
    async def test_three_days_later(self, standfast_app, standfast_clock):
        handle = await standfast_app.start(Remind, "a")
        await standfast_clock.advance("2d")
        assert await handle.status() == "waiting"
        await standfast_clock.advance("1d")
        assert (await assert_completed(handle))[Remind.charge] == "paid a"

{mark}
async def test_empty_again(standfast_app):
    assert not [one async for one in each(standfast_app)]
    await standfast_app.start(Remind, "a", key="a")

{mark}
async def test_empty_still(standfast_app):
    assert not [one async for one in each(standfast_app)]
"""
FAILS = """
import pytest
from shop import Remind
from standfast.testing import assert_compensated, assert_completed, assert_parked

async def test_the_app_tells(standfast_app):
    handle = await standfast_app.start(Remind, "a", key="order-7")
    await standfast_app.start(Remind, "b", key="order-8")
    while await handle.status() != "waiting":
        pass
    assert False, "of the test's own"

async def test_the_assertion_tells(standfast_app, standfast_clock):
    handle = await standfast_app.start(Remind, "a", key="order-9")
    await standfast_clock.advance("1d")
    await assert_completed(handle, timeout=0.05)

async def test_another_end(standfast_app, standfast_clock):
    handle = await standfast_app.start(Remind, "a", key="order-10")
    await standfast_clock.advance("3d")
    await assert_parked(handle)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a saga, in which each warning is an error."""
    monkeypatch.delenv("CI", raising=False)  # where it is set, pytest's summary is a second report
    pytester.makepyfile(shop=SHOP, conftest=CONFTEST)
    configure(pytester, "strict")
    return pytester


def configure(project: pytest.Pytester, mode: str) -> None:
    project.makeini(
        f"[pytest]\nasyncio_mode={mode}\nasyncio_default_fixture_loop_scope=function\n"
        "filterwarnings=error\naddopts=--strict-config --strict-markers -p no:cacheprovider\n"
    )


@pytest.mark.parametrize("mode", ["strict", "auto", "anyio"])
def test_an_app_for_each_test_whatever_runs_it(project: pytest.Pytester, mode: str) -> None:
    configure(project, "auto" if mode == "auto" else "strict")
    marks = {"strict": "@pytest.mark.asyncio", "auto": "", "anyio": "@pytest.mark.anyio"}
    project.makepyfile(
        test_shop=PASSES.format(mark=marks[mode])
        + "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=3)


def test_it_runs_in_memory_too(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makepyfile(test_shop=PASSES.format(mark=""))
    result = project.runpytest_subprocess("--standfast-backend", "memory")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_failed_test_tells_what_happened(
    project: pytest.Pytester, options: tuple[str, ...]
) -> None:
    configure(project, "auto")
    project.makepyfile(test_shop=FAILS)
    result = project.runpytest_subprocess(*options)
    result.assert_outcomes(failed=3)
    result.stdout.re_match_lines_random(
        [
            r"-+ Captured sagas call -+",
            r"remind 'order-7' is waiting \(.*\)",
            r" +\+[\d.]+s +pause +sleeps for 3d",
            r"remind 'order-8' is (running|waiting) \(.*\)",
            r"E +AssertionError: not completed: saga 'remind' with key 'order-9' didn't end .*",
            r".*time stands still at .* until the test moves it, by .await standfast_clock.*",
            r"E +remind 'order-9' is waiting \(.*\)",
            r"E +now: pause: waits for 1d, until .*",
            r"E +AssertionError: not parked: it completed",
            r"E +\+3d +charge +completed: \"paid a\"",
        ]
    )
    assert "assertions.py" not in result.stdout.str(), "the traceback ends in the test"
    assert result.stdout.str().count("remind 'order-9' is") == 1, "the error tells it"


def test_your_own_code_makes_the_app(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makeconftest(
        """
        import pytest
        from shop import Remind
        from standfast import Standfast

        async def pay(order):
            return "by my own"

        @pytest.fixture
        def standfast_app_factory():
            def make(url, clock):
                return Standfast(url, clock=clock, migrate=True).add(Remind(pay))
            return make

        @pytest.fixture
        async def rows(standfast_app):
            async with standfast_app.transaction() as tx:
                await tx.execute("CREATE TABLE mine (id TEXT)")
        """
    )
    project.makepyfile(
        """
        from shop import Remind
        from standfast.testing import assert_completed

        async def test_it(rows, standfast_app, standfast_clock):
            async with standfast_app.transaction() as tx:
                await tx.execute("INSERT INTO mine (id) VALUES ('a')")
                handle = await tx.start(Remind, "a")
            await standfast_clock.advance("3d")
            assert (await assert_completed(handle))[Remind.charge] == "by my own"
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_hypothesis_has_an_app_for_each_example(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from hypothesis import HealthCheck, given, settings
        from hypothesis.strategies import integers
        from shop import Remind

        @pytest.mark.asyncio
        @settings(
            max_examples=3,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(number=integers())
        async def test_it(standfast_app, number):
            handle = await standfast_app.start(Remind, "a")
            assert await handle.status() in ("running", "waiting")
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_of_the_examples_of_hypothesis_the_last_is_told(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from hypothesis import HealthCheck, given, settings
        from hypothesis.strategies import integers
        from shop import Remind

        @pytest.mark.asyncio
        @settings(
            database=None,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(number=integers(0, 20))
        async def test_it(standfast_app, number):
            await standfast_app.start(Remind, f"{number}")
            assert number < 5
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(['*started as version 1: "5"*'])
    assert result.stdout.str().count("started as version 1") == 1


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_sync_code_has_an_app_too(project: pytest.Pytester, backend: str) -> None:
    project.makepyfile(
        """
        import sqlite3
        import threading

        import pytest
        from shop import Remind

        def test_it_works(standfast_app):
            with standfast_app.blocking.running():
                handle = standfast_app.blocking.start(Remind, "a")
                while handle.status() != "waiting":
                    pass

        def test_it_is_closed_after_the_test():
            assert not [one for one in threading.enumerate() if one.name == "standfast-blocking"]

        def test_it_adopts(standfast_app, standfast_backend, standfast_url):
            if standfast_backend == "memory":
                pytest.skip("it has no SQL")
            connection = sqlite3.connect(standfast_url.removeprefix("sqlite:///"))
            connection.execute("CREATE TABLE mine (id TEXT)")
            connection.execute("INSERT INTO mine VALUES ('a')")
            handle = standfast_app.adopt(connection).start(Remind, "a")
            connection.commit()
            connection.close()
            assert handle.status() == "running"

        def test_it_tells(standfast_app):
            standfast_app.blocking.start(Remind, "a", key="order-7")
            assert False, "of the test's own"
        """
    )
    result = project.runpytest_subprocess("--standfast-backend", backend)
    result.assert_outcomes(failed=1, passed=2 + (backend == "sqlite"), skipped=backend == "memory")
    result.stdout.re_match_lines([r"remind 'order-7' is running \(.*\)"])


MADE = """
import pytest
from shop import Remind
from standfast import Standfast

async def pay(order):
    return "paid"

@pytest.fixture
def standfast_app_factory():
    return lambda url, clock: {app}.add(Remind(pay))
"""


@pytest.mark.parametrize(
    ("app", "told"),
    [
        ("Standfast(url, migrate=True)", "*without the clock*clock=clock*"),
        (
            "Standfast('sqlite:///mine.db', clock=clock)",
            "*was given the database*on sqlite*mine.db*",
        ),
    ],
    ids=["the clock", "the address"],
)
def test_what_a_factory_forgets_is_told(project: pytest.Pytester, app: str, told: str) -> None:
    project.makeconftest(MADE.format(app=app))
    project.makepyfile("async def test_it(standfast_app, standfast_clock): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told])
    assert not (project.path / "mine.db").exists()


def test_an_address_may_be_given_options(project: pytest.Pytester) -> None:
    project.makeconftest(MADE.format(app="Standfast(f'{url}?readers=2', clock=clock)"))
    project.makepyfile("def test_it(standfast_app, standfast_clock): pass")
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_one_saga_is_no_list(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from shop import Remind

        @pytest.fixture
        def standfast_sagas():
            return Remind(None)
        """
    )
    project.makepyfile("def test_it(standfast_app): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*standfast_sagas returned *: return a list*"])


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("lambda url, clock: None", "*returned made None*Standfast(…)*"),
        (
            "lambda url: Standfast(url)",
            "*can't be called with*too many positional*lambda url, clock*",
        ),
        ("Standfast(standfast_url)", "*standfast_app_factory returned <*return a function*"),
    ],
    ids=["None", "its signature", "an app"],
)
def test_what_is_no_factory_is_told(project: pytest.Pytester, returned: str, told: str) -> None:
    project.makeconftest(
        f"""
        import pytest
        from standfast import Standfast

        @pytest.fixture
        def standfast_app_factory(standfast_url):
            return {returned}
        """
    )
    project.makepyfile("def test_it(standfast_app): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([told])


def test_what_nobody_awaits_fails_the_test(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makepyfile(
        """
        from shop import Remind
        from standfast.testing import assert_completed

        async def other():
            pass

        def test_a_start_in_def(standfast_app):
            assert standfast_app.start(Remind, "a")

        def test_time_in_def(standfast_app, standfast_clock):
            standfast_clock.advance("3d")

        async def test_an_assertion(standfast_app):
            assert_completed(await standfast_app.start(Remind, "a"))

        def test_of_its_own(standfast_app):
            assert standfast_app.start(Remind, "a") is None
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "this was called and never awaited, so that nothing was done:",
            '  test_what*.py:8: assert standfast_app.start(Remind, "a")',
            "a test that is `def` calls what `standfast_app.blocking` has, *",
            '  test_what*.py:11: standfast_clock.advance("3d")',
            '  test_what*.py:14: assert_completed(await standfast_app.start(Remind, "a"))',
            "write `await` before it",
            "*assert <coroutine object * is None",
        ]
    )


def test_coroutines_that_arent_ours_warn_as_ever(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makepyfile(
        """
        import warnings
        import pytest

        async def other():
            pass

        @pytest.mark.filterwarnings("default")
        def test_it(standfast_app):
            other()
            warnings.warn("one of its own")
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=1, warnings=2)


def test_a_clock_or_an_app_that_comes_too_late_is_told(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makepyfile(
        """
        import pytest

        @pytest.fixture
        def late(request, standfast_app):
            return request.getfixturevalue("standfast_clock")

        async def test_by_a_fixture(standfast_app, late): pass

        async def test_by_itself(standfast_app, request):
            request.getfixturevalue("standfast_clock")

        async def test_an_app(request):
            request.getfixturevalue("standfast_app")

        def test_in_def(request):
            request.getfixturevalue("standfast_app").blocking.start("remind", "a")

        async def test_in_time(late, standfast_clock):
            await standfast_clock.advance("1d")
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=2, failed=2, errors=1)
    clock = "*standfast_clock was asked for when standfast_app was made already*name it*"
    app = "*standfast_app was asked for when the test ran already*name it*"
    result.stdout.fnmatch_lines([clock, clock, app])


def test_an_app_without_sagas_points_to_the_fixture(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makeconftest("")
    project.makepyfile(
        """
        from shop import Remind

        async def test_it(standfast_app):
            await standfast_app.start(Remind, "a")

        def test_in_def(standfast_app):
            standfast_app.blocking.start("remind", "a")
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*override the fixture `standfast_sagas`*"] * 2)


def test_what_fixtures_may_start_with(project: pytest.Pytester) -> None:
    configure(project, "auto")
    project.makepyfile(
        """
        import pytest
        from shop import Remind

        @pytest.fixture
        async def awaited(standfast_app):
            return await standfast_app.start(Remind, "a")

        @pytest.fixture
        def blocking(standfast_app):
            return standfast_app.blocking.start(Remind, "a", key="b").id

        async def test_awaited(awaited): pass

        async def test_blocking(standfast_app, blocking):
            assert await standfast_app.handle(blocking).status() in ("running", "waiting")
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*In a fixture, `async with standfast_app.transaction()*"])


def test_assertions_of_sync_code_are_made_at_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from shop import Remind
        from standfast.testing import assert_compensated, assert_completed

        def test_it(standfast_app):
            with standfast_app.blocking.running():
                handle = standfast_app.blocking.start(Remind, "a")
                handle.cancel("no time")
                assert assert_compensated(handle, because="no time")
                assert_completed(handle)
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines([r"E +AssertionError: not completed: .*no time"])
    assert "assertions.py" not in result.stdout.str(), "the traceback ends in the test"


def test_what_isnt_asyncio_is_told_so(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_pyfunc_call(pyfuncitem):
            with pytest.raises(StopIteration):
                pyfuncitem.obj(standfast_app=None).send(None)
            return True
        """
    )
    project.makepyfile("async def test_it(standfast_app): pass")
    result = project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*standfast needs asyncio: run this test on no other backend*"])


def test_it_costs_nothing_where_it_isnt_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.hasplugin("standfast")
            loaded = {name for name in sys.modules if name.partition(".")[0] == "standfast"}
            assert loaded == {
                "standfast",
                "standfast._version",
                "standfast.lazy",
                "standfast.testing",
                "standfast.testing.pytest_plugin",
            }
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


# -- PostgreSQL ------------------------------------------------------------------------------------

ON_POSTGRES = (
    "import pathlib\n"
    + PASSES.format(mark="@pytest.mark.asyncio")
    + """
@pytest.mark.asyncio
@pytest.mark.parametrize("number", range(4))
async def test_tables(standfast_app, number):
    async with standfast_app.transaction() as tx:
        await tx.execute("CREATE TABLE mine (id TEXT)")
        (row,) = await tx.fetch("SELECT version() AS version, current_database() AS name")
    assert row["version"].startswith("PostgreSQL")
    pathlib.Path(f"{number}.name").write_text(row["name"])
"""
)


def databases(server: str) -> set[str]:
    """The databases of test sessions on a server."""

    async def names() -> set[str]:
        connection = await asyncpg.connect(server)
        try:
            rows = await connection.fetch("SELECT datname FROM pg_database")
        finally:
            await connection.close()
        return {row["datname"] for row in rows if row["datname"].startswith("standfast_test_")}

    return asyncio.run(names())


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_database_of_its_own_on_postgres(
    project: pytest.Pytester, postgres_dsn: str, options: tuple[str, ...]
) -> None:
    project.makepyfile(test_shop=ON_POSTGRES)
    given = ("--standfast-backend", "postgres", "--standfast-postgres", postgres_dsn)
    result = project.runpytest_subprocess(*given, *options)
    result.assert_outcomes(passed=7)
    names = {path.read_text() for path in project.path.glob("*.name")}
    assert 1 <= len(names) <= (2 if options else 1), "one for each process"
    assert all(name.startswith("standfast_test_") for name in names)
    assert not names & databases(postgres_dsn), "it is dropped at the end"


def test_the_address_may_be_in_the_environment(
    project: pytest.Pytester, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDFAST_POSTGRES", postgres_dsn)
    project.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("standfast_backend", ["memory", "sqlite", "postgres"])
        def test_it(standfast_backend, standfast_url):
            schemes = {"memory": "memory", "sqlite": "sqlite", "postgres": "postgresql"}
            assert standfast_url.partition(":")[0] == schemes[standfast_backend]
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=3)


def test_without_a_server_it_says_what_to_give(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STANDFAST_POSTGRES", raising=False)
    project.makepyfile("def test_it(standfast_app): pass")
    asked = ("--standfast-backend", "postgres")
    result = project.runpytest_subprocess(*asked, "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no PostgreSQL: give a server*--standfast-postgres*"])
    # What was given has to work.
    nowhere = "postgresql://me:secret@127.0.0.1:1/nowhere"
    result = project.runpytest_subprocess(*asked, "--standfast-postgres", nowhere)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no database for the tests: postgresql://*127.0.0.1:1*"])
    assert "secret" not in result.stdout.str()
    result = project.runpytest_subprocess(*asked, "--standfast-postgres", "mysql://there")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*no database for the tests: *postgresql://*mysql*"])


def test_the_database_lives_beside_others(postgres_dsn: str) -> None:
    from standfast.backends.postgres.scratch import scratch_postgres

    with scratch_postgres(f"{postgres_dsn}?application_name=mine", "me") as scratch:
        name = urlsplit(scratch.url).path.removeprefix("/")
        assert name.startswith("standfast_test_me_")
        assert scratch.url.endswith("?application_name=mine")
        assert name in databases(postgres_dsn)
        scratch.empty()
    assert name not in databases(postgres_dsn)


# -- seeds -----------------------------------------------------------------------------------------

SIMULATED = """
import pytest
from standfast import Context, Saga, step
from standfast.testing import Ledger, simulate, split_seeds

class Pay(Saga[int]):
    name, version = "pay", 1

    def __init__(self):
        self.payments = Ledger("payments", barrier={barrier})

    @step(no_compensation="nothing to undo", timeout="5s")
    async def charge(self, amount: int, ctx: Context) -> str:
        return await self.payments.post(ctx, amount)

def test_some():
    print("seeds:", simulate(Pay, 5, seeds=3).seeds)

def test_listed():
    print("listed:", simulate(Pay, 5, seeds=[7, 8]).seeds)

@pytest.mark.parametrize("seeds", split_seeds(4, 2), ids=str)
def test_split(seeds):
    print("split:", simulate(Pay, 5, seeds=seeds).seeds)
"""


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ((), ["3", "2", "2", "2"]),
        (("--standfast-seeds", "12"), ["12", "2", "6", "6"]),
        (("--standfast-seed", "5"), ["1", "1", "1", "1"]),
    ],
    ids=["as written", "more", "one"],
)
def test_the_number_of_seeds_is_asked_for(
    pytester: pytest.Pytester, options: tuple[str, ...], counts: list[str]
) -> None:
    pytester.makepyfile(SIMULATED.format(barrier=True))
    result = pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider", *options)
    result.assert_outcomes(passed=4)
    assert re.findall(r"(?:seeds|listed|split): (\d+)", result.stdout.str()) == counts


def test_a_number_that_is_none_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--standfast-seeds", "0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--standfast-seeds*'0'*"])


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_violation_tells_how_to_run_its_seed(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_pay=SIMULATED.format(barrier=False))
    asked = ("-p", "no:cacheprovider", "--standfast-seeds", "200")
    result = pytester.runpytest_subprocess(*asked, "-k", "some or split", *options)
    found = re.search(r"pytest (.*test_some .*--standfast-seed (\d+))", result.stdout.str())
    assert found is not None, result.stdout.str()
    again = pytester.runpytest_subprocess("-p", "no:cacheprovider", *shlex.split(found[1]))
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines([f"*What happened (seed {found[2]}, *"])
    split = re.search(r"pytest ('.*test_split.*--standfast-seed \d+)", result.stdout.str())
    assert split is not None, result.stdout.str()
    again = pytester.runpytest_subprocess("-p", "no:cacheprovider", *shlex.split(split[1]))
    again.assert_outcomes(failed=1)


def test_progress_is_shown_and_ctrl_c_stops(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(SIMULATED.format(barrier=True))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", path.name, "-p", "no:cacheprovider", "-k", "some"),
            *("--standfast-seeds", "100000000"),
        ],
        cwd=pytester.path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if re.search(r"pay: [\d,]+ of 100,000,000 seeds, nothing violated yet", line):
                break
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, told
    assert "KeyboardInterrupt" in told
    assert "INTERNALERROR" not in told
    assert not re.search(r"never (awaited|retrieved)|destroyed", told), told


def test_the_plugin_is_at_hand_by_its_entry_point() -> None:
    from importlib.metadata import entry_points

    (ours,) = [one for one in entry_points(group="pytest11") if one.name == "standfast"]
    assert ours.value == "standfast.testing.pytest_plugin"
    assert Path(sys.modules[ours.value].__file__ or "").name == "pytest_plugin.py"


@pytest.mark.parametrize("count", [20, 21])
def test_of_many_sagas_a_failed_test_tells_the_newest(project: pytest.Pytester, count: int) -> None:
    configure(project, "auto")
    project.makepyfile(
        f"""
        from shop import Remind

        async def test_it(standfast_app, standfast_clock):
            for number in range({count}):
                await standfast_app.start(Remind, "a", key=f"order-{{number}}")
            assert False
        """
    )
    told = project.runpytest_subprocess().stdout.str()
    assert ("remind 'order-0' " in told) is (count == 20)
    assert "remind 'order-1' " in told
    assert ("(and those before the newest 20)" in told) is (count == 21)


def test_one_case_of_a_hypothesis_test_runs_without_the_app_of_another(
    project: pytest.Pytester,
) -> None:
    project.makepyfile(
        """
        import pytest
        from hypothesis import HealthCheck, given, settings
        from hypothesis.strategies import integers

        apps = []

        @pytest.mark.asyncio
        @pytest.mark.parametrize("case", [1, 2])
        @settings(
            max_examples=1,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(number=integers())
        async def test_it(standfast_app, case, number):
            apps.append(standfast_app)
            assert [app for app in apps if app.supervisor is not None] == [standfast_app]
        """
    )
    project.runpytest_subprocess().assert_outcomes(passed=2)


@pytest.mark.parametrize("url", ["postgresql://u@db/x?password=pw", "postgresql://u:pw@db/x"])
def test_an_address_is_told_without_its_password(project: pytest.Pytester, url: str) -> None:
    elsewhere = "Standfast('sqlite:///mine.db', clock=clock)"
    given = f"@pytest.fixture\ndef standfast_url():\n    return {url.replace('pw', 'hidden')!r}\n"
    project.makeconftest(MADE.format(app=elsewhere) + given)
    project.makepyfile("def test_it(standfast_app): pass")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*was given the database postgresql://u*@db/x*sqlite:*"])
    result.stdout.no_fnmatch_line("*was given*hidden*")
