"""The demo's child processes: started, listened to, killed, and never left behind.

Each has a session of its own, so Ctrl-C reaches only the demo, which ends them in good order. And
each reads a pipe of the demo's, so that it ends even when the demo itself is killed.
"""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

READY_WITHIN = 30.0
STOPPED_WITHIN = 8.0


class ChildFailed(Exception):
    """A process didn't begin to work; the message holds the end of its log."""


class Child:
    """`python -m MODULE ARGUMENTS`. `greeting` is the first line that it printed."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.greeting = ""

    @classmethod
    async def start(cls, module: str, *arguments: str, logs: Path, stack: AsyncExitStack) -> Self:
        """Start it and wait for its greeting. Its end is left to `stack`."""
        log = logs / f"{module.rpartition('.')[2]}.log"
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        child = cls(process, log)
        stack.push_async_callback(child.stop)
        assert process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN):
                child.greeting = (await process.stdout.readline()).decode().strip()
        if not child.greeting:
            raise ChildFailed(f"{module} doesn't start:\n{log.read_text()[-2000:]}")
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def kill(self) -> None:
        """SIGKILL: no goodbye, nothing is finished or flushed."""
        self._send(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> str:
        """SIGTERM, and SIGKILL if that isn't heard; answers with what it still printed."""
        self._send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOPPED_WITHIN):
                assert self.process.stdout is not None
                printed = await self.process.stdout.read()
                await self.process.wait()
            return printed.decode()
        finally:
            self._send(signal.SIGKILL)
            await self.process.wait()

    def _send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
