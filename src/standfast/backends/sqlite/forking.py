"""A fork finds no connection open: the threads close theirs for its moment, and open them again.

SQLite counts in memory which locks its process has. A child would have the counts of its parent
without the locks: a connection of its own to the same file would rely on them, hold none, and lose
its log to whoever thinks that nobody is there any more. What can't be closed in time, for a
transaction is open on it say, goes on undisturbed; the child then may not open the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from threading import Event, Lock
from typing import Any, Protocol
from weakref import WeakSet

from standfast.errors import ConfigurationError

WAITS = 1.0
"""Seconds for which a fork waits for the work that connections are at."""


class Pause:
    """For one thread: it sets `closed` when it has no connection, and waits for `over`."""

    def __init__(self) -> None:
        self.closed = Event()
        self.over = Event()


class Pausable(Protocol):
    """Threads with connections to one file."""

    path: str
    pid: int
    """The process that opened them."""

    def pause(self) -> Sequence[Pause]:
        """Have each thread pause after what it has to do; called by the thread that forks."""
        ...


_connected: WeakSet[Any] = WeakSet()
_forking = Lock()
_pauses: list[tuple[str, Pause]] = []
_unclean: set[str] = set()


def connected(threads: Pausable) -> None:
    """Have `threads` pause at each fork, until they are `disconnected`."""
    _connected.add(threads)


def disconnected(threads: Pausable) -> None:
    """They have no connections any more."""
    _connected.discard(threads)


def check_forked(path: str) -> None:
    """Raise `ConfigurationError` in a process that has a parent's open connection to that file."""
    # Who forks in C may have called none of the functions below.
    unclean = _unclean | {
        os.path.realpath(one.path) for one in _connected if one.pid != os.getpid()
    }
    if os.path.realpath(path) in unclean:
        raise ConfigurationError(
            f"{path} was open here when this process was forked, in a transaction or without "
            "Python's own os.fork, and SQLite can't keep the two processes apart: fork outside of "
            "transactions, open it after the fork only (lazy-apps of uWSGI), or start the process "
            "by spawn"
        )


def _before() -> None:
    _forking.acquire()
    until = time.monotonic() + WAITS
    for threads in list(_connected):
        _pauses.extend((threads.path, pause) for pause in threads.pause())
    for _, pause in _pauses:
        pause.closed.wait(max(0.0, until - time.monotonic()))


def _after_in_parent() -> None:
    for _, pause in _pauses:
        pause.over.set()
    _pauses.clear()
    _forking.release()


def _after_in_child() -> None:
    if _forking.locked():
        _unclean.update(os.path.realpath(path) for path, one in _pauses if not one.closed.is_set())
        _pauses.clear()
        _connected.clear()
        _forking.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
