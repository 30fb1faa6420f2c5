"""A newer Debian in a folder, by debootstrap, from the mirror that this machine uses anyway."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.soak.machine import ROOT, program
from tests.soak.part import CannotRun
from tests.soak.processes import Leash, run_to_end, tail

# Mounts end with the command, since they are made in a namespace of its own.
_INSIDE = """
set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
exec chroot "$0" "$@"
"""
_NOT_COPIED = {".cache", ".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
_NOT_COPIED |= {".venv", "__pycache__", "site"}
_PASSED_ON = ("PIP_", "UV_", "SSL_", "HTTP_", "HTTPS_", "NO_PROXY")


class Debian:
    """One suite in a folder. Commands in it see the network and the processes of this machine."""

    def __init__(self, suite: str, folder: Path, logs: Path, leash: Leash) -> None:
        self.suite = suite
        self.folder = folder
        self._logs = logs
        self._leash = leash

    async def prepare(self, *packages: str) -> None:
        """Make it, unless it is there, and install packages. Raises `CannotRun`."""
        if os.geteuid() != 0:
            raise CannotRun("it needs root, to mount and to change the root folder: run it as root")
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
            raise CannotRun("this machine lets even root mount nothing (`unshare -m` fails)")
        if not (self.folder / "usr/bin/apt-get").exists():
            await self._bootstrap()
        self._give_files()
        await self.must("apt.log", "apt-get", "-qq", "update")
        install = ("apt-get", "-y", "-qq", "install", "--no-install-recommends")
        await self.must("apt.log", *install, *packages)
        self._give_files()  # the package of certificates has written its own in their place

    async def run(self, log: str, *command: str, env: Mapping[str, str] | None = None) -> int:
        """Run a command in it; its exit code."""
        # What the command may see of our own environment is said in full.
        seen = ("env", "-i", *self._environment(env or {}))
        inside = ("unshare", "-m", *seen, "sh", "-c", _INSIDE, str(self.folder))
        return await run_to_end(self._leash, [*inside, *command], log=self._logs / log)

    async def must(self, log: str, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Run a command that has to succeed. Raises `CannotRun`."""
        if await self.run(log, *command, env=env):
            raise CannotRun(f"{' '.join(command)} failed:\n{tail(self._logs / log)}")

    def copy_project(self, place: str) -> None:
        """Copy this project there, in place of an older copy; what that had installed stays."""
        target = self.folder / place.lstrip("/")
        target.mkdir(exist_ok=True)
        for old in target.iterdir():
            if old.name not in (".cache", ".venv"):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        shutil.copytree(
            ROOT, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NOT_COPIED)
        )

    async def _bootstrap(self) -> None:
        debootstrap = await program("debootstrap", "debootstrap")
        # Only a whole one gets the name, so that one that was cut off is made anew.
        new = self.folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        command = [debootstrap, "--variant=minbase", self.suite, str(new), _mirror()]
        log = self._logs / "debootstrap.log"
        if await run_to_end(self._leash, command, log=log):
            raise CannotRun(f"debootstrap failed:\n{tail(log)}")
        new.rename(self.folder)

    def _give_files(self) -> None:
        silent = self.folder / "usr/sbin/policy-rc.d"
        silent.write_text("#!/bin/sh\nexit 101\n")  # no service starts by itself
        silent.chmod(0o755)
        certificates = ["/etc/ssl/certs/ca-certificates.crt", os.environ.get("SSL_CERT_FILE", "")]
        for name in (
            "/etc/resolv.conf",
            "/etc/pip.conf",
            *certificates,
            os.environ.get("PIP_CERT", ""),
        ):
            if name and Path(name).is_file():
                inside = self.folder / name.lstrip("/")
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.unlink(missing_ok=True)
                shutil.copyfile(name, inside)

    def _environment(self, more: Mapping[str, str]) -> list[str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
        own["DEBIAN_FRONTEND"] = "noninteractive"
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.upper().startswith(_PASSED_ON) and name != "PIP_FIND_LINKS"
        }
        return [f"{name}={value}" for name, value in {**passed, **own, **more}.items()]


def _mirror() -> str:
    """The address from which this machine has most of its packages."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    sites = said.stdout.split()
    if not sites:
        raise CannotRun("apt knows no mirror on this machine: it has to be a Debian with sources")
    return max(sites, key=sites.count)
