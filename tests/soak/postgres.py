"""Parts `postgres17` and `postgres18`: the tests of PostgreSQL against other versions of it.

The servers come from PyPI. What the tests kill and restart is of that version as well.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import Postgres
from tests.soak.machine import log_folder, readable_by_all, scratch, wheel
from tests.soak.part import CannotRun, Findings, Setting
from tests.soak.processes import Leash, run_to_end, tail

FOLDERS = ("tests/backends", "tests/saga/engine", "tests/crash", "tests/servers", "tests/faults")
# To the other backends the version of PostgreSQL makes no difference.
ONLY = "not sqlite and not memory and not redis"
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|errors|xfailed|xpassed)\b")


def of(version: int, package: str) -> Callable[[Setting], Coroutine[None, None, Findings]]:
    """The part for one version, whose programs lie in a package of PyPI."""

    async def play(setting: Setting) -> Findings:
        logs = log_folder(f"postgres{version}")
        with programs(await wheel(package)) as folder, Postgres(programs=folder) as server:
            setting.show.say(f"  {_version(folder)}")
            env = {
                "STANDFAST_TEST_POSTGRES": server.dsn,
                "STANDFAST_TEST_POSTGRES_BIN": str(folder),
            }
            return await pytest([*FOLDERS, "-k", ONLY], logs / "pytest.log", env)

    return play


@contextmanager
def programs(package: Path) -> Iterator[Path]:
    """The folder of the programs, where any user can reach it: PostgreSQL refuses root."""
    found = list(package.glob("*/pginstall/bin/postgres"))
    if not found:
        raise CannotRun(f"{package} holds no PostgreSQL for this kind of machine")
    folder = found[0].parent
    if readable_by_all(folder):
        yield folder
        return
    with scratch() as open_to_all:
        open_to_all.chmod(0o755)
        shutil.copytree(folder.parent, open_to_all / "pginstall")
        yield open_to_all / "pginstall" / "bin"


def _version(folder: Path) -> str:
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, check=True)
    return said.stdout.decode().strip()


async def pytest(arguments: Sequence[str], log: Path, env: dict[str, str]) -> Findings:
    """Run tests; what they counted. What fails is a fault, and so is a missing server."""
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "2", "--dist", "loadgroup"]
    with Leash() as leash:
        code = await run_to_end(leash, [*command, *arguments], log=log, env={"CI": "true", **env})
    return findings_of(code, log)


def findings_of(code: int, log: Path) -> Findings:
    """What pytest said at its end."""
    text = log.read_text(errors="replace")
    counts = count(text)
    faults = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if code and not faults:
        faults.append(f"pytest ended with code {code}:\n{tail(log)}")
    if not counts.get("passed"):
        faults.append(f"no test passed: see {log}")
    short = ", ".join(f"{number:,} {what}" for what, number in counts.items())
    return Findings(dict(counts), faults, short)


def count(text: str) -> dict[str, int]:
    """How many tests passed, failed and so on, from the last line that says so."""
    for line in reversed(text.splitlines()):
        if found := _COUNT.findall(line):
            return {what: int(number) for number, what in found}
    return {}
