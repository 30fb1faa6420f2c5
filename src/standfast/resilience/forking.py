"""What must be made anew in a child process, after ``os.fork``.

The child has the memory of its parent, but only the thread that forked: a lock that another thread
held is held for ever, and who waited in the parent waits here no more.
"""

from __future__ import annotations

import os
from typing import Any, Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that a child process may go on using."""

    def after_fork(self) -> None:
        """Called in the child, before anything else."""
        ...


_living: WeakSet[Any] = WeakSet()


def survives_fork(thing: Forkable) -> None:
    """Have `thing` told of each fork, in the child, as long as it lives."""
    _living.add(thing)


def unlock(lock: Any) -> None:
    """Free a `threading.Lock` or ``RLock``, whoever held it in the parent, in its place."""
    lock._at_fork_reinit()  # noqa: SLF001 - as the standard library does it, see threading.py


def _after_fork() -> None:
    for thing in list(_living):
        thing.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
