"""Finding an app, opening its database, and the commands about both."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from standfast import __version__
from tests.cli.conftest import STANDFAST, in_process

pytestmark = pytest.mark.slow  # many processes, or databases of files


def test_version(standfast):
    assert standfast("--version").stdout == f"standfast {__version__}\n"


def test_without_the_extra_one_line_says_how_to_install_it():
    code = "import sys; sys.modules['typer'] = None\nfrom standfast.cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "the standfast command needs typer and rich: pip install typer rich, or install standfast "
        "with its extra `cli`\n"
    )


def test_the_suites_say_that_they_need_pytest():
    code = "import sys; sys.modules['pytest'] = None\nimport standfast.conformance"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "needs pytest: pip install pytest pytest-asyncio" in done.stderr


def test_an_app_with_nothing_added_is_told_so(shop, standfast):
    (shop / "bare.py").write_text(
        "from standfast import Standfast\napp = Standfast('sqlite:///bare.db')\n"
    )
    for command, code in (("run", 2), ("migrate", 0)):
        told = standfast(command, "--app", "bare:app", code=code).stderr
        assert "nothing was added" in told
        assert "app.add(PlaceOrder(…))" in told


def test_a_time_needs_its_zone(shop, standfast):
    told = standfast(
        *("sagas", "start", "place-order", "--app", "shop:app", "--at", "2030-01-01"), code=2
    ).stderr
    assert told == (
        "error: --at '2030-01-01' has no time zone: write it behind the time, as in "
        "2030-01-31T09:00+01:00, or 2030-01-31T08:00Z for UTC\n"
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop", "write module:attribute"),
        (":app", "write module:attribute"),
        ("nowhere:app", "no module 'nowhere'"),
        ("shop.nowhere:app", "no module 'shop.nowhere'"),
        ("shop:nothing", "has no 'nothing'; it has shop:app"),
        ("shop:SHOP", "has no 'SHOP'"),
        ("shop:Order", "calling Order() raised TypeError"),
        ("shop:__name__", "is a str, not a Standfast app"),
        ("shop:broken", "calling broken() raised RuntimeError: no luck"),
        ("faulty:app", "importing 'faulty' raised ZeroDivisionError"),
        ("ending:app", 'under `if __name__ == "__main__":`'),
        ("needy:app", "importing 'needy' raised ModuleNotFoundError: No module named 'absent'"),
        ("mysql://x/y", "no backend for 'mysql' URLs"),
        ("memory://", "lives and dies with the process"),
        ("://shop.db", "that is no database's URL: use sqlite:///shop.db"),
    ],
)
def test_what_is_no_app_is_told_in_one_line(shop, standfast, target, said):
    (shop / "faulty.py").write_text("1 / 0\n")
    (shop / "needy.py").write_text("import absent\n")
    (shop / "ending.py").write_text("from shop import app\nraise SystemExit(0)\n")
    result = standfast("workers", "--app", target, code=2)
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("target", "instead"),
    [
        ("./shop.py:app", "write shop:app\n"),
        ("./shop:app", "write shop:app\n"),
        ("shop.py:make", "write shop:make\n"),
        ("shop.py", "write shop:app\n"),
        ("./shop", "write shop:app\n"),
        ("shop.py:", "write shop:app\n"),
        ("{folder}/shop.py:app", "write shop:app\n"),
        ("parts/store.py:app", "write parts.store:app\n"),
        ("parts\\store.py:app", "write parts.store:app\n"),
        ("parts/__init__.py:app", "write parts:app\n"),
        ("/nowhere/shop.py:app", "write shop:app, in the folder /nowhere\n"),
        ("shop/app", "write module:attribute, such as shop:app\n"),
    ],
)
def test_for_a_path_the_module_is_told(shop, standfast, target, instead):
    target = target.format(folder=shop)
    told = standfast("workers", "--app", target, code=2).stderr
    assert told == f"error: APP={target!r} is a path: {instead}"


@pytest.mark.parametrize(
    "command",
    [
        "services",
        "workers",
        "migrate --status",
        "purge-marks --older-than 1d --dry-run",
        "sagas list",
        "sagas show a/1",
        "sagas start place-order",
        "sagas fork a/1",
        "sagas cancel a/1",
        "sagas purge --finished-for 1d --dry-run",
        "sagas export",
        "sagas check-compat",
        "sagas describe",
        "sagas diagram a/1",
    ],
)
def test_an_app_may_run_an_event_loop_when_it_is_imported(shop, standfast, command):
    """A script without a guard for being imported: some commands failed, others took it."""
    (shop / "script.py").write_text(
        "import asyncio\nfrom shop import app\nasyncio.run(asyncio.sleep(0))\n"
    )
    code = 0 if command == "sagas describe" else 1
    told = standfast(*command.split(), "--app", "script:app", code=code).stderr
    assert ("there is no database at shop.db" in told) == bool(code)


def test_debug_shows_where(shop, standfast):
    (shop / "faulty.py").write_text("1 / 0\n")
    result = standfast("--debug", "workers", "--app", "faulty:app", code=2)
    assert 'faulty.py", line 1' in result.stderr
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize("target", ["shop:app", "shop:make", "sqlite:///shop.db"])
def test_only_migrate_makes_a_file(shop, standfast, target):
    file = Path("shop.db")
    assert "there is no database at shop.db" in standfast("workers", "--app", target, code=1).stderr
    assert "there is no database at shop.db" in standfast("run", "--app", "shop:app", code=1).stderr
    assert not file.exists()
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE somebody_elses (x)")
    connection.close()
    before = file.read_bytes()
    for command in (["workers", "--app", target], ["run", "--app", "shop:app"]):
        assert "has none of Standfast's tables" in standfast(*command, code=1).stderr
    assert file.read_bytes() == before
    assert list(Path().glob("shop.db?*")) == []
    lines = ["--line", "journal", "--line", "marks"] if "://" in target else []
    assert "applied journal 1: " in standfast("migrate", "--app", target, *lines).stdout
    assert standfast("migrate", "--app", target).stdout.startswith(
        "sqlite:///shop.db is at coordination "
    )
    assert json.loads(standfast("workers", "--app", target, "--json").stdout) == []


def test_a_database_that_is_away_is_told(folder, standfast):
    url = "postgresql://u:secret@127.0.0.1:1/x"
    result = standfast("sagas", "list", "--app", url, code=1)
    assert result.stderr.startswith("error: ")
    assert "secret" not in result.output
    assert result.stderr.count("\n") == 1


def test_what_is_no_database_is_told(shop, standfast):
    result = standfast("workers", "--app", "sqlite:///shop.py", code=1)
    assert result.stderr.startswith("error: shop.py")


@pytest.mark.parametrize("command", [["start", "x"], ["describe"], ["diagram", "x"], ["fork", "x"]])
def test_where_code_is_needed_an_address_is_not_enough(folder, standfast, command):
    told = standfast("sagas", *command, "--app", "sqlite:///shop.db", code=2).stderr
    assert "the code is needed" in told


def test_the_app_may_come_from_the_environment(shop, standfast, monkeypatch):
    monkeypatch.setenv("STANDFAST_APP", "shop:app")
    standfast("migrate")
    assert standfast("sagas", "list", "--json").stdout == "[]\n"


def test_an_app_that_migrates_by_itself_is_run(shop, standfast):
    (shop / "eager.py").write_text(
        "from shop import PlaceOrder, Standfast\n"
        "app = Standfast('sqlite:///eager.db', migrate=True).add(PlaceOrder())\n"
    )
    worker = in_process("run", "--app", "eager:app")
    try:
        assert "working; stop with" in worker.stderr.readline()
    finally:
        worker.terminate()
        worker.communicate(timeout=60)
    assert worker.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lease", "soon"], "lease='soon'"),
        (["--lease", "nan"], "lease=nan"),
        (["--poll", "0"], "poll=0.0"),
        (["--max-in-flight", "0"], "max_in_flight=0"),
        (["--threads", "0"], "threads=0"),
        (["--drain", "-1"], "drain=-1.0"),
        (["--log-level", "loud"], "'loud'"),
        (["--only", "sages"], "--only 'sages': there is no such service; this app has sagas"),
        (["--only", "sagas,barrier"], "--only 'sagas,barrier': there is no such service"),
        (["--only", "sagas,barrier"], "repeat the option: --only NAME --only NAME"),
        (["--only", ""], "--only '': there is no such service; this app has sagas"),
        (["--only", "sagas", "--only", ""], "--only '': there is no such service"),
        (["--health", "web"], "--health 'web': write PORT or HOST:PORT"),
        (["--health", "70000"], "--health '70000': write PORT or HOST:PORT"),
    ],
)
def test_run_refuses_wrong_options(shop, standfast, arguments, said):
    standfast("migrate", "--app", "shop:app")
    assert said in standfast("run", "--app", "shop:app", *arguments, code=2).output


@pytest.mark.parametrize(
    "arguments",
    [
        ["purge-marks", "--app", "shop:app", "--older-than", "90"],
        ["sagas", "purge", "--app", "shop:app", "--finished-for", "90"],
        ["sagas", "list", "--app", "shop:app", "--older-than", "90"],
        ["sagas", "retry", "--app", "shop:app", "--newer-than", "90"],
    ],
)
def test_how_long_ago_needs_a_unit(shop, standfast, arguments):
    standfast("migrate", "--app", "shop:app")
    assert "give 90 a unit, such as 90d" in standfast(*arguments, code=2).stderr


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nowhere.invalid:0", "give an address of this machine's, or 0.0.0.0 for all of them"),
        ("192.0.2.1:0", "that isn't this machine's: give an address of its own, or 0.0.0.0 for"),
    ],
)
def test_an_address_that_is_not_this_machines_is_told(shop, standfast, address, said):
    standfast("migrate", "--app", "shop:app")
    told = standfast("run", "--app", "shop:app", "--health", address, code=1).stderr
    assert told.startswith(f"error: --health '{address}': can't listen on ")
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_works_until_it_is_told_to_stop(shared_shop, standfast, number):
    worker = in_process("run", "--app", "shop:make", "--migrate", "--name", "w1", "--lease", "5")
    try:
        said = ""
        while "working; stop with" not in said:
            line = worker.stderr.readline()
            assert line, said
            said += line
        (one,) = json.loads(standfast("workers", "--app", "shop:app", "--json").stdout)
        assert one["name"] == "w1"
        assert [(saga["name"], saga["version"]) for saga in one["sagas"]] == [("place-order", 1)]
        assert "place-order v1" in standfast("workers", "--app", "shop:app").stdout
        worker.send_signal(number)
        out, err = worker.communicate(timeout=60)
    finally:
        worker.kill()
        worker.communicate()
    assert worker.returncode == 0, err
    assert "draining" in err
    assert out == ""
    assert json.loads(standfast("workers", "--app", "shop:app", "--json").stdout) == []


OLD = [
    ["migrate", "shop:app"],
    ["services", "shop:app"],
    ["workers", "sqlite:///shop.db"],
    ["purge-marks", "shop:app", "--older-than", "90d", "--yes"],
    ["sagas", "check-compat", "shop:app"],
]


def test_the_app_as_an_argument_is_the_old_way(shop, standfast, monkeypatch):
    standfast("migrate", "-a", "shop:app")
    for command in OLD:
        told = standfast(*command)
        app = next(one for one in command if ":" in one)
        warning = f"warning: give the app as an option, --app {app} (or -a)\n"
        assert told.stderr.startswith(warning), command
        twice = standfast(*command, "-a", "shop:make", code=2).stderr
        assert f"the app was given twice, as 'shop:make' and as {app!r}" in twice, command
        assert "too much: 'and more'" in standfast(*command, "and more", code=2).stderr, command
        assert "[APP]" not in standfast(*command[: command.index(app)], "--help").stdout
    with monkeypatch.context() as context:
        context.setenv("STANDFAST_APP", "nowhere:app")
        assert "warning: " in standfast("migrate", "shop:app").stderr, "it goes before"


@pytest.mark.parametrize("command", [["run"], ["migrate"], ["workers"], ["sagas", "check-compat"]])
def test_without_an_app_it_is_asked_for(folder, standfast, command):
    told = standfast(*command, code=2).stderr
    assert told == ("error: say which app: --app module:attribute (or -a), or set STANDFAST_APP\n")


def test_the_terminals_encoding_loses_no_answer(shop, standfast):
    standfast("migrate", "-a", "shop:app")
    sent = standfast("sagas", "start", "-a", "shop:app", "place-order", "--input", '{"id": "漢"}')
    done = subprocess.run(
        [STANDFAST, "sagas", "show", "-a", "shop:app", sent.stdout.strip()[-8:]],
        env=dict(os.environ) | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert b"\\u6f22" in done.stdout


@pytest.fixture
def full_of_sagas(shop, standfast):
    standfast("migrate", "-a", "shop:app")
    standfast("sagas", "start", "-a", "shop:app", "place-order", "--input", '{"id": "1"}')


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "command",
    [
        ["--version"],
        ["sagas", "list", "-a", "shop:app"],
        ["sagas", "list", "-a", "shop:app", "--json"],
        ["sagas", "export", "-a", "shop:app"],
    ],
)
def test_an_answer_that_cant_be_written_is_told_in_one_line(full_of_sagas, command):
    with open("/dev/full", "w") as out:
        done = _into(out, command)
    assert done.returncode == 1
    *notes, line = done.stderr.splitlines()
    assert line == (
        "error: the answer can't be written to standard output: No space left on device"
    )
    assert all(note.startswith("no live worker") for note in notes)


@pytest.mark.parametrize("command", [["list"], ["export"], ["list", "--json"]])
def test_a_reader_that_is_gone_isnt_told_as_a_no(full_of_sagas, command):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = _into(writing, ["sagas", *command, "-a", "shop:app"])
    finally:
        os.close(writing)
    assert done.returncode == 141
    assert all(line.startswith("no live worker") for line in done.stderr.splitlines())


def _into(out, command):
    """A command in a process of its own, whose answer goes to an open file."""
    return subprocess.run(
        [STANDFAST, *command],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
