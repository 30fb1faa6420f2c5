"""How processes with sync code end, are interrupted and fork; each in a real process."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # many processes

# All that Python can say of what wasn't closed or awaited.
COMMAND = (sys.executable, "-W", "error", "-m", "tests.blocking.programs")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def run(name: str, url: str, *, code: int = 0) -> dict[str, Any]:
    """What a program says, which may say nothing else."""
    done = subprocess.run(
        [*COMMAND, name, url], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_one_that_closes_nothing_ends_in_silence(url: str) -> None:
    assert run("just_ends", url) == {"created": True}


def test_one_that_ends_in_the_middle_ends(url: str) -> None:
    assert run("ends_in_the_middle", url) == {"blocks": 2}


def test_threads_that_are_no_daemons_work_on_when_the_main_thread_has_ended(url: str) -> None:
    assert run("main_ends_before_its_threads", url) == {
        "seen": ["True", "True", "True", "True", "committed", "lamp"]
    }


def test_the_first_use_may_come_when_the_main_thread_has_ended(url: str) -> None:
    assert run("uses_it_first_in_a_thread_that_outlives_main", url) == {"created": True}


def test_a_use_at_the_very_end_is_told(url: str) -> None:
    told = run("uses_it_when_all_has_ended", url)["told"]
    assert "at the end of the process" in told
    assert "atexit" in told


def test_one_that_fails_ends_with_its_code(url: str) -> None:
    assert run("fails", url, code=3) == {"created": True}


def test_an_interrupt_ends_the_call_and_what_it_did(url: str) -> None:
    with subprocess.Popen(
        [*COMMAND, "is_interrupted", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said: dict[str, Any] = {}
        for line in process.stdout:
            if "waits" in json.loads(line):
                process.send_signal(signal.SIGINT)
            else:
                said = json.loads(line)
        assert said == {
            "interrupted": True,
            "in flight": 0,
            "interrupted again": True,
            "rolled back": True,
            "in flight then": 0,
        }
        told = process.stderr.read()
        assert process.wait(60) == -signal.SIGINT
        assert told.rstrip().endswith("KeyboardInterrupt")
        assert "Traceback" not in told.partition("Traceback")[2]


@needs_fork
@pytest.mark.parametrize(("name", "count"), [("forks_before_use", 60), ("forks_after_use", 80)])
def test_children_start_each_their_own(url: str, name: str, count: int) -> None:
    assert run(name, url) == {"there": count, "same": True, "different": count}


@needs_fork
def test_a_child_has_connections_of_its_own_and_the_parent_works_on(url: str) -> None:
    assert run("forks_while_it_works", url) == {
        "result": "tea?: yes",
        "after": "after",
        "own": True,
    }


@needs_fork
def test_a_fork_in_a_transaction(url: str) -> None:
    """SQLite can't tell the two processes apart then, and says so in the child."""
    said = run("forks_in_a_transaction", url)
    assert said["parent"] != ""
    if url.startswith("sqlite"):
        assert "outside of transactions" in said["childs"]
    else:
        assert said["childs"] == 20


@needs_fork
def test_a_child_that_never_uses_it_is_let_alone(url: str) -> None:
    assert run("forks_a_child_that_never_uses_it", url) == {"quiet": "nothing", "after": 20}


@needs_fork
def test_a_fork_of_which_python_does_not_know(url: str) -> None:
    """Which leaves the connections of SQLite open, so that the child may not have its own."""
    said = run("forks_in_c", url)
    assert said["after"] == 20
    if url.startswith("sqlite"):
        assert "os.fork" in said["childs"]
    else:
        assert said["childs"] == 20
