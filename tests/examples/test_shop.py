"""The demo as a user runs it: its worker is killed, and nothing is lost or done twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from examples.shop.audit import QUERIES
from examples.shop.customers import wishes
from examples.shop.demo import PREFIX, _folder

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

WITHIN = 150.0


class Demo:
    """A run of the demo, and the processes that it started."""

    def __init__(self, tmp: Path, *arguments: str) -> None:
        self.children: set[int] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.shop", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def at_work(self) -> None:
        """Wait until its doors are open."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "doors open" in line:
                self.children = _children(self.process.pid)
                return
        pytest.fail(f"the demo ended: {self.process.communicate()}")

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        printed, told = self.process.communicate(timeout=WITHIN)
        assert "Traceback" not in told, told
        return self.process.returncode, printed

    def close(self) -> None:
        self.children |= _children(self.process.pid)
        for pid in (self.process.pid, *self.children):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    running: list[Demo] = []

    def run(*arguments: str) -> Demo:
        running.append(Demo(tmp_path, *arguments))
        return running[-1]

    yield run
    for one in running:
        one.close()


def _processes() -> dict[int, int]:
    """Every living process's parent."""
    listed = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _children(pid: int) -> set[int]:
    return {child for child, parent in _processes().items() if parent == pid}


def _gone(pids: set[int]) -> bool:
    end = time.monotonic() + 20
    while living := pids & set(_processes()):
        if time.monotonic() > end:
            return not living
        time.sleep(0.05)
    return True


def _sound(report: dict[str, Any], orders: int, kills: int) -> None:
    assert report["audit"] == {name: [] for name in QUERIES}
    assert report["sound"] is True
    assert len(report["kills"]) == kills
    ends = report["outcomes"]
    assert ends["parked"] == 0
    assert ends["compensated"] > 0
    assert ends["completed"] > 0
    assert sum(ends.values()) == orders
    met = report["requests"]  # it wasn't a quiet run
    assert all(met.get(kind, 0) > 0 for kind in ("error", "lost", "slow", "late", "duplicate"))


def _finished(metrics: dict[str, float]) -> float:
    return sum(n for name, n in metrics.items() if name.startswith("standfast.saga.finished"))


def test_on_sqlite(demo: Callable[..., Demo], tmp_path: Path) -> None:
    ledgers = tmp_path / "ledgers"
    options = ("--orders", "60", "--kills", "2", "--seed", "4", "--json", "--metrics")
    code, printed = demo(*options, "--keep", str(ledgers)).ended()
    assert code == 0
    report = json.loads(printed)
    _sound(report, 60, 2)
    assert report["database"] == "sqlite"
    metrics = report["metrics"]
    assert metrics["standfast.saga.recovered"] > 0
    workers = [json.loads(file.read_text()) for file in ledgers.glob("metrics-*.json")]
    assert len(workers) == 3
    # All workers together. Each kill makes the last moment before it forgotten.
    assert _finished(metrics) == sum(map(_finished, workers)) <= 60
    assert sum(_finished(worker) > 0 for worker in workers) > 1

    # The ledgers of a real run, falsified: the audit sees it.
    with sqlite3.connect(ledgers / "payments.db") as ledger:
        ledger.execute(
            "INSERT INTO payments (branch, order_id, kind, cents)"
            " SELECT branch, order_id, kind, cents FROM payments ORDER BY number LIMIT 1"
        )
    ledger.close()
    again = subprocess.run(
        [sys.executable, "-m", "examples.shop.audit", str(ledgers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 1
    assert "double-charged               1  order-" in again.stdout


async def test_on_postgres(demo: Callable[..., Demo], postgres_dsn: str) -> None:
    options = ("--orders", "60", "--kills", "2", "--seed", "5", "--json")
    code, printed = demo(*options, "--database", postgres_dsn).ended()
    assert code == 0
    report = json.loads(printed)
    _sound(report, 60, 2)
    assert report["database"] == "postgresql"

    connection = await asyncpg.connect(postgres_dsn)
    try:
        left = "SELECT datname FROM pg_database WHERE datname LIKE 'standfast_shop_%'"
        assert await connection.fetch(left) == []
    finally:
        await connection.close()


def test_what_a_reader_sees(demo: Callable[..., Demo]) -> None:
    code, printed = demo("--orders", "10", "--kills", "1", "--seed", "6").ended()
    assert code == 0
    assert "SIGKILL 1: the worker, process" in printed
    assert "10 orders, the worker killed 1 time" in " ".join(printed.split())
    assert all(name in printed for name in QUERIES)
    assert "Sound." in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(
    demo: Callable[..., Demo], tmp_path: Path, number: signal.Signals
) -> None:
    run = demo("--seed", "7")
    run.at_work()
    assert len(run.children) == 5
    run.process.send_signal(number)
    run.process.send_signal(number)  # a second Ctrl-C doesn't keep it from cleaning up
    code, _ = run.ended()
    assert code == 130
    assert _gone(run.children)
    assert list(tmp_path.iterdir()) == []


def test_killed_it_leaves_no_process_and_its_folder_to_the_next(
    demo: Callable[..., Demo], tmp_path: Path
) -> None:
    run = demo("--seed", "8")
    run.at_work()
    assert len(run.children) == 5
    run.process.kill()
    run.process.wait()
    assert _gone(run.children)
    assert len(list(tmp_path.iterdir())) == 1
    assert demo("--orders", "1", "--kills", "0", "--seed", "1").ended()[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_only_folders_of_dead_runs_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, begun = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}begun"
    for folder in (left, begun):
        folder.mkdir()
    (left / "stock.db").touch()
    with _folder(None) as first:
        assert not left.exists()
        (first / "stock.db").touch()
        with _folder(None) as second:
            assert {first, second, begun} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == [begun]


def test_the_seed_decides_what_is_ordered() -> None:
    assert wishes(50, 1) == wishes(50, 1)
    assert wishes(50, 1) != wishes(50, 2)
