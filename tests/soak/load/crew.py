"""The processes of a trial: workers and the starter. One that ends is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.processes import Leash, started, tail

STOPS_WITHIN = 60.0
TOO_MANY = 10


@dataclass(eq=False)
class Member:
    """One process. `leaving`: we ended it, or asked it to end."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    ready: bool = False
    leaving: bool = False
    frozen: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has gone."""
        if self.process.returncode is None:
            os.kill(self.process.pid, number)


class Crew:
    """As many processes of one command as there should be; each is given a name of its own.

    `{name}` in the command is filled in. One that ends without being told to is a fault.
    """

    def __init__(
        self, leash: Leash, name: str, command: Sequence[str], size: int, logs: Path
    ) -> None:
        self.members: list[Member] = []
        self.faults: list[str] = []
        self._leash = leash
        self._name = name
        self._command = command
        self._size = size
        self._logs = logs
        self._hired = 0
        self._closing = False
        self._lives: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Hire all of them."""
        for _ in range(self._size):
            self._hire()

    def pick(self, draw: float) -> Member | None:
        """One of those that work, or of all if none says that it does; None if all are frozen."""
        free = [one for one in self.members if not one.frozen and not one.leaving]
        free = [one for one in free if one.ready] or free
        return free[int(draw * len(free))] if free else None

    def kill(self, member: Member) -> None:
        """End it by SIGKILL; another takes its place."""
        member.leaving = True
        member.send(signal.SIGKILL)

    def ask_to_end(self, member: Member) -> None:
        """Let it drain; another takes its place."""
        member.leaving = True
        member.send(signal.SIGTERM)

    async def freeze(self, member: Member, seconds: float) -> None:
        """Stop it for a while, and let it wake up without knowing."""
        member.frozen = True
        member.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            member.send(signal.SIGCONT)
            member.frozen = False

    async def finish(self, seconds: float = STOPS_WITHIN) -> bool:
        """Ask all to end, and wait for it; whether they did."""
        self._closing = True
        staying = list(self.members)
        for member in staying:
            self.ask_to_end(member)
        waiting = [asyncio.create_task(one.gone.wait()) for one in staying]
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
        for one in waiting:
            one.cancel()
        return all(one.gone.is_set() for one in staying)

    async def close(self) -> None:
        """End whoever is left."""
        self._closing = True
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _hire(self) -> None:
        self._hired += 1
        life = asyncio.create_task(self._live(f"{self._name}-{self._hired}"))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _live(self, name: str) -> None:
        log = self._logs / f"{name}.log"
        command = [sys.executable, "-m", *(part.replace("{name}", name) for part in self._command)]
        pipe = asyncio.subprocess.PIPE
        async with started(self._leash, command, log=log, output=pipe) as process:
            member = Member(name, process, log)
            self.members.append(member)
            try:
                assert process.stdout is not None
                async for line in process.stdout:
                    member.ready = member.ready or line == b"ready\n"
                code = await process.wait()
            finally:
                self.members.remove(member)
                member.gone.set()
        if not member.leaving or code not in (0, -signal.SIGKILL):
            what = "was to drain, but ended" if member.leaving else "ended by itself"
            self.faults.append(f"{name} {what} with code {code}:\n{tail(log)}")
        if not self._closing and len(self.faults) < TOO_MANY:
            self._hire()
