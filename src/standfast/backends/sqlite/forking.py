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
from threading import Event
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

    def pause(self) -> Sequence[Pause]:
        """Have each thread pause after what it has to do; called by the thread that forks."""
        ...


_open: WeakSet[Any] = WeakSet()
_pauses: list[tuple[str, Pause]] = []
_unclean: set[str] = set()


def closes_at_fork(threads: Pausable) -> None:
    """Have `threads` pause at each fork, as long as they live."""
    _open.add(threads)


def check_forked(path: str) -> None:
    """Raise `ConfigurationError` in a process that has a parent's open connection to that file."""
    if os.path.realpath(path) in _unclean:
        raise ConfigurationError(
            f"{path}: a transaction was open on it here when this process was forked, so SQLite "
            "can't keep the two apart: fork outside of transactions, or start the process by spawn"
        )


def _before() -> None:
    until = time.monotonic() + WAITS
    for threads in list(_open):
        _pauses.extend((threads.path, pause) for pause in threads.pause())
    for _, pause in _pauses:
        pause.closed.wait(max(0.0, until - time.monotonic()))


def _after_in_parent() -> None:
    for _, pause in _pauses:
        pause.over.set()
    _pauses.clear()


def _after_in_child() -> None:
    _unclean.update(os.path.realpath(path) for path, pause in _pauses if not pause.closed.is_set())
    _pauses.clear()
    _open.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
