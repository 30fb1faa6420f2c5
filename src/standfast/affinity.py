"""Where something may be used that was opened: in its process and its event loop, nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from asyncio.events import _get_running_loop  # what `get_running_loop` is made of, without a raise
from collections.abc import Callable
from typing import NoReturn

from standfast.errors import ConfigurationError

running_loop = _get_running_loop
"""The event loop that runs here; None where none runs, as in a process that was forked by one."""

BLOCKING_THREAD = "standfast-blocking"
"""The name of the threads in which ``app.blocking`` opens apps."""


class Affinity:
    """The process and the event loop in which `what` (named for messages) is opened just now.

    A forked process has the sockets, files and locks of its parent, but neither its threads nor its
    loop; another thread's loop can't wake this one's. What is used there all the same would hang,
    or break what its owner has. So whoever uses it asks first, which costs next to nothing::

        if running_loop() is not affinity.loop:
            affinity.refuse()
    """

    __slots__ = ("_pid", "_thread", "_what", "loop")

    def __init__(self, what: str) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._what = what
        self._pid = os.getpid()
        self._thread = threading.current_thread().name

    @property
    def inherited(self) -> bool:
        """Whether this is another process, forked from that one."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raise `ConfigurationError` in any other process, and in any other event loop."""
        if running_loop() is not self.loop:
            self.refuse()

    def hand_over(self, act: Callable[[], None]) -> None:
        """Call `act` in that event loop: at once if this is it, soon if it is another thread's.

        In a forked process, or when that loop is closed, nobody is there to hear of it.
        """
        if running_loop() is self.loop:
            act()
        elif not self.inherited:
            with contextlib.suppress(RuntimeError):  # closed
                self.loop.call_soon_threadsafe(act)

    def refuse(self) -> NoReturn:
        """Raise the `ConfigurationError` that says where it belongs, and what to do."""
        if self.inherited:
            raise ConfigurationError(
                f"{self._what} was opened in process {self._pid}, and this is process "
                f"{os.getpid()}, forked from it: make and open one of its own here, or start the "
                "process by spawn"
            )
        if self._thread == BLOCKING_THREAD:  # which its user has never made
            raise ConfigurationError(
                f"app.blocking opened {self._what}, in a thread of its own: use app.blocking in "
                "sync code, as in asyncio.to_thread(app.blocking.start, …), or call "
                "app.blocking.close() before it is opened in an event loop of yours"
            )
        raise ConfigurationError(
            f"{self._what} was opened in another event loop (of thread {self._thread!r}): use it "
            "there, by asyncio.run_coroutine_threadsafe from other threads, or make and open one "
            "of its own here"
        )


class LoopLock:
    """A lock for the tasks of one event loop: of that whose task comes first, until all have left.

    Who comes from another loop meanwhile, or from a forked process, is refused with a
    `ConfigurationError` that names `what`: it could neither wait here nor be woken up.
    """

    __slots__ = ("_held", "_users", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._held: dict[str, tuple[Affinity, asyncio.Lock]] = {}
        self._users = 0  # counted by the loop that has it, so by one thread at a time

    async def __aenter__(self) -> None:
        # One, whoever comes first of several threads.
        place, lock = self._held.setdefault("", (Affinity(self._what), asyncio.Lock()))
        place.check()
        self._users += 1
        try:
            await lock.acquire()
        except BaseException:  # cancelled
            self.leave()
            raise

    async def __aexit__(self, *raised: object) -> None:
        self._held[""][1].release()
        self.leave()

    def stay(self) -> Callable[[], None]:
        """Called by who has it: other loops are refused until what this answers is called too."""
        self._users += 1
        return self.leave

    def leave(self) -> None:
        """One fewer wants it there. The last makes room for other loops."""
        self._users -= 1
        if not self._users:
            self._held.clear()


def not_open() -> ConfigurationError:
    """The error for what needs an open app."""
    return ConfigurationError(
        "the app isn't open: use `async with app:` or app.running(), or app.blocking in sync code"
    )
