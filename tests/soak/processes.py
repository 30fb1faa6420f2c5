"""Child processes, each with a group of its own: all end with this process, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from tests.soak.machine import ROOT

# When its input ends, this process has gone, and those who are left are ended by their groups.
_LEASH = """
import os, signal, sys
alive = set()
for line in sys.stdin:
    group = int(line[1:])
    (alive.add if line[0] == "+" else alive.discard)(group)
for group in alive:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class Leash:
    """Ends the groups of processes that it was told of when this process goes, even by SIGKILL."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LEASH],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def hold(self, group: int) -> None:
        """This group is alive."""
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """This group has ended."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def end_group(group: int) -> None:
    """End all processes of a group at once."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@asynccontextmanager
async def started(
    leash: Leash,
    command: Sequence[str],
    *,
    log: Path,
    output: int | None = None,
    input: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child process in the repository's folder, which ends with the block at the latest.

    Standard error goes to `log`, and so does standard output unless `output` says where to.
    """
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=input,
            stdout=file if output is None else output,
            stderr=file,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            limit=2**24,
        )
    leash.hold(process.pid)
    try:
        yield process
    finally:
        # Whoever it left behind goes too, so the group is ended even where it ended by itself.
        end_group(process.pid)
        await process.wait()
        leash.release(process.pid)


async def run_to_end(
    leash: Leash, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> int:
    """Run a command to its end; its exit code."""
    async with started(leash, command, log=log, env=env) as process:
        return await process.wait()


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, to be told with a fault."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
