"""A Django project in a folder of its own, on each database and driver."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).with_name("project")
Manage = Callable[..., str]


PSYCOPG = pytest.param("psycopg", marks=pytest.mark.server)
PSYCOPG2 = pytest.param("psycopg2", marks=pytest.mark.server)


@pytest.fixture(params=["sqlite", PSYCOPG])
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which database and driver; the project's settings take them from the environment."""
    url = "sqlite:"
    if request.param.startswith("psycopg"):
        url = request.getfixturevalue("postgres_dsn")
        monkeypatch.setenv("SHOP_DRIVER", request.param)
    elif request.param == "in memory":
        url = "sqlite:in-memory"
    monkeypatch.setenv("SHOP_DATABASE", url)
    return request.param


@pytest.fixture
def project(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, which is the current one."""
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("STANDFAST_APP", raising=False)
    return folder


@pytest.fixture
def manage(project: Path) -> Manage:
    """``manage("migrate", …)``: manage.py in a process of its own; what it prints."""

    def run(*arguments: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "manage.py", *arguments],
            cwd=project,
            env=dict(os.environ, **environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=150,
        )
        assert done.returncode == code, done.stdout
        return done.stdout

    return run
