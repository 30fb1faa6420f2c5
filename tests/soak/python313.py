"""Part `python313`: the test suite on Python 3.13, in a Debian 13 that lies in a folder."""

from __future__ import annotations

from tests.soak.debian import Debian
from tests.soak.machine import CACHE, log_folder
from tests.soak.part import Findings, Setting
from tests.soak.postgres import findings_of
from tests.soak.processes import Leash

PLACE = "/standfast"
PACKAGES = ("ca-certificates", "python3", "python3-venv", "postgresql", "redis-server", "git")


async def play(setting: Setting) -> Findings:
    """Make the Debian or take the one there is, copy the project into it, run the tests there."""
    logs = log_folder("python313")
    env = {"CI": "true"}
    with Leash() as leash:
        debian = Debian("trixie", CACHE / "trixie", logs, leash)
        setting.show.say("  Debian 13 with Python 3.13, PostgreSQL and Redis …")
        await debian.prepare(*PACKAGES)
        debian.copy_project(PLACE)
        setting.show.say("  the packages of the project …")
        await debian.must("sync.log", *_in_project("scripts/sync dev"), env=env)
        setting.show.say("  the tests …")
        # The documentation is checked by the suite; it is the same for every Python.
        tests = "-q --numprocesses 2 --dist loadgroup --ignore tests/docs -p no:cacheprovider"
        command = f"exec .venv/bin/python -m pytest {tests}"
        code = await debian.run("pytest.log", *_in_project(command), env=env)
    return findings_of(code, logs / "pytest.log")


def _in_project(command: str) -> tuple[str, ...]:
    return ("sh", "-c", f"cd {PLACE} && {command}")
