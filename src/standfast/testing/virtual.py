"""Virtual time: an event loop whose clock jumps to the next timer instead of waiting for it.

Whatever asyncio offers inside one process works: sleeps, timeouts, tasks, events, queues. Real I/O
(sockets, subprocesses, threads, ``time.sleep``) is refused with `RealIO`, because it would wait for
real time, and end differently each time.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, SupportsIndex

from standfast.errors import ConfigurationError

EPOCH = 946_684_800.0
"""When virtual time begins: 2000-01-01 00:00 UTC, in seconds since the Unix epoch."""


class RealIO(ConfigurationError):
    """Code that runs in virtual time tried to touch the real world."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time. `elapsed` is in seconds; `turns` counts its iterations.

    `run_until_quiet` returns when there is nothing left to do and no timer to wait for. `refused`
    is the first `RealIO` that was raised, for whoever would swallow it. A timer further away than
    `horizon` seconds counts as none: it is there for the sake of form.
    """

    def __init__(self, *, max_turns: int = 100_000, horizon: float = math.inf) -> None:
        super().__init__()
        self.horizon: float = horizon
        self._selector = _Jump(self)
        self.elapsed: float = 0.0
        self.turns: int = 0
        self.max_turns: int = max_turns
        self.refused: RealIO | None = None
        self.when_idle: Callable[[], None] = _nothing
        """Called whenever nothing can go on before time passes; it may begin something."""

    @property
    def is_runaway(self) -> bool:
        """Whether it was stopped because it would never have come to rest."""
        return self.turns > self.max_turns

    @property
    def waits_for(self) -> float:
        """Seconds to the next timer, infinite if there is none."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return timers[0].when() - self.elapsed if timers else math.inf

    @property
    def has_more(self) -> bool:
        """Whether something can go on just now."""
        return bool(self._ready)  # type: ignore[attr-defined]

    def time(self) -> float:
        """Seconds since the loop was made, virtually."""
        return self.elapsed

    def jump(self, seconds: float) -> None:
        """Let time pass at once."""
        self.elapsed += seconds
        # After decades a float is coarser than the loop's own tolerance, within which a timer that
        # is due now counts as past.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self.elapsed))

    def run_until_quiet(self) -> None:
        """Run until nothing is left to do."""
        self.run_forever()

    def end(self) -> None:
        """Cancel all that is left, and close."""
        for _ in range(100):  # a task may take its cancellation badly, but not for ever
            left = asyncio.all_tasks(self)
            if not left:
                break
            for task in left:
                task.cancel()
            self.turns = 0
            self.run_until_quiet()
        self.close()

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nothing to wake: no thread waits in a system call."""

    def refuse(self, what: str) -> NoReturn:
        """Raise `RealIO`, and remember it."""
        error = RealIO(
            f"{what} in virtual time: give the saga a fake instead (standfast.testing.Ledger, or "
            "a class of your own that computes and uses asyncio.sleep)"
        )
        self.refused = self.refused or error
        raise error

    def run_in_executor(  # type: ignore[override]  # it never returns
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        """Refused."""
        self.refuse(f"a thread was asked to run {getattr(func, '__qualname__', func)!r}")

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Refused."""
        self.refuse(f"the address of {host!r} was looked up")

    async def create_connection(self, *args: Any, **options: Any) -> Any:
        """Refused."""
        self.refuse("a network connection was opened")

    async def create_server(self, *args: Any, **options: Any) -> Any:
        """Refused."""
        self.refuse("a network server was opened")

    async def subprocess_exec(self, *args: Any, **options: Any) -> Any:
        """Refused."""
        self.refuse("a process was started")

    async def subprocess_shell(self, *args: Any, **options: Any) -> Any:
        """Refused."""
        self.refuse("a process was started")


class _Jump:
    """In place of a selector: instead of waiting, it moves the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Let `timeout` seconds pass at once; with None nothing can ever happen: stop."""
        loop = self._loop
        loop.turns += 1
        if timeout is None or timeout > 0:
            loop.when_idle()
            if loop.has_more:
                return []
        if timeout is None or loop.is_runaway or (timeout > 0 and loop.waits_for > loop.horizon):
            loop.stop()
        elif timeout > 0:
            # The loop never asks for more than a day at once; a sleep of years needn't take turns.
            loop.jump(max(timeout, loop.waits_for))
        return []


class VirtualClock:
    """A `Clock` on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop

    def monotonic(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.loop.elapsed

    def now(self) -> float:
        """Virtual seconds since the Unix epoch."""
        return EPOCH + self.loop.elapsed

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of virtual time."""
        await asyncio.sleep(max(0.0, seconds))


def _nothing() -> None:
    pass


_AUDITED = {
    "socket.connect": "a socket was connected",
    "socket.bind": "a socket was bound",
    "socket.getaddrinfo": "an address was looked up",
    "subprocess.Popen": "a process was started",
}
_guarded: list[VirtualLoop] = []
_hooked = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _guarded and event in _AUDITED and _is_here():
        _guarded[-1].refuse(f"{_AUDITED[event]} ({args[-1]!r})")


def _is_here() -> bool:
    """Whether this thread is the one that runs the guarded loop."""
    try:
        return asyncio.get_running_loop() is _guarded[-1]
    except RuntimeError:
        return False


@contextmanager
def refusing_real_io(loop: VirtualLoop) -> Iterator[None]:
    """While the block runs, code in `loop` that connects, spawns or sleeps for real is refused."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_audit)  # it can't be taken away again, but is idle outside this block
        _hooked = True
    real_sleep = time.sleep

    def sleep(seconds: float | SupportsIndex, /) -> None:
        if _is_here():
            loop.refuse(f"time.sleep({seconds!r}) was called: use asyncio.sleep")
        real_sleep(seconds)

    _guarded.append(loop)
    time.sleep = sleep
    try:
        yield
    finally:
        time.sleep = real_sleep
        _guarded.remove(loop)
