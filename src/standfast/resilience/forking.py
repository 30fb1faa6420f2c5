"""After ``os.fork``: the child has the policies of its parent, and none of the parent's threads.

What those held is put back: a lock that one of them had taken, permits, calls under way. The
thread that forked goes on in the child, with what it holds itself.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """What must be told that it is in a child process now."""

    def __hash__(self) -> int: ...

    def _forked(self) -> None: ...


_told: WeakSet[Forked] = WeakSet()


def tell_when_forked(one: Forked) -> None:
    """Call ``one._forked()`` in the child after each fork, for as long as it lives."""
    _told.add(one)


def _tell() -> None:
    for one in list(_told):
        one._forked()  # noqa: SLF001 - it asked for it


if hasattr(os, "register_at_fork"):  # not on Windows, which knows no fork
    os.register_at_fork(after_in_child=_tell)
