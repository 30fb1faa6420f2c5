"""``standfast run`` in processes of their own: services, health, and the end of it."""

import asyncio
import errno
import http.client
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import stat
import sys
import time
from contextlib import closing, contextmanager

import pytest

from standfast.cli.health import observe, serving
from standfast.cli.running import Printable
from tests.cli.conftest import in_process

pytestmark = pytest.mark.slow  # many processes

TIRED = '''\
import os
import time

from standfast import Context, Saga, Standfast, step


class Tired(Saga[float]):
    """Blocks the event loop, which no step should do."""

    @step(no_compensation="nobody can wake up earlier")
    async def doze(self, seconds: float, ctx: Context) -> None:
        open("dozing", "w").close()
        time.sleep(seconds)


class Night:
    """A pattern with one service, which fails as long as there is a file called trouble."""

    ports = ()

    def attach(self, host):
        pass

    def add(self, part):
        raise TypeError

    async def open(self):
        pass

    async def close(self):
        pass

    def services(self, options):
        return [Watch()]


class Watch:
    name = "watch"
    exclusive = False

    async def run(self, duty):
        import asyncio

        duty.ready()
        while not duty.stopping.is_set():
            if os.path.exists("trouble"):
                raise OSError("the tower\\nis dark, " + "very " * 30 + "dark")
            await asyncio.sleep(0.02)


def make() -> Standfast:
    return Standfast(os.environ["SHOP_DATABASE"]).add(Tired(), Night())
'''


@contextmanager
def running(*arguments):
    """A `standfast run` that works; `(process, what it said until then)`."""
    process = in_process("run", "--app", *arguments)
    try:
        said = ""
        while "working; stop with" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, said
    finally:
        process.kill()
        process.communicate()


def ended(process, number=signal.SIGTERM):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == ""
    return err


def ask(said, path, method="GET", body=None):
    """The status and the JSON of a probe, of the process that said where it answers."""
    port = int(re.search(r"health: http://[^:]+:(\d+)/healthz", said)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        assert answer.headers["Allow"] == ("GET, HEAD" if answer.status == 405 else None)
        assert answer.headers["Content-Type"] == "application/json"
        body = answer.read()
        assert int(answer.headers["Content-Length"]) >= len(body)
        return answer.status, json.loads(body) if body else None
    finally:
        connection.close()


def eventually(condition, within=30):
    until = time.monotonic() + within
    while not (answer := condition()):
        assert time.monotonic() < until, "it didn't come to pass in time"
        time.sleep(0.05)
    return answer


@pytest.fixture
def night(shop, standfast):
    """The current folder, with night.py and its migrated database."""
    (shop / "night.py").write_text(TIRED)
    standfast("migrate", "--app", "night:make")
    return shop


@pytest.fixture
def shared_night(shared_shop, standfast):
    """As `night`, on each database that processes share."""
    (shared_shop / "night.py").write_text(TIRED)
    standfast("migrate", "--app", "night:make")
    return shared_shop


@pytest.mark.slow
def test_a_blocked_loop_is_not_alive(shared_night, standfast):
    options = ["--lease", "2s", "--health", "0", "--log-level", "warning", "--name", "w1"]
    with watched("night:make", *options) as (process, said):
        status, told = eventually(lambda: up(said))
        assert (status, told["ok"]) == (200, True)
        assert set(told["checks"]) == {"lease", "store", "service:sagas", "service:watch"}
        assert ask(said, "/healthz?verbose")[1]["checks"]["loop"] == {
            "ok": True,
            "reason": "the event loop runs",
        }
        assert ask(said, "/healthz", "HEAD") == (200, None)
        status, told = ask(said, "/metrics")
        assert status == 404
        assert "/healthz and /readyz" in told["error"]
        assert ask(said, "/metrics", "POST")[0] == 404
        for method in ("POST", "PUT", "DELETE"):
            status, told = ask(said, "/readyz", method, body=b"x" * 100_000)
            assert (status, list(told)) == (405, ["error"])

        standfast("sagas", "start", "tired", "--app", "night:make", "--input", "6")
        eventually((shared_night / "dozing").exists)
        status, told = eventually(lambda: not_alive(said), within=5.5)
        assert status == 503
        assert not told["ok"]
        assert "over half the lease of 2 s" in told["checks"]["loop"]["reason"]
        assert ask(said, "/healthz", "HEAD") == (503, None)
        eventually(lambda: ask(said, "/healthz")[0] == 200)
        eventually(lambda: ask(said, "/readyz")[0] == 200)
        ended(process)


@contextmanager
def watched(*arguments):
    """As `running`, of a process that says no more than where it answers."""
    process = in_process("run", "--app", *arguments)
    try:
        said = process.stderr.readline()
        assert said.startswith("health: "), said + process.stderr.read()
        yield process, said
    finally:
        process.kill()
        process.communicate()


def up(said):
    answer = ask(said, "/readyz")
    return answer if answer[0] == 200 else None


def not_alive(said):
    answer = ask(said, "/healthz")
    return answer if answer[0] != 200 else None


def test_a_service_that_fails_makes_it_unready(shared_night, standfast):
    with running("night:make", "--lease", "5s", "--health", "0", "--name", "w1") as (process, said):
        assert ask(said, "/readyz")[0] == 200
        (shared_night / "trouble").touch()
        told = eventually(lambda: unready(said))
        assert told["checks"]["service:watch"]["reason"].startswith(
            "restarting after OSError: the tower"
        )
        assert told["checks"]["service:sagas"]["ok"]
        assert ask(said, "/healthz")[0] == 200  # a restart wouldn't help

        def listed():
            (one,) = json.loads(standfast("services", "--app", "night:make", "--json").stdout)
            watch = {each["name"]: each for each in one["services"]}["watch"]
            return one if watch["error"] and watch["restarts"] else None

        one = eventually(listed)
        assert one["process"] == "w1"
        assert 0 < one["lease_expires_in"] <= 5
        assert {each["name"]: each["state"] for each in one["services"]}["sagas"] == "running"
        lines = standfast("services", "--app", "night:make").stdout.splitlines()
        assert lines[0].split() == [
            *("PROCESS", "SERVICE", "STATE", "SINCE", "RESTARTS", "LEASE", "LAST", "ERROR")
        ]
        (row,) = [line for line in lines if " watch " in line]
        assert re.search(r"OSError: the tower is dark, very (very )+ver…|OSError: .*…", row)
        (shared_night / "trouble").unlink()
        eventually(lambda: ask(said, "/readyz")[0] == 200)
        ended(process)


def unready(said):
    status, told = ask(said, "/readyz")
    return told if status == 503 else None


def test_only_some_services_are_run(shared_night, standfast):
    with running("night:make", "--only", "watch", "--health", "127.0.0.1:0") as (process, said):
        assert set(ask(said, "/readyz")[1]["checks"]) == {"lease", "store", "service:watch"}
        (one,) = json.loads(standfast("services", "--app", "night:make", "--json").stdout)
        assert [each["name"] for each in one["services"]] == ["watch"]
        (worker,) = json.loads(standfast("workers", "--app", "night:make", "--json").stdout)
        assert worker["sagas"] == []
        assert "(no sagas, only watch)" in standfast("workers", "--app", "night:make").stdout
        # Another has the others, also on SQLite.
        with running("night:make", "--only", "sagas") as (other, _):
            both = json.loads(standfast("services", "--app", "night:make", "--json").stdout)
            names = sorted(each["name"] for one in both for each in one["services"])
            assert names == ["sagas", "watch"]
            ended(other)
        ended(process, signal.SIGINT)
    told = standfast(
        "run", "--app", "night:make", "--only", "sagas", "--only", "day", code=2
    ).stderr
    assert told == (
        "error: --only 'day': there is no such service; this app has sagas, watch. For several, "
        "repeat the option: --only NAME --only NAME\n"
    )


def test_it_answers_while_it_stands_by(night, standfast):
    options = ["--only", "sagas", "--health", "0"]
    waiting = watched("night:make", *options, "--log-level", "warning")
    with running("night:make", *options) as (first, _), waiting as (second, said):
        assert ask(said, "/healthz")[0] == 200
        eventually(
            lambda: (
                "(none now: sagas is standing by)"
                in standfast("workers", "--app", "night:make").stdout
            )
        )
        ended(first)
        eventually(lambda: ask(said, "/readyz")[0] == 200)
        ended(second)


def test_a_client_that_says_nothing_keeps_nobody_up(night):
    with running("night:make", "--health", "0") as (process, said):
        port = int(re.search(r":(\d+)/healthz", said)[1])
        with socket.create_connection(("127.0.0.1", port)):
            begun = time.monotonic()
            ended(process)
            assert time.monotonic() - begun < 20


def test_a_port_that_is_taken_is_told(night, standfast):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = standfast("run", "--app", "night:make", "--health", port, code=1).stderr
    reason = os.strerror(errno.EADDRINUSE)
    assert f"--health '{port}': can't listen on 127.0.0.1 port {port} ({reason}): give" in told
    assert "give another port, or 0 for any that is free" in told


def test_it_answers_at_an_address_of_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving("[::1]:0", lambda: observe(None, 10.0)) as url:
        assert url.startswith("http://[::1]:")
        with closing(http.client.HTTPConnection("::1", int(url.rpartition(":")[2]))) as connection:
            connection.request("GET", "/healthz")
            assert "checks" in json.load(connection.getresponse())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_that_outlives_it_doesnt_keep_its_port():
    with serving("0", lambda: observe(None, 10.0)) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        child = os.fork()
        if not child:
            os._exit(int(listens(address)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert listens(address)
        socket.create_connection(address).close()
    assert not listens(address)


def listens(address: tuple[str, int]) -> bool:
    """Whether this process has a socket that listens there. Another may have the port by now."""
    for number in range(3, 1024):
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
        except OSError:  # nothing is open there
            continue
        with socket.socket(fileno=os.dup(number)) as one:
            listening = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listening and one.getsockname() == address:
                return True
    return False


def test_the_log_shows_what_a_terminal_would_obey():
    try:
        raise OSError("\x1b[31mred\x1b[0m \u202eevil")
    except OSError:
        found = sys.exc_info()
    record = logging.makeLogRecord({"msg": "a\nb %s", "args": ("\x07",), "exc_info": found})
    shown = Printable("%(message)s").format(record)
    assert shown.startswith("a\nb \\x07\nTraceback")
    assert shown.endswith("\nOSError: \\x1b[31mred\\x1b[0m \\u202eevil")


def test_uvloop_is_used_where_it_is_installed(night):
    options = ["--log-level", "debug", "--only", "watch"]
    with running("night:make", *options) as (process, said):
        assert "the event loop is uvloop's" in said
        ended(process)
    (night / "uvloop.py").write_text("raise ImportError('as if it were missing')")
    with running("night:make", *options) as (process, said):
        assert "the event loop is asyncio's own" in said
        ended(process)
    (night / "uvloop.py").write_text(
        "import asyncio\n\n\nclass Loop(asyncio.SelectorEventLoop):\n"
        "    def close(self):\n        super().close()\n        open('closed', 'w').close()\n\n\n"
        "new_event_loop = Loop\n"
    )
    with running("night:make", *options) as (process, said):
        assert "the event loop is uvloop's" in said
        ended(process)
    assert (night / "closed").exists()


def test_where_nothing_runs_it_is_told(night, standfast):
    assert "no process is registered" in standfast("services", "--app", "night:make").stderr
    assert json.loads(standfast("services", "--app", "night:make", "--json").stdout) == []


POD = "checkout-worker-production-7d9f8b6c5d-x2x4z.europe-west:1"


def test_services_and_workers_fit_80_columns(night, standfast, monkeypatch):
    (night / "trouble").touch()
    options = ["--health", "0", "--log-level", "critical", "--name", POD]
    with watched("night:make", *options) as (process, _):

        def failed():
            found = json.loads(standfast("services", "--app", "night:make", "--json").stdout)
            return any(each["error"] for one in found for each in one["services"])

        eventually(failed)
        workers = standfast("workers", "--app", "night:make").stdout
        assert max(map(len, workers.splitlines())) <= 80
        header, row = workers.splitlines()
        assert re.split("  +", header) == ["NAME", "LEASE", "SAGAS IN HAND", "CAN RUN"]
        assert row.startswith("checkout…europe-west:1  ")
        assert (
            json.loads(standfast("workers", "--app", "night:make", "--json").stdout)[0]["name"]
            == POD
        )
        (one,) = json.loads(standfast("services", "--app", "night:make", "--json").stdout)
        assert one["process"] == POD
        services = standfast("services", "--app", "night:make").stdout.splitlines()
        assert max(len(line) for line in services if " watch " not in line) <= 80
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "80")
        told = re.sub(r"\x1b\[[0-9;]*m", "", standfast("services", "--app", "night:make").stdout)
        monkeypatch.delenv("FORCE_COLOR")
        lines = told.splitlines()
        assert max(len(line.rstrip()) for line in lines) <= 80
        for whole in ("PROCESS", "SERVICE", "STATE", "SINCE", "RESTARTS", "LEASE", "running"):
            assert whole in told
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_sigterm_ends_it_while_a_saga_is_under_way(night, standfast):
    with running("night:make", "--health", "0", "--lease", "5s") as (process, _):
        standfast("sagas", "start", "tired", "--app", "night:make", "--input", "1")
        eventually((night / "dozing").exists)
        ended(process)
    (one,) = json.loads(standfast("sagas", "list", "--app", "night:make", "--json").stdout)
    assert one["status"] == "completed"


async def test_nothing_is_left_listening(night):
    with running("night:make", "--health", "0") as (process, said):
        port = int(re.search(r":(\d+)/healthz", said)[1])
        await asyncio.to_thread(ended, process)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


HARD = '''\
import asyncio
import os
import time

from standfast import Standfast
from standfast.pattern import Pattern
from standfast.ports.leases import LeaseStore


class Hard(Pattern):
    """One service that never ends by itself."""

    ports = (LeaseStore,)

    async def open(self):
        if os.environ["HARD"] == "open":
            raise ValueError("no\\nkey")

    def services(self, options):
        return [Mule()]


class Mule:
    name = "mule"
    exclusive = False

    async def run(self, duty):
        if os.environ["HARD"] == "run":
            raise TypeError("it\\nis broken")
        duty.ready()
        if os.environ["HARD"] == "block":
            await asyncio.sleep(0.5)
            time.sleep(60)
        await asyncio.sleep(600)


def make() -> Standfast:
    return Standfast(os.environ["SHOP_DATABASE"]).add(Hard())
'''


@pytest.fixture
def hard(shop, standfast, monkeypatch):
    """The current folder, with hard.py and its database; what is hard is for the test to choose."""
    (shop / "hard.py").write_text(HARD)
    monkeypatch.setenv("HARD", "stop")
    standfast("migrate", "--app", "hard:make")
    return shop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain(hard, standfast, number):
    with running("hard:make", "--drain", "1m30s") as (process, _):
        process.send_signal(number)
        told = process.stderr.readline()
        assert "draining for up to 1m30s; a second signal ends it at once" in told
        process.send_signal(number)  # as timeout(1) does: still the first
        time.sleep(1)
        assert process.poll() is None
        begun = time.monotonic()
        err = ended(process, number)
        assert time.monotonic() - begun < 10
    assert "told to stop a second time" in err
    assert "Traceback" not in err
    # It left as one should.
    assert json.loads(standfast("services", "--app", "hard:make", "--json").stdout) == []


def test_a_drain_of_no_time_cuts_off_at_once(hard):
    with running("hard:make", "--drain", "0") as (process, _):
        begun = time.monotonic()
        err = ended(process)
        assert time.monotonic() - begun < 20
    assert "isn't done in time: cut off" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_third_signal_ends_a_process_that_is_blocked(hard, monkeypatch, number):
    monkeypatch.setenv("HARD", "block")
    with running("hard:make") as (process, _):
        told = process.stderr.readline()  # of the watchdog: now it is blocked
        assert "the event loop hasn't run for" in told
        process.send_signal(number)
        while "draining" not in told:
            told = process.stderr.readline()
        time.sleep(0.5)
        process.send_signal(number)
        while "told to stop a second time" not in told:
            told = process.stderr.readline()
        assert "a third signal ends the process" in told
        process.send_signal(number)
        assert process.wait(timeout=5) == -number


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("run", "service 'mule' failed at its start: TypeError: it is broken"),
        ("open", "ValueError: no key"),
    ],
)
def test_what_fails_at_the_start_is_told_in_one_line(hard, standfast, monkeypatch, where, said):
    monkeypatch.setenv("HARD", where)
    told = standfast("run", "--app", "hard:make", "--log-level", "error", code=1).stderr
    assert told.startswith("error: ")
    assert told.endswith(f"{said} (standfast --debug … shows where)\n")
    assert told.count("\n") == 1
    told = standfast("--debug", "run", "--app", "hard:make", code=1).stderr
    assert 'hard.py", line ' in told


def test_a_service_that_lost_its_lease_is_told(night, standfast):
    with running("night:make", "--lease", "2s") as (process, _):
        with closing(sqlite3.connect("shop.db")) as connection, connection:
            connection.execute("DELETE FROM standfast_leases")

        def told():
            lines = standfast("services", "--app", "night:make").stdout.splitlines()
            return [line for line in lines if " sagas " in line and line.endswith("lost its lease")]

        eventually(told)
        ended(process)
